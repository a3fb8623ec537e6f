"""Pivots of a cross approximation: the function's values at them, the choice of more, and the tensor that they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorly as tl

from htf.decomposition._black_box import BlackBox
from htf.decomposition._draws import drawn_by_square
from htf.decomposition._scout import Scout, rms
from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.tensors._linalg import kept, prod
from htf.tensors.arithmetic import log_norm
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import ht_entries
from htf.tree import DimensionTree

# Singular values of a pivot block are wanted to this part of the tolerance, as the errors of all nodes add up.
_NODE_SHARE = 0.01
# Singular values below this part of the largest are rounding error of the function's values.
_ROUNDING = 32 * float(np.finfo(np.float64).eps)
# Below this part of the largest error, an entry has nothing to add.
_NEGLIGIBLE = 1e-3
_SMALLEST = 1e-290
# Entries of the largest tensor that is read whole: 128 MB.
_MOST_ENTRIES = 2**24


@dataclass
class Sample:
    """Entries on which errors are estimated: random ones, and ones drawn from an approximation by their squares.

    Either finds what the other misses: random ones tell what the approximation has not seen, drawn ones what the norm is
    made of.  Sums of squares over the sample are divided by how often an entry is drawn (the balance heuristic of Veach
    & Guibas 1995), so that they estimate those over all entries.
    """

    rows: np.ndarray
    values: np.ndarray
    weights: np.ndarray  # square roots of the frequencies, in units of the approximation's norm

    def error(self, x: HTTensor) -> tuple[float, np.ndarray]:
        """Relative error in the Frobenius norm, and the sizes of the errors."""
        found = ht_entries(x, self.rows)
        errors = np.abs(found - self.values)
        norm = max(rms(self.values / self.weights), rms(found / self.weights))
        return _ratio(rms(errors / self.weights), norm), errors


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
    share: float = _NODE_SHARE
    sample: Sample | None = None
    x: HTTensor | None = None
    best: HTTensor | None = None
    best_error: float = math.inf
    exact: bool = False  # whether all entries have been read

    def begin(self, initial_rank: int, start: np.ndarray) -> None:
        self.rng = tl.check_random_state(self.random_state)
        self.masks = np.zeros((self.tree.n_nodes, self.tree.order), dtype=np.int64)
        for node in range(self.tree.n_nodes):
            self.masks[node, list(self.tree.modes(node))] = 1
        for mode, dim in enumerate(self.dims):
            self.rows[mode] = np.zeros((dim, self.tree.order), dtype=np.int64)
            self.rows[mode][:, mode] = np.arange(dim)
        self.columns[self.tree.root] = np.zeros((1, self.tree.order), dtype=np.int64)
        self.scout = Scout(self.box, self.n_test, self.rng, start)
        entries = self.scout.begin(initial_rank)
        for node in self.tree.edges:
            self.columns[node] = _unique(entries * (1 - self.masks[node]))
        self.scale = self.scout.rms

    def sweep(self) -> float:
        """Once up and down the tree; the error of the tensor that the way up gave."""
        factors, pivots = self._up()
        if self._rescaled():
            # Values far larger than any before were met; in the new unit, nothing is evaluated again.
            factors, pivots = self._up()
        self.x = HTTensor._of(self.tree, factors)
        # The test entries that chose the columns are interpolated by now; only fresh ones tell the error.
        self.sample = self._fresh_sample(self.n_test - self.n_test // 4, self.n_test // 4)
        self.sweeps += 1
        self._down(pivots)
        return self._measured()

    def _rescaled(self) -> bool:
        old = self.box.unit
        if not self.box.rescaled():
            return False
        self.scale *= old / self.box.unit
        self.best = self.best and self.best * (old / self.box.unit)
        return True

    def _fresh_sample(self, random: int, drawn: int) -> Sample:
        assert self.x is not None
        rows = [self.scout.random_rows(random), drawn_by_square(self.x, drawn, self.rng)]
        values = self.box(rows)
        self.scout.note(values[0])
        mean_square = _rms_of(self.x)
        self.scale = max(self.scout.rms, mean_square)
        found = ht_entries(self.x, np.concatenate(rows))
        share = len(rows[1]) / len(found)
        weights = np.hypot(math.sqrt(1 - share) * mean_square, math.sqrt(share) * found)
        return Sample(np.concatenate(rows), np.concatenate(values), np.maximum(weights, _SMALLEST))

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
        # A typical block has entries of the tensor's mean size; where few entries make the norm, pivots are among them.
        wanted = self.share * self.tol * max(self.scale * math.sqrt(matrix.size), math.hypot(*S.tolist()))
        least = max(wanted, _ROUNDING * float(S[0]) * math.sqrt(len(S)))
        rank = kept(S, max_rank, least)
        return maxvol(U[:, :rank])

    def _measured(self) -> float:
        assert self.x is not None and self.sample is not None
        error, self.test_errors = self.sample.error(self.x)
        self.block_errors: list[np.ndarray] = []
        if self.block_rows:
            found = ht_entries(self.x, np.concatenate(self.block_rows))
            values = np.concatenate(self.block_values)
            errors = np.abs(found - values)
            self.block_errors = np.split(errors, np.cumsum([len(v) for v in self.block_values])[:-1])
            error = max(error, _ratio(rms(errors), max(rms(values), self.scale)))
        if self.best is not None:
            # What is known by now may show that the best one so far was not as good as it seemed.
            self.best_error = max(self.best_error, self.sample.error(self.best)[0])
        if error < self.best_error or self.best is None:
            self.best, self.best_error = self.x, error
        return error

    def confirmed(self) -> bool:
        """Whether a second look agrees that the error is within the tolerance.

        It takes more fresh entries, and ascents to large ones from random entries and from some drawn from the
        approximation.  Where it does not agree, this is what is learnt from.
        """
        assert self.x is not None
        random = 3 * self.n_test
        self.sample = self._fresh_sample(random, self.n_test)
        error, self.test_errors = self.sample.error(self.x)
        if error <= self.tol:
            rows = self.scout.second_look(self.sample.rows[:random], self.sample.rows[random:])
            values = self.box([rows])[0]
            errors = np.abs(ht_entries(self.x, rows) - values)
            local = _ratio(rms(errors), max(rms(values), self.scale))
            error = max(error, local)
            self.block_rows, self.block_errors = [rows], [errors]
        if self.best is self.x:
            self.best_error = max(self.best_error, error)
        return error <= self.tol

    def enrich(self) -> None:
        """Add columns through the entries where the approximation errs most, half as many as the largest rank."""
        assert self.x is not None and self.sample is not None
        count = max(2, max(self.x.rank) // 2)
        tests = np.argsort(-self.test_errors)[: count - count // 2]
        # Errors come in families within a block; one of each of the worst blocks tells more than all of one.
        worst = sorted(((int(np.argmax(e)), b) for b, e in enumerate(self.block_errors)), key=lambda w: -float(self.block_errors[w[1]][w[0]]))
        worst = worst[: count // 2]
        entries = np.concatenate([self.sample.rows[tests], *(self.block_rows[b][[i]] for i, b in worst)])
        errors = np.concatenate([self.test_errors[tests], [self.block_errors[b][i] for i, b in worst]])
        entries = entries[errors >= _NEGLIGIBLE * errors.max()]
        for node in self.tree.edges:
            self.columns[node] = _unique(np.concatenate([self.columns[node], entries * (1 - self.masks[node])]))

    @property
    def size(self) -> int:
        """Sum of the ranks."""
        assert self.x is not None
        return sum(self.x.rank)

    def doubt(self) -> str:
        """Why an approximation that agrees with all entries met cannot be trusted, if there is a reason."""
        if self.scout.trusted:
            return ""
        if self.box.largest == 0:
            self.best_error = math.nan
            return f"all {self.box.evaluations:,} entries met are zero; name index tuples where others are with start"
        return f"only {self.scout.nonzero} of {self.scout.seen:,} random entries are not zero"

    def readable(self, entries: int | None) -> bool:
        """Whether the tensor has no more entries than that, and the evaluations allowed suffice to read the rest."""
        most = _MOST_ENTRIES if entries is None else min(entries, _MOST_ENTRIES)
        return self.box.entries <= most and self.box.left == self.box.entries - self.box.evaluations

    def read_all(self) -> None:
        """Decompose the tensor of all its entries."""
        step = 2**16
        parts = [
            np.stack(np.unravel_index(np.arange(at, min(at + step, self.box.entries)), self.dims), 1)
            for at in range(0, self.box.entries, step)
        ]
        values = np.concatenate([self.box([part])[0] for part in parts])
        self._rescaled()
        values = np.concatenate([self.box([part])[0] for part in parts])
        self.best = hierarchical_tucker(values.reshape(self.dims), rank=self.max_rank, tree=self.tree, tol=self.tol)
        self.best_error = _ratio(rms(self.best.to_vec() - values), rms(values))
        self.exact = True

    def rounded(self) -> tuple[HTTensor, float]:
        """The best tensor met, of the lowest ranks that half of the tolerance allows, and its error."""
        assert self.best is not None and self.sample is not None
        if self.exact:
            return self.best, self.best_error
        x = self.best.round(tol=self.tol)
        return x, max(self.sample.error(x)[0], self.best_error)


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


def _rms_of(x: HTTensor) -> float:
    # In logarithms, as a norm can be beyond the range of doubles where a typical entry is of size one.
    return math.exp(log_norm(x) - 0.5 * math.log(prod(x.shape)))


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
