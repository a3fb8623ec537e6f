"""HT tensors from a function of the indices, by cross approximation on a dimension tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tqdm import tqdm

from htf._checks import check_dims, check_shape, positive, warn
from htf._progress import bar_file
from htf._repr import brief
from htf.decomposition._black_box import BlackBox, IndexFunction, LimitReachedError
from htf.decomposition._pivots import NAME_THEM, Search
from htf.decomposition._units import beside, times_unit
from htf.linalg.backend import Array, check_like, host_array, is_complex
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
        Index rows that the function was given; none is given twice.
    error : float
        Estimated relative error in the Frobenius norm, of the returned tensor: the largest of those on random entries,
        on entries drawn from the approximation by their squares, around these, and on the last pivot blocks.  NaN where
        all entries met are zero, but not all were read.
    sweeps : int
        Sweeps over the tree, up and down.
    converged : bool
        Whether the error is within the tolerance, and a second look agreed: on fresh entries of all these kinds, those
        that ascents to large entries met, and new pivots; or all entries were read.

    See Also
    --------
    htf.cross_approximation, htf.apply : give it, with ``return_info=True``.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x, info = htf.cross_approximation(
    ...     lambda i: 1 / (1.0 + i.sum(1)), (10,) * 6, tol=1e-6, random_state=0, return_info=True
    ... )
    >>> info.converged, info.error < 1e-6, info.evaluations < 10**5  # of a million entries
    (True, True, True)
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
    progress: bool = False,
    return_info: bool = False,
    start: Any = None,
) -> Any:
    r"""Approximate a tensor that is given as a function of its indices, from a few of its entries.

    Parameters
    ----------
    function : callable
        Takes an integer NumPy array (batch, order), one index tuple per row, and returns the (batch,) real or complex
        values there, as an array of any backend.
    shape : sequence of int
        Dimension of each mode.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    tol : float
        Relative error in the Frobenius norm at which to stop.
    max_rank : int, optional
        Largest rank of a node.
    max_evaluations : int, optional
        Stop before the function is evaluated at more index tuples than this.  Without it, ranks may grow up to a
        million evaluations, and beyond it while the error falls.  Never are there more than entries.
    max_sweeps : int
        Stop after as many sweeps.
    initial_rank : int
        Columns with which the first sweep begins: random ones, or through large entries where few make the norm.
        Ranks below it are found in that sweep.
    n_test : int, optional
        Fresh random entries on which the error of every sweep is estimated; 400 by default, or as many as there are.
        The last estimate is confirmed on some times as many.
    random_state : int, RandomState or None
        For the initial columns, the starts of ascents and the test entries.
    like : array, optional
        One whose backend, dtype and device the factors take; otherwise NumPy arrays of dtype float64, or complex128
        where values are complex.  Everything is computed in the latter.
    progress : bool
        Show a line with sweeps, evaluations and error.
    return_info : bool
        Return a `CrossInfo` too.
    start : array of integers (count, order), optional
        Index tuples where the function is large, or not zero, or of special interest, one or several.  Columns go
        through them and through the local maxima that ascents from them reach, and the approximation is tested there.
        For what random entries and ascents from them do not find.

    Returns
    -------
    HTTensor
        Rounded to half of `tol`.
    CrossInfo
        With `return_info`.

    Raises
    ------
    TypeError, ValueError
        For a function that is not callable or whose values are not numbers, of the wrong shape, NaN or infinite (the
        message names the index tuple), or complex where `like` is real, for a bad shape, tolerance or start, for values
        beyond the range of `like`, or if `max_evaluations` does not allow a first sweep.

    Warns
    -----
    UserWarning
        If the tolerance was not reached or not confirmed: at `max_evaluations` or `max_sweeps`, at an interrupt, as the
        error no longer fell, or as random entries are zero, nearly all of them.  The best tensor met is returned, and
        the message tells its error.

    See Also
    --------
    htf.apply : functions of HT tensors.
    htf.ht_completion : where the entries cannot be chosen.
    htf.tensors.ht_mean, htf.tensors.ht_argmax : mean and maximum of a function.

    Notes
    -----
    Node t has row pivots :math:`I_t \subset I_{c_1} \times \dots \times I_{c_k}`, taken from those of its children,
    and column pivots :math:`J_c \subset J_t \times \prod_{s \ne c} I_s`, from those of its parent and siblings. A sweep
    goes up the tree and evaluates, at every node, all of :math:`I_{c_1} \times \dots \times I_{c_k} \times J_t`.  The
    rows of an orthonormal basis Q of its columns that span the largest volume become I_t, and :math:`Q Q_{I_t}^{-1}`
    the transfer tensor: one that interpolates at the pivots (Ballani, Grasedyck & Kluge 2013, and Oseledets &
    Tyrtyshnikov 2010 for linear trees).  The way down chooses the column pivots alike, from new values, which also test
    the approximation.  Then columns are added through the entries where it errs most: tests, entries of the pivot
    blocks, and crossings of a node's rows with columns that its neighbours' pivots allow, of which few are read.
    Pivots stay while they are good enough, as the function's values are remembered.

    A sweep evaluates O(N r³ + N n r) entries on a binary tree and takes O(N r⁴ + N n r²) multiplications; the function
    is called once per level of the tree.

    Where few of the random entries make their norm, columns through random entries tell nothing.  The first ones then
    go through local maxima, to which steepest ascents lead (changes of one index, and of many at once), and the tests
    include entries that differ from typical ones in few or many indices.  If an approximation agrees, fresh ascents
    start from random entries and from its own large ones.  If all entries that are left are no more than those read, or
    2²⁰ are all there are and nothing else helped, the tensor is read whole and decomposed.

    No method that reads few entries can be sure of the others: a peak to which nothing leads from random entries is
    missed.  Where nearly all random entries are exactly zero, the search says so, and does not claim to have converged;
    name index tuples with `start`.

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
    >>> import numpy as np, htf
    >>> weights = 0.5 ** np.arange(1, 61)
    >>> x, info = htf.cross_approximation(lambda i: 1 / (1 + i @ weights), (2,) * 60, random_state=0, return_info=True)
    >>> info.converged, x.rank[-2] <= 8
    (True, True)
    """
    shape = check_shape("shape", shape)
    tree = as_tree(tree, len(shape), "shape")
    dims = check_dims(shape, tree.order)
    tol = check_tolerance(tol) or 0.0
    if tol == 0:
        raise ValueError("tol is 0; expected a positive relative error")
    if n_test is None:
        n_test = min(400, prod(dims))
    max_rank = None if max_rank is None else positive("max_rank", max_rank)
    n_test, max_sweeps = positive("n_test", n_test), positive("max_sweeps", max_sweeps)
    limit = None if max_evaluations is None else positive("max_evaluations", max_evaluations)
    if like is not None:
        check_like(like)
    box = BlackBox(function, dims, limit, like is not None and not is_complex(like))
    search = Search(tree, dims, box, tol / 2, max_rank, n_test, random_state)
    search.begin(positive("initial_rank", initial_rank), start_rows(start, dims))
    with tqdm(file=bar_file(), disable=not progress, total=max_sweeps, unit="sweep") as bar:
        reason = _run(search, max_sweeps, bar)
    if search.best is None:
        raise ValueError(f"max_evaluations is {max_evaluations}; the first sweep alone takes more")
    x, error = search.rounded()
    info = CrossInfo(box.evaluations, error, search.sweeps, not reason and error <= tol)
    if not info.converged:
        if math.isnan(error):
            found = "stopped without a relative error"
        elif error <= tol:
            found = f"stopped at a relative error of {error:.1e}, which is not confirmed and may be above tol={tol:g},"
        else:
            found = f"stopped at a relative error of {error:.1e}, above tol={tol:g},"
        reason = reason or ("of rounding error" if max_rank is None else f"max_rank is {max_rank}")
        warn(f"{found} after {info.evaluations:,} evaluations: {reason}")
    x = times_unit(x, box.unit)
    if like is not None:
        x = beside(x, like, "like", box.largest * box.unit)
    return (x, info) if return_info else x


def start_rows(start: Any, dims: tuple[int, ...]) -> np.ndarray:
    """Index tuples that the user names, checked."""
    if start is None:
        return np.zeros((0, len(dims)), dtype=np.int64)
    rows = host_array(start, "start")
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
    return reason


def _swept(search: Search, max_sweeps: int, bar: tqdm[Any]) -> str:
    # The lowest error and the largest ranks so far, and the last sweeps that bettered them.
    lowest, size, halved, grown = math.inf, 0, 0, 0
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
        if search.size > 1.02 * size:
            size, grown = search.size, search.sweeps
        # Ranks of what has none grow for ever.
        enough = search.box.limit is None and search.box.evaluations > _ENOUGH
        if search.sweeps - (halved if enough else max(halved, grown)) >= _PATIENCE:
            hint = NAME_THEM if search.scout.unequal else ""
            return f"the error no longer fell in {_PATIENCE} sweeps{hint}"
        if search.sweeps > max(halved, grown):
            search.share /= 10
        search.enrich()
    return f"max_sweeps is {max_sweeps}"
