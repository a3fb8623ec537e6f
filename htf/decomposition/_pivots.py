"""Pivots of a cross approximation: the function's values at them, the choice of more, and the tensor that they give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from htf._random import check_random_state
from htf.decomposition._black_box import BlackBox, LimitReachedError
from htf.decomposition._maxvol import maxvol
from htf.decomposition._rows import among, grid, unique, worst
from htf.decomposition._samples import Sample, perturbed, ratio, rms, weights_of_drawn
from htf.decomposition._scout import Scout
from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.linalg.dense import kept
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import ht_entries
from htf.tensors.overlaps import log_norm
from htf.tensors.sampling import drawn_by_square
from htf.tree import DimensionTree

# Singular values of a pivot block are wanted to this part of the tolerance, as the errors of all nodes add up.
_NODE_SHARE = 0.01
# Singular values below this part of the largest are rounding error of the function's values.
_ROUNDING = 32 * float(np.finfo(np.float64).eps)
# Columns below this part of the largest are scaled no further, for they would be rounding error.
_LEAST_COLUMN = 1e-10
# Below this part of the largest error, an entry has nothing to add.
_NEGLIGIBLE = 1e-3
# Errors of entries of like size and of those on the pivot blocks are compared with the same tolerance.  Where few
# entries make the norm, the blocks hold the extremes, and their errors may be above it by this factor.
_EXTREME = 5.0
# `Search.tol` is half of the tolerance asked for, so errors may be above it by this factor: rounding adds the half.
_WITHIN = 1.6
# Entries of a pivot block on which the error is measured.
_BLOCK_TESTS = 2000
# Entries tried for a column that is added; where few entries make the norm, at least so many at a node, and at all.
_TRIALS, _MOST_TRIALS, _ALL_TRIALS = 8, 512, 12_000
# Columns through entries that a second look found, at once.
_MOST_MISSED = 32
NAME_THEM = "; where the function is large elsewhere, name index tuples there with start="
# What stands for zero where something is divided by it.
_SMALLEST = 1e-290
# Entries of the largest tensor that is read whole: 128 MB.
_MOST_ENTRIES = 2**24


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
    pivots: dict[int, np.ndarray] = field(default_factory=dict)
    sweeps: int = 0
    share: float = _NODE_SHARE
    samples: list[Sample] = field(default_factory=list)
    x: HTTensor | None = None
    best: HTTensor | None = None
    best_error: float = math.inf
    exact: bool = False  # whether all entries have been read

    def begin(self, initial_rank: int, start: np.ndarray) -> None:
        self.rng = check_random_state(self.random_state)
        self.masks = np.zeros((self.tree.n_nodes, self.tree.order), dtype=np.int64)
        for node in range(self.tree.n_nodes):
            self.masks[node, list(self.tree.modes(node))] = 1
        for mode, dim in enumerate(self.dims):
            self.rows[mode] = np.zeros((dim, self.tree.order), dtype=np.int64)
            self.rows[mode][:, mode] = np.arange(dim)
        entries = prod(self.dims)
        inside = [prod([self.dims[mode] for mode in self.tree.modes(node)]) for node in range(self.tree.n_nodes)]
        self.bounds = [min(below, entries // below) for below in inside]
        self.columns[self.tree.root] = np.zeros((1, self.tree.order), dtype=np.int64)
        self.scout = Scout(self.box, self.n_test, self.rng, start)
        starts = self.scout.begin(initial_rank)
        for node in self.tree.edges:
            self.columns[node] = unique(starts * (1 - self.masks[node]))
        self.scale = self.scout.rms

    def sweep(self) -> float:
        """Once up and down the tree; the error of the tensor that the way up gave."""
        factors, pivots = self._first_up() if self.best is None else self._up()
        if self._rescaled():
            # Values far larger than any before were met; in the new unit, nothing is evaluated again.
            factors, pivots = self._up()
        self.x, self.pivots = HTTensor._of(self.tree, factors), pivots
        # The test entries that chose the columns are interpolated by now; only fresh ones tell the error.
        random = self.scout.random_rows(self.n_test - self.n_test // 4)
        try:
            self.samples = self._fresh_samples(random, self.n_test // 4, self.n_test // 2 if self.scout.unequal else 0)
        except LimitReachedError:
            if self.best is None:
                # What was met before is better than nothing.
                self.scale = self.scout.rms
                met = np.concatenate([self.scout.first, self.scout.ends])
                values = self.box([met])[0]
                self.samples = [Sample(met, values, np.full(len(met), max(rms(values), _SMALLEST)))]
                self.best, self.best_error = self.x, self._test()
            raise
        if self.best is None:
            self.best, self.best_error = self.x, self._test()
        self.sweeps += 1
        self._down(pivots)
        return self._measured()

    def _first_up(self) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
        """The first way up, through fewer entries where the evaluations left do not suffice for all that were found."""
        while True:
            try:
                return self._up()
            except LimitReachedError:
                if not self.scout.unequal or max(map(len, self.columns.values())) == 1:
                    raise
            self.columns = {node: rows[: (len(rows) + 1) // 2] for node, rows in self.columns.items()}

    def _rescaled(self) -> bool:
        old = self.box.unit
        if not self.box.rescaled():
            return False
        factor = old / self.box.unit
        self.scale *= factor
        self.best = None if self.best is None else self.best * factor
        self.samples = [Sample(s.rows, s.values * factor, s.weights * factor) for s in self.samples]
        return True

    def _fresh_samples(self, random_rows: np.ndarray, drawn: int, near: int) -> list[Sample]:
        """Random entries with some drawn from the approximation, and where few make the norm, entries around these."""
        assert self.x is not None
        mean, random = _rms_of(self.x), len(random_rows)
        rows = np.concatenate([random_rows, drawn_by_square(self.x, drawn, self.rng)])
        found = ht_entries(self.x, rows)
        weights = [weights_of_drawn(found, len(rows) - random, mean)]
        parts = [rows]
        if near and len(rows) > random:
            # What is not near the drawn ones is not drawn, though there may be many of such entries.
            bases = random + self.rng.randint(len(rows) - random, size=near)
            changed, alike = perturbed(rows[bases], self.dims, self.rng)
            parts.append(changed)
            weights.append(np.maximum(rms(found[random:]) / alike, max(mean, _SMALLEST)))
        values = self.box(parts)
        self.scout.note(values[0][:random])
        self.scale = max(self.scout.rms, mean)
        return [Sample(*each) for each in zip(parts, values, weights, strict=True)]

    def _up(self) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
        tree = self.tree
        factors: list[Any] = [None] * tree.n_nodes
        pivots: dict[int, np.ndarray] = {}
        for level in tree.levels:
            blocks = [grid([*self._below(node, pivots), self.columns[node]]) for node in level]
            for node, block, values in zip(level, blocks, self.box(blocks), strict=True):
                if node == tree.root:
                    factors[node] = values
                    continue
                width = values.shape[-1]
                candidates = block[..., 0, :].reshape(-1, tree.order) * self.masks[node]
                known = among(candidates, self.pivots.get(node))
                transfer, chosen = self._skeleton(values.reshape(-1, width), self.max_rank, known)
                factors[node] = transfer.reshape(*values.shape[:-1], -1)
                pivots[node] = candidates[chosen]
        return factors, pivots

    def _below(self, node: int, pivots: dict[int, np.ndarray]) -> list[np.ndarray]:
        return [pivots[c] for c in self.tree.children(node)] or [self.rows[node]]

    def _down(self, pivots: dict[int, np.ndarray]) -> None:
        tree = self.tree
        self.block_rows, self.block_values = [], []
        self.crossings: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.crossed: dict[int, np.ndarray] = {}
        self.missed = 0
        for level in reversed(tree.levels[1:]):
            blocks = [grid([*self._below(node, pivots), self.columns[node]]) for node in level]
            for node, block, values in zip(level, blocks, self.box(blocks), strict=True):
                some = np.arange(values.size)
                if values.size > _BLOCK_TESTS:
                    some = self.rng.randint(values.size, size=_BLOCK_TESTS)
                self.block_rows.append(block.reshape(-1, tree.order)[some])
                self.block_values.append(values.reshape(-1)[some])
                for axis, child in enumerate(tree.children(node)):
                    unfolded = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
                    candidates = np.moveaxis(block, axis, 0)[0].reshape(-1, tree.order) * (1 - self.masks[child])
                    known = among(candidates, self.columns[child])
                    chosen = self._skeleton(unfolded.T, None, known)[1]
                    self.columns[child] = candidates[chosen]
                    self.crossings[child] = candidates, unfolded

    def _skeleton(self, matrix: np.ndarray, max_rank: int | None, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The interpolation matrix of a column space, and the rows at which it interpolates."""
        # A column of small entries stands for many like it, where few entries make the norm.
        sizes = np.linalg.norm(matrix, axis=0)
        largest = sizes.max()
        if largest > 0:
            matrix = matrix * np.sqrt(largest / np.maximum(sizes, _LEAST_COLUMN * largest))
        U, S, _ = np.linalg.svd(matrix, full_matrices=False)
        # A typical block has entries of the tensor's mean size; where few entries make the norm, pivots are among them.
        wanted = self.share * self.tol * max(self.scale * math.sqrt(matrix.size), math.hypot(*S.tolist()))
        least = max(wanted, _ROUNDING * float(S[0]) * math.sqrt(len(S)))
        rank = kept(S, max_rank, least)
        return maxvol(U[:, :rank], known)

    def _measured(self) -> float:
        assert self.x is not None
        error = self._test()
        self.block_errors: list[np.ndarray] = []
        if self.block_rows:
            found = ht_entries(self.x, np.concatenate(self.block_rows))
            values = np.concatenate(self.block_values)
            errors = np.abs(found - values)
            self.block_errors = np.split(errors, np.cumsum([len(v) for v in self.block_values])[:-1])
            blocks = ratio(rms(errors), max(rms(values), self.scale))
            error = max(error, blocks / _EXTREME if self.scout.unequal else blocks)
        if self.best is not None:
            # What is known by now may show that the best one so far was not as good as it seemed.
            self.best_error = max(self.best_error, *(sample.error(self.best)[0] for sample in self.samples))
        if error < self.best_error or self.best is None or self.sweeps == 1:
            self.best, self.best_error = self.x, error
        return error

    def _test(self) -> float:
        assert self.x is not None
        errors, self.test_errors = zip(*(sample.error(self.x) for sample in self.samples), strict=True)
        return max(errors)

    def within(self, error: float) -> bool:
        """Whether an error is within the tolerance, with what rounding adds."""
        return error <= _WITHIN * self.tol

    def confirmed(self) -> bool:
        """Whether a second look agrees that the error is within the tolerance.

        It takes more fresh entries, and ascents to large ones from random entries and from some drawn from the
        approximation.  Where it does not agree, this is what is learnt from.
        """
        assert self.x is not None
        rows = self.scout.new_random_rows(3 * self.n_test)
        random = len(rows)
        self.samples = self._fresh_samples(rows, self.n_test, self._looks(8 * self.n_test))
        error = self._test()
        if self.within(error):
            tests = self.samples[0].rows
            ends, met = self.scout.second_look(tests[:random], tests[random:])
            # Each end on its own, as there may be many more of them than an enrichment takes of one block.
            self.block_rows = [met, *ends[:, None]]
            values = self.box(self.block_rows)
            found = ht_entries(self.x, np.concatenate(self.block_rows))
            actual = np.concatenate(values)
            errors, norm = np.abs(found - actual), max(rms(actual), self.scale)
            self.block_errors = np.split(errors, np.cumsum([len(v) for v in values])[:-1])
            self.missed = int(np.count_nonzero(errors[len(met) :] > self.tol * norm))
            error = max(error, ratio(rms(errors), norm))
        if self.within(error):
            crossing = self._cross()
            error = max(error, crossing / _EXTREME if self.scout.unequal else crossing)
        if self.best is self.x:
            self.best_error = max(self.best_error, error)
        return self.within(error)

    def enrich(self) -> None:
        """Add columns through the entries where the approximation errs most, half as many as the largest rank."""
        assert self.x is not None
        largest = max(self.x.rank)
        count = max(2, largest // 4, min(self.missed, _MOST_MISSED))
        sets = [(sample.rows, errors) for sample, errors in zip(self.samples, self.test_errors, strict=True)]
        picked = [worst(*each, (count + 1) // 2 // len(sets) + 1) for each in sets]
        # Errors come in families within a block; one of each of the worst blocks tells more than all of one.
        blocks = [worst(*each, 1) for each in zip(self.block_rows, self.block_errors, strict=True)]
        picked += sorted(blocks, key=lambda block: -float(block[1][0]))[: max(count // 2, self.missed)]
        errors = np.concatenate([errors for _, errors in picked])
        entries = np.concatenate([rows for rows, _ in picked])[np.argsort(-errors)]
        entries = entries[: np.count_nonzero(errors >= _NEGLIGIBLE * errors.max())]
        if not self.crossed:
            self._cross()
        for node, candidates in self.crossed.items():
            known = self.columns[node]
            new = unique(np.concatenate([known, entries * (1 - self.masks[node])]))[: len(known) + count]
            more = np.concatenate([new, candidates])
            most = len(known) + 2 * (self.bounds[node] - len(known)) + 6
            self.columns[node] = unique(more)[:most]

    def _cross(self) -> float:
        """Try new pivots: entries where a node's rows cross columns that its parent's and siblings' pivots allow.

        The largest relative error among the nodes is returned, and the columns at which a node interpolates worst
        become its candidates; all of a column would cost an evaluation per row.
        """
        assert self.x is not None
        nodes = [node for node in self.tree.edges if len(self.columns[node]) < self.bounds[node]]
        least = min(_MOST_TRIALS, self._looks(_ALL_TRIALS) // self.tree.n_nodes)
        grids, guesses, drawn = [], [], []
        for node in nodes:
            candidates, values = self.crossings[node]
            rows = grid(self._below(node, self.pivots)).reshape(-1, self.tree.order)
            transfer = self.x.factors[node].reshape(len(rows), -1)
            count = max(_TRIALS * max(2, len(values) // 2), least)
            i = self._drawn(np.linalg.norm(transfer, axis=1), count)
            j = self._drawn(np.linalg.norm(values, axis=0), count)
            grids.append(rows[i] + candidates[j])
            guesses.append(np.einsum("sa,as->s", transfer[i], values[:, j]))
            drawn.append(j)
        error = 0.0
        for node, guess, j, actual in zip(nodes, guesses, drawn, self.box(grids) if grids else [], strict=True):
            candidates, values = self.crossings[node]
            errors = np.abs(actual - guess)
            error = max(error, ratio(rms(errors), max(rms(actual), self.scale)))
            negligible = 0.1 * self.tol * max(self.scale, rms(actual))
            order = np.argsort(-errors)[: np.count_nonzero(errors > negligible)]
            self.crossed[node] = unique(candidates[j[order]])[: max(2, len(values))]
        return error

    def _looks(self, most: int) -> int:
        """Entries of a second look, in proportion to what the first ones cost; where few make the norm, the most."""
        return most if self.scout.unequal else min(self.box.evaluations // 8, most)

    def _drawn(self, sizes: np.ndarray, count: int) -> np.ndarray:
        """Indices, half of them drawn by the roots of sizes, the others alike."""
        roots = np.sqrt(sizes)
        ends = np.cumsum(roots + max(float(roots.mean()), _SMALLEST))
        return np.minimum(np.searchsorted(ends, self.rng.random_sample(count) * ends[-1]), len(sizes) - 1)

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
            return f"all {self.box.evaluations:,} entries met are zero{NAME_THEM}"
        return f"only {self.scout.nonzero:,} of {self.scout.seen:,} random entries are not zero{NAME_THEM}"

    def readable(self, entries: int | None) -> bool:
        """Whether the tensor has no more entries than that, and the evaluations allowed suffice to read the rest."""
        most = _MOST_ENTRIES if entries is None else min(entries, _MOST_ENTRIES)
        return self.box.entries <= most and self.box.left == self.box.entries - self.box.evaluations

    def read_all(self) -> None:
        """Decompose the tensor of all its entries."""
        step = 2**18
        parts = []
        for at in range(0, self.box.entries, step):
            numbers = np.arange(at, min(at + step, self.box.entries))
            parts += self.box([np.stack(np.unravel_index(numbers, self.dims), 1)])
        values = np.concatenate(parts)
        unit = self.box.unit
        if self._rescaled():
            values *= unit / self.box.unit
        self.best = hierarchical_tucker(values.reshape(self.dims), rank=self.max_rank, tree=self.tree, tol=self.tol)
        self.best_error = ratio(rms(self.best.to_vec() - values), rms(values))
        self.exact = True

    def rounded(self) -> tuple[HTTensor, float]:
        """The best tensor met, of the lowest ranks that half of the tolerance allows, and its error."""
        assert self.best is not None
        if self.exact:
            return self.best, self.best_error
        for finer in (1, 8, 64):
            x = self.best.round(tol=self.tol / finer)
            error = max(self.best_error, *(sample.error(x)[0] for sample in self.samples))
            # Rounding keeps within the tolerance in the norm, but samples can make more of it.
            if error <= max(2 * self.tol, 1.5 * self.best_error):
                break
        return x, error


def _rms_of(x: HTTensor) -> float:
    # In logarithms, as a norm can be beyond the range of doubles where a typical entry is of size one.
    return math.exp(float(log_norm(x.tree, x.factors)) - 0.5 * math.log(prod(x.shape)))
