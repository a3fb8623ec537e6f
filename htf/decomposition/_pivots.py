"""Pivots of a cross approximation: the function's values at them, the choice of more, and the tensor that they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorly as tl

from htf.tensors._linalg import kept, prod
from htf.tensors.arithmetic import log_norm
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


class LimitReachedError(Exception):
    """The next evaluation would be one too many."""


@dataclass
class BlackBox:
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
            raise LimitReachedError
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
class Search:
    """Pivots and what is known of the tensor.

    Pivots are index rows of all modes, zero in the modes that are not theirs, so that sums of them are index rows.
    """

    tree: DimensionTree
    dims: tuple[int, ...]
    box: BlackBox
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
        except LimitReachedError:
            raise ValueError(f"max_evaluations is {self.box.limit}; n_test={self.n_test} alone takes more") from None
        largest = float(np.max(np.abs(self.test_values)))
        if largest > 0 and not 1e-100 < largest < 1e100:
            # Squares have to stay in the range of doubles; by a power of two nothing is rounded.
            self.box.unit = 2.0 ** (math.frexp(largest)[1] - 1)
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
        return maxvol(U[:, :rank])

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

    def confirmed(self) -> bool:
        """Whether the error is within the tolerance on more fresh entries, too; if not, these are what is learnt from.

        Where entries differ much in size, few of them can miss those that make the norm.
        """
        assert self.x is not None
        self.test_rows = self._random_rows(4 * self.n_test)
        self.test_values = self.box([self.test_rows])[0]
        self.test_errors = np.abs(ht_entries(self.x, self.test_rows) - self.test_values)
        self.scale = max(_rms(self.test_values), _rms_of(self.x))
        error = _ratio(_rms(self.test_errors), self.scale)
        if self.best is self.x:
            self.best_error = max(self.best_error, error)
        return error <= self.tol

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


def maxvol(Q: np.ndarray, tolerance: float = 1.05, n_iter_max: int = 100) -> tuple[np.ndarray, np.ndarray]:
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
    # In logarithms, as a norm can be beyond the range of doubles where a typical entry is of size one.
    return math.exp(log_norm(x) - 0.5 * math.log(prod(x.shape)))


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
