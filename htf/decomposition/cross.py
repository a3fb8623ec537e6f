"""HT tensors from a function of the indices, by cross approximation on a dimension tree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from htf._checks import check_dims, positive
from htf._repr import brief
from htf.decomposition._black_box import BlackBox, IndexFunction, LimitReachedError
from htf.decomposition._pivots import Search
from htf.tensors._backend import Array, asarray, backend_of, check_alike
from htf.tensors._linalg import prod
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import as_tree, check_tolerance
from htf.tree import DimensionTree

# Sweeps in which the error may fail to halve before the search is given up.
_PATIENCE = 4
# Evaluations after which ranks that grow are no reason to go on, where no limit was given.
_ENOUGH = 1_000_000
# Entries of a tensor that are all read, where no limit was given and some of them did not tell enough.
_MOST_READ = 2**20


@dataclass(frozen=True)
class CrossInfo:
    """How a cross approximation went.

    Attributes
    ----------
    evaluations : int
        Index rows that the function was given, repeated ones counted again.
    error : float
        Estimated relative error in the Frobenius norm, of the returned tensor: on random entries, and on those of the
        last pivot blocks, whichever is larger.
    sweeps : int
        Sweeps over the tree, up and down.
    converged : bool
        Whether the error is within the tolerance.
    """

    evaluations: int
    error: float
    sweeps: int
    converged: bool

    __repr__ = brief


def cross_approximation(
    function: IndexFunction,
    shape: Sequence[int],
    tree: DimensionTree | None = None,
    tol: float = 1e-8,
    max_rank: int | None = None,
    max_evaluations: int | None = None,
    max_sweeps: int = 40,
    initial_rank: int = 5,
    n_test: int | None = None,
    random_state: Any = None,
    like: Array | None = None,
    start: Any = None,
    progress: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Approximate a tensor that is given as a function of its indices, from a few of its entries.

    Parameters
    ----------
    function : callable
        Takes an integer NumPy array (batch, order), one index tuple per row, and returns the (batch,) real values
        there, as an array of any backend.
    shape : sequence of int
        Dimension of each mode.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    tol : float
        Relative error in the Frobenius norm at which to stop.
    max_rank : int, optional
        Largest rank of a node.
    max_evaluations : int, optional
        Stop before the function is evaluated at more index tuples than this.
    max_sweeps : int
        Stop after as many sweeps.
    initial_rank : int
        Random columns with which the first sweep begins.  Ranks below it are found in that sweep.
    n_test : int, optional
        Fresh random entries on which the error of every sweep is estimated; 400 by default, or as many as there are.
        The last estimate is confirmed on four times as many.
    random_state : int, RandomState or None
        For the initial columns and the test entries.
    like : array, optional
        One whose backend, dtype and device the factors take; otherwise NumPy arrays of dtype float64.  Everything is
        computed in the latter.
    progress : bool
        Show a line with sweeps, evaluations and error.
    return_info : bool
        Return a `CrossInfo` too.

    Returns
    -------
    HTTensor
        Rounded to half of `tol`.
    CrossInfo
        With `return_info`.

    Raises
    ------
    TypeError, ValueError
        For a function that is not callable or whose values are complex, not numbers, of the wrong shape, NaN or
        infinite (the message names the index tuple), for a bad shape or tolerance, or if `max_evaluations` does not
        allow a first sweep.

    Warns
    -----
    UserWarning
        If the tolerance was not reached: at `max_evaluations` or `max_sweeps`, at an interrupt, or as the error no
        longer fell.  The
        best tensor met is returned, and the message tells its error.

    Notes
    -----
    Node t has row pivots :math:`I_t \subset I_{c_1} \times \dots \times I_{c_k}`, taken from those of its children,
    and column pivots :math:`J_c \subset J_t \times \prod_{s \ne c} I_s`, from those of its parent and siblings. A sweep
    goes up the tree and evaluates, at every node, all of :math:`I_{c_1} \times \dots \times I_{c_k} \times J_t`.  The
    rows of an orthonormal basis Q of its columns that span the largest volume become I_t, and :math:`Q Q_{I_t}^{-1}`
    the transfer tensor: one that interpolates at the pivots (Ballani, Grasedyck & Kluge 2013, and Oseledets &
    Tyrtyshnikov 2010 for linear trees).  The way down chooses the column pivots alike, from new values, which also test
    the approximation.  Then columns are added through the entries where it errs most, half of them random and half
    from the pivot blocks.

    A sweep evaluates O(N r³ + N n r) entries on a binary tree and takes O(N r⁴ + N n r²) multiplications; the function
    is called once per level of the tree.

    No method that reads few entries can be sure of the others.  A tensor that vanishes but for few entries is taken for
    zero, unless the tests hit one of them.

    An interrupt ends the search; the best tensor met is returned with the warning, if there is one.

    References
    ----------
    .. [1] J. Ballani, L. Grasedyck, M. Kluge, "Black box approximation of tensors in hierarchical Tucker format",
       Linear Algebra Appl. 438 (2013).
    .. [2] I. Oseledets, E. Tyrtyshnikov, "TT-cross approximation for multidimensional arrays", Linear Algebra Appl. 432
       (2010).
    .. [3] S. A. Goreinov, I. V. Oseledets, D. V. Savostyanov, E. E. Tyrtyshnikov, N. L. Zamarashkin, "How to find a
       good submatrix", in Matrix Methods: Theory, Algorithms, Applications (2010).

    Examples
    --------
    >>> import numpy as np
    >>> weights = 0.5 ** np.arange(1, 61)
    >>> x, info = cross_approximation(lambda i: 1 / (1 + i @ weights), (2,) * 60, random_state=0, return_info=True)
    >>> info.converged, x.rank[-2] <= 8
    (True, True)
    """
    tree = as_tree(tree, len(shape), "shape")
    dims = check_dims(tuple(shape), tree.order)
    tol = check_tolerance(tol) or 0.0
    if tol == 0:
        raise ValueError("tol is 0; expected a positive relative error")
    if n_test is None:
        n_test = min(400, prod(dims))
    max_rank = None if max_rank is None else positive("max_rank", max_rank)
    n_test, max_sweeps = positive("n_test", n_test), positive("max_sweeps", max_sweeps)
    limit = None if max_evaluations is None else positive("max_evaluations", max_evaluations)
    if like is not None:
        check_alike([like], "like")
    box = BlackBox(function, dims, limit)
    search = Search(tree, dims, box, tol / 2, max_rank, n_test, random_state)
    search.begin(positive("initial_rank", initial_rank), _start_rows(start, dims))
    with tqdm(disable=not progress, total=max_sweeps, unit="sweep") as bar:
        reason = _run(search, max_sweeps, bar)
    if search.best is None:
        raise ValueError(f"max_evaluations is {max_evaluations}; the first sweep alone takes more")
    x, error = search.rounded()
    info = CrossInfo(box.evaluations, error, search.sweeps, not reason and error <= tol)
    if not info.converged:
        if math.isnan(error):
            found = "stopped without a relative error"
        elif error <= tol:
            found = f"stopped at a relative error of {error:.1e}, not confirmed,"
        else:
            found = f"stopped at a relative error of {error:.1e}, above tol={tol:g},"
        reason = reason or ("of rounding error" if max_rank is None else f"max_rank is {max_rank}")
        warnings.warn(f"{found} after {info.evaluations:,} evaluations: {reason}", UserWarning, stacklevel=2)
    x = x * box.unit
    if like is not None:
        x = HTTensor._of(tree, [asarray(backend_of(like, "like"), factor, like) for factor in x.factors])
    return (x, info) if return_info else x


