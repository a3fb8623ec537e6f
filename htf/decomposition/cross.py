"""HT tensors from a function of the indices, by cross approximation on a dimension tree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorly as tl
from tqdm import tqdm

from htf._checks import positive
from htf.engine.layout import check_dims
from htf.tensors._backend import Array, asarray, backend_of
from htf.tensors._linalg import kept, prod
from htf.tensors.arithmetic import ht_norm
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import ht_entries
from htf.tree import DimensionTree

IndexFunction = Callable[[np.ndarray], Any]

# Index entries of one call of the function: 128 MB.
_BATCH_ENTRIES = 2**24
# Singular values of a pivot block are wanted to this part of the tolerance, as the errors of all nodes add up.
_NODE_SHARE = 0.01
# Singular values below this part of the largest are rounding error of the function's values.
_ROUNDING = 32 * float(np.finfo(np.float64).eps)
# Sweeps in which the error may fail to halve before the search is given up.
_PATIENCE = 4


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
        If the tolerance was not reached: at `max_evaluations` or `max_sweeps`, or as the error no longer fell.  The
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

    An interrupt during a call of the function is passed on; nothing outside of this call was changed.

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
    tree = DimensionTree.balanced(len(shape)) if tree is None else tree
    dims = check_dims(tuple(shape), tree.order)
    if not (isinstance(tol, int | float) and not isinstance(tol, bool)):
        raise TypeError(f"tol is {tol!r}; expected a number")
    if not (tol > 0 and math.isfinite(tol)):
        raise ValueError(f"tol is {tol}; expected a positive relative error")
    if n_test is None:
        n_test = min(400, prod(dims))
    max_rank = None if max_rank is None else positive("max_rank", max_rank)
    n_test, max_sweeps = positive("n_test", n_test), positive("max_sweeps", max_sweeps)
    limit = None if max_evaluations is None else positive("max_evaluations", max_evaluations)
    search = _Search(tree, dims, _BlackBox(function, tree.order, limit), tol / 2, max_rank, n_test, random_state)
    search.begin(positive("initial_rank", initial_rank))
    with tqdm(disable=not progress, total=max_sweeps, unit="sweep") as bar:
        reason = _run(search, max_sweeps, bar)
    if search.best is None:
        raise ValueError(f"max_evaluations is {max_evaluations}; the first sweep alone takes more")
    x, error = search.rounded()
    info = CrossInfo(search.box.evaluations, error, search.sweeps, error <= tol)
    if not info.converged:
        warnings.warn(
            f"stopped at a relative error of {error:.1e}, above tol={tol:g}, after {info.evaluations:,} evaluations: "
            f"{reason}",
            UserWarning,
            stacklevel=2,
        )
    x = x * search.box.unit
    if like is not None:
        x = HTTensor._of(tree, [asarray(backend_of(like, "like"), factor, like) for factor in x.factors])
    return (x, info) if return_info else x


def _run(search: _Search, max_sweeps: int, bar: tqdm[Any]) -> str:
    """Sweep until there is a reason to stop, and tell it."""
    reference, at = math.inf, 0
    try:
        while search.sweeps < max_sweeps:
            error = search.sweep()
            bar.set_postfix_str(f"{search.box.evaluations:,} evaluations, error {error:.1e}", refresh=False)
            bar.update()
            if error <= search.tol:
                return "the tolerance was reached"
            if error < reference / 2:
                reference, at = error, search.sweeps
            if search.sweeps - at >= _PATIENCE:
                return f"the error no longer fell in {_PATIENCE} sweeps"
            search.enrich()
    except _LimitReachedError:
        return "the next step would have exceeded max_evaluations"
    return f"max_sweeps is {max_sweeps}"


class _LimitReachedError(Exception):
    """The next evaluation would be one too many."""


@dataclass
class _BlackBox:
    """The function with its values checked and counted."""

    function: IndexFunction
    order: int
    limit: int | None
    evaluations: int = 0
    unit: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function is a {type(self.function).__name__}; expected a callable")

    def __call__(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values at arrays of index rows (..., order), in as few calls as memory allows."""
        total = sum(block.size for block in blocks) // self.order
        if self.limit is not None and self.evaluations + total > self.limit:
            raise _LimitReachedError
        values: list[np.ndarray] = []
        for group in _batches(blocks):
            rows = np.concatenate([block.reshape(-1, self.order) for block in group])
            found = self._values(rows)
            ends = np.cumsum([block.size // self.order for block in group])[:-1]
            values += [v.reshape(b.shape[:-1]) for v, b in zip(np.split(found, ends), group, strict=True)]
        return values

    def _values(self, rows: np.ndarray) -> np.ndarray:
        self.evaluations += len(rows)
        # The function may write to what it is given; error messages need the rows as they were.
        returned = self.function(rows.copy())
        if hasattr(returned, "detach"):
            returned = returned.detach().cpu()
        values = np.asarray(returned)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"function returned values of dtype {values.dtype}; expected real numbers")
        if values.shape != (len(rows),):
            raise ValueError(f"function returned shape {values.shape}; expected ({len(rows)},), a value per index row")
        values = values.astype(np.float64) / self.unit
        if not np.isfinite(values).all():
            worst = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"function returned {values[worst] * self.unit} at index row {rows[worst].tolist()}")
        return values


def _batches(blocks: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    group: list[np.ndarray] = []
    for block in blocks:
        if group and sum(b.size for b in group) + block.size > _BATCH_ENTRIES:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


@dataclass
class _Search:
    """Pivots and what is known of the tensor.

    Pivots are index rows of all modes, zero in the modes that are not theirs, so that sums of them are index rows.
    """

    tree: DimensionTree
    dims: tuple[int, ...]
    box: _BlackBox
    tol: float
    max_rank: int | None
    n_test: int
    random_state: Any
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    columns: dict[int, np.ndarray] = field(default_factory=dict)
    sweeps: int = 0
    x: HTTensor | None = None
    best: HTTensor | None = None
    best_error: float = math.inf

    def begin(self, initial_rank: int) -> None:
        self.rng = tl.check_random_state(self.random_state)
        self.masks = np.zeros((self.tree.n_nodes, self.tree.order), dtype=np.int64)
        for node in range(self.tree.n_nodes):
            self.masks[node, list(self.tree.modes(node))] = 1
        for mode, dim in enumerate(self.dims):
            self.rows[mode] = np.zeros((dim, self.tree.order), dtype=np.int64)
            self.rows[mode][:, mode] = np.arange(dim)
        self.columns[self.tree.root] = np.zeros((1, self.tree.order), dtype=np.int64)
        drawn = self._random_rows(initial_rank)
        for node in self.tree.edges:
            self.columns[node] = _unique(drawn * (1 - self.masks[node]))
        self.test_rows = self._random_rows(self.n_test)
        try:
            self.test_values = self.box([self.test_rows])[0]
        except _LimitReachedError:
            raise ValueError(f"max_evaluations is {self.box.limit}; n_test={self.n_test} alone takes more") from None
        largest = float(np.max(np.abs(self.test_values)))
        if largest > 0 and not 1e-100 < largest < 1e100:
            # Squares have to stay in the range of doubles; by a power of two nothing is rounded.
            self.box.unit = 2.0 ** math.frexp(largest)[1]
            self.test_values = self.test_values / self.box.unit
        self.scale = _rms(self.test_values)

    def _random_rows(self, count: int) -> np.ndarray:
        drawn = [self.rng.randint(0, dim, size=count, dtype=np.int64) for dim in self.dims]
        return np.stack(drawn, 1)

    def sweep(self) -> float:
        """Once up and down the tree; the error of the tensor that the way up gave."""
        factors, pivots = self._up()
        self.x = HTTensor._of(self.tree, factors)
        # The test entries that chose the columns are interpolated by now; only fresh ones tell the error.
        fresh = self._random_rows(self.n_test)
        self.test_rows, self.test_values = fresh, self.box([fresh])[0]
        self.scale = max(_rms(self.test_values), _rms_of(self.x))
        self.sweeps += 1
        self._down(pivots)
        return self._measured()

    def _up(self) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
        tree = self.tree
        factors: list[Any] = [None] * tree.n_nodes
        pivots: dict[int, np.ndarray] = {}
        for level in tree.levels:
            grids = [_grid([*self._below(node, pivots), self.columns[node]]) for node in level]
            for node, grid, values in zip(level, grids, self.box(grids), strict=True):
                if node == tree.root:
                    factors[node] = values
                    continue
                width = values.shape[-1]
                transfer, chosen = self._skeleton(values.reshape(-1, width), self.max_rank)
                factors[node] = transfer.reshape(*values.shape[:-1], -1)
                pivots[node] = grid[..., 0, :].reshape(-1, tree.order)[chosen] * self.masks[node]
        return factors, pivots

    def _below(self, node: int, pivots: dict[int, np.ndarray]) -> list[np.ndarray]:
        return [pivots[c] for c in self.tree.children(node)] or [self.rows[node]]

    def _down(self, pivots: dict[int, np.ndarray]) -> None:
        tree = self.tree
        self.block_rows, self.block_values = [], []
        for level in reversed(tree.levels[1:]):
            grids = [_grid([*self._below(node, pivots), self.columns[node]]) for node in level]
            for node, grid, values in zip(level, grids, self.box(grids), strict=True):
                self.block_rows.append(grid.reshape(-1, tree.order))
                self.block_values.append(values.reshape(-1))
                for axis, child in enumerate(tree.children(node)):
                    unfolded = np.moveaxis(values, axis, 0)
                    chosen = self._skeleton(unfolded.reshape(len(unfolded), -1).T, None)[1]
                    candidates = np.moveaxis(grid, axis, 0)[0].reshape(-1, tree.order)
                    self.columns[child] = candidates[chosen] * (1 - self.masks[child])

    def _skeleton(self, matrix: np.ndarray, max_rank: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The interpolation matrix of a column space, and the rows at which it interpolates."""
        U, S, _ = np.linalg.svd(matrix, full_matrices=False)
        wanted = _NODE_SHARE * self.tol * self.scale * math.sqrt(matrix.size)
        least = max(wanted, _ROUNDING * float(S[0]) * math.sqrt(len(S)))
        rank = kept(S, max_rank, least)
        return _maxvol(U[:, :rank])

    def _measured(self) -> float:
        assert self.x is not None
        self.test_errors = np.abs(ht_entries(self.x, self.test_rows) - self.test_values)
        error = _ratio(_rms(self.test_errors), self.scale)
        self.block_errors: list[np.ndarray] = []
        if self.block_rows:
            found = ht_entries(self.x, np.concatenate(self.block_rows))
            values = np.concatenate(self.block_values)
            errors = np.abs(found - values)
            self.block_errors = np.split(errors, np.cumsum([len(v) for v in self.block_values])[:-1])
            error = max(error, _ratio(_rms(errors), max(_rms(values), self.scale)))
        if error < self.best_error or self.best is None:
            self.best, self.best_error = self.x, error
        return error

    def enrich(self) -> None:
        """Add columns through the entries where the approximation errs most, half as many as the largest rank."""
        assert self.x is not None
        count = max(2, max(self.x.rank) // 2)
        picked = [self.test_rows[np.argsort(-self.test_errors)[: count - count // 2]]]
        # Errors come in families within a block; one of each of the worst blocks tells more than all of one.
        worst = sorted(range(len(self.block_errors)), key=lambda b: -float(self.block_errors[b].max()))
        picked += [self.block_rows[b][[int(np.argmax(self.block_errors[b]))]] for b in worst[: count // 2]]
        entries = np.concatenate(picked)
        for node in self.tree.edges:
            self.columns[node] = _unique(np.concatenate([self.columns[node], entries * (1 - self.masks[node])]))

    def rounded(self) -> tuple[HTTensor, float]:
        """The best tensor met, of the lowest ranks that half of the tolerance allows, and its error."""
        assert self.best is not None
        x = self.best.round(tol=self.tol)
        errors = ht_entries(x, self.test_rows) - self.test_values
        scale = max(_rms(self.test_values), _rms_of(x))
        return x, max(_ratio(_rms(errors), scale), self.best_error)


def _grid(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Index rows of all combinations of pivots, (count, ..., count, order)."""
    grid = parts[0]
    for part in parts[1:]:
        grid = grid[..., None, :] + part
    return grid


def _unique(rows: np.ndarray) -> np.ndarray:
    """Rows without repetitions, in the order in which they first come."""
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


def _maxvol(Q: np.ndarray, tolerance: float = 1.05, n_iter_max: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Rows P of Q (m, r) of nearly the largest volume, and Q Q[P]⁻¹, whose entries are at most `tolerance` in size."""
    rank = Q.shape[1]
    rest, rows = Q.copy(), np.zeros(rank, dtype=np.int64)
    # Gaussian elimination with row pivoting gives the start.
    for k in range(rank):
        rows[k] = np.argmax(np.abs(rest[:, k]))
        pivot = rest[rows[k]].copy()
        rest -= np.outer(rest[:, k] / pivot[k], pivot)
    coefficients = np.linalg.solve(Q[rows].T, Q.T).T
    for _ in range(n_iter_max):
        i, j = divmod(int(np.argmax(np.abs(coefficients))), rank)
        if abs(coefficients[i, j]) <= tolerance:
            break
        rows[j] = i
        change = coefficients[i].copy()
        change[j] -= 1
        coefficients -= np.outer(coefficients[:, j] / coefficients[i, j], change)
    coefficients = np.linalg.solve(Q[rows].T, Q.T).T
    coefficients[rows] = np.eye(rank)
    return coefficients, rows


def _rms(values: np.ndarray) -> float:
    # Squares of the largest or smallest doubles leave the range.
    largest = float(np.max(np.abs(values)))
    return largest * math.sqrt(float(np.mean((values / largest) ** 2))) if largest > 0 else 0.0


def _rms_of(x: HTTensor) -> float:
    norm = float(ht_norm(x))
    return math.exp(math.log(norm) - 0.5 * math.log(prod(x.shape))) if 0 < norm < math.inf else 0.0


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