def _start_rows(start: Any, dims: tuple[int, ...]) -> np.ndarray:
    """Index tuples that the user names, checked."""
    if start is None:
        return np.zeros((0, len(dims)), dtype=np.int64)
    rows = np.asarray(start.detach().cpu() if hasattr(start, "detach") else start)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != len(dims):
        raise ValueError(f"start has shape {np.shape(start)}; expected (count, {len(dims)}), an index tuple per row")
    if rows.dtype.kind not in "iu":
        raise TypeError(f"start has dtype {rows.dtype}; expected integers")
    bad = np.argwhere((rows < 0) | (rows >= np.array(dims)))
    if len(bad):
        row, mode = bad[0]
        raise ValueError(f"start[{row}, {mode}] is {rows[row, mode]}; expected an index from 0 to {dims[mode] - 1}")
    return rows.astype(np.int64)


def _run(search: Search, max_sweeps: int, bar: tqdm[Any]) -> str:
    """Sweep until the tolerance is reached, or tell the reason to stop before."""
    try:
        try:
            reason = _swept(search, max_sweeps, bar)
        except LimitReachedError:
            reason = "the next step would have exceeded max_evaluations"
        if reason and search.sweeps < max_sweeps and search.readable(_MOST_READ if search.box.limit is None else None):
            # What the entries chosen did not tell, all of them do.
            search.read_all()
            reason = ""
    except KeyboardInterrupt:
        if search.best is None:
            raise
        return "it was interrupted"
    if reason and search.scout.unequal:
        reason += "; few entries make the norm: name index tuples where the function is large with start"
    return reason


def _swept(search: Search, max_sweeps: int, bar: tqdm[Any]) -> str:
    lowest, size, halved, grown = (
        math.inf,
        0,
        0,
        0,
    )  # of the errors and ranks so far, and the last sweeps that bettered them
    while search.sweeps < max_sweeps:
        if search.readable(2 * search.box.evaluations):
            search.read_all()
            return ""
        error = search.sweep()
        bar.set_postfix_str(f"{search.box.evaluations:,} evaluations, error {error:.1e}", refresh=False)
        bar.update()
        if search.within(error) and search.confirmed():
            return search.doubt()
        if error < lowest / 2:
            lowest, halved = error, search.sweeps
        if search.size > size:
            size, grown = search.size, search.sweeps
        # Ranks of what has none grow for ever.
        enough = search.box.limit is None and search.box.evaluations > _ENOUGH
        if search.sweeps - (halved if enough else max(halved, grown)) >= _PATIENCE:
            return f"the error no longer fell in {_PATIENCE} sweeps"
        if search.sweeps > max(halved, grown):
            search.share /= 10
        search.enrich()
    return f"max_sweeps is {max_sweeps}"
