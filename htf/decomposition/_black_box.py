"""The function that a cross approximation reads: its values checked, counted and remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from htf.linalg.backend import host_array

IndexFunction = Callable[[np.ndarray], Any]

# Index entries of one call of the function: 128 MB.
_BATCH_ENTRIES = 2**24
# Sizes of the largest value within which nothing is rescaled; squares of all others have to stay in range too.
_PLAIN_RANGE = 1e-100, 1e100


class LimitReachedError(Exception):
    """The next evaluation would be one too many."""


class BlackBox:
    """Values of the function at index rows, each evaluated once and divided by `unit`, a power of two.

    Complex values are refused where all have to be `real`.
    """

    def __init__(self, function: IndexFunction, dims: tuple[int, ...], limit: int | None, real: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"function is a {type(function).__name__}; expected a callable")
        self.function, self.dims, self.limit, self.real = function, dims, limit, real
        self.entries = prod(dims)
        self.evaluations = 0
        self.unit = 1.0
        self.dtype: type = np.float64  # complex128 from the first complex value on
        self._largest = 0.0
        # What is known lies in runs sorted by key, each at least twice as long as the next: (keys, checks, values).
        self._runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # Two random words per index of a mode; those of an index row are combined by exclusive or (Zobrist 1970).
        # Rows that share both words are taken for one, which 10^9 rows do with a probability of 10^-21.
        words = np.random.RandomState(0).randint(0, 2**64, size=(sum(dims), 2), dtype=np.uint64)
        self._words = np.split(words, np.cumsum(dims)[:-1])

    @property
    def order(self) -> int:
        return len(self.dims)

    @property
    def largest(self) -> float:
        """The largest size of a value met."""
        return self._largest / self.unit

    @property
    def left(self) -> int:
        """Entries that may still be evaluated."""
        unknown = self.entries - self.evaluations
        return unknown if self.limit is None else min(unknown, self.limit - self.evaluations)

    def rescaled(self) -> bool:
        """Fit the unit to the largest value met; whether that changed it, and with it all values handed out."""
        if self._largest == 0 or _PLAIN_RANGE[0] < self.largest < _PLAIN_RANGE[1]:
            return False
        self.unit = 2.0 ** (math.frexp(self._largest)[1] - 1)
        return True

    def __call__(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values at arrays of index rows (..., order), in as few calls as memory allows."""
        values: list[np.ndarray] = []
        for group in _batches(blocks):
            rows = np.concatenate([block.reshape(-1, self.order) for block in group])
            found = self._values(rows) / self.unit
            ends = np.cumsum([block.size // self.order for block in group])[:-1]
            values += [v.reshape(b.shape[:-1]) for v, b in zip(np.split(found, ends), group, strict=True)]
        return values

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Which of the index rows (count, order) have been evaluated."""
        return self._looked_up(self._hashed(rows, 0), self._hashed(rows, 1))[1]

    def _looked_up(self, keys: np.ndarray, checks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values: np.ndarray = np.empty(len(keys), self.dtype)
        known = np.zeros(len(keys), dtype=bool)
        for run_keys, run_checks, run_values in self._runs:
            at = np.minimum(np.searchsorted(run_keys, keys), len(run_keys) - 1)
            hit = (run_keys[at] == keys) & (run_checks[at] == checks)
            values[hit], known = run_values[at[hit]], known | hit
        return values, known

    def _values(self, rows: np.ndarray) -> np.ndarray:
        keys, first, inverse = np.unique(self._hashed(rows, 0), return_index=True, return_inverse=True)
        checks = self._hashed(rows[first], 1)
        values, known = self._looked_up(keys, checks)
        if not known.all():
            new = ~known
            # In the order in which they were asked for, which is the one that a reader of the calls expects.
            order = np.argsort(first[new], kind="stable")
            evaluated = self._evaluated(rows[first[new][order]])
            found: np.ndarray = np.empty(len(order), self.dtype)
            found[order] = evaluated
            values = values.astype(self.dtype, copy=False)
            values[new] = found
            self._remember(keys[new], checks[new], found)
        return values[inverse.reshape(-1)]

    def _hashed(self, rows: np.ndarray, word: int) -> np.ndarray:
        keys = np.zeros(len(rows), dtype=np.uint64)
        for mode, words in enumerate(self._words):
            keys ^= words[rows[:, mode], word]
        return keys

    def _remember(self, keys: np.ndarray, checks: np.ndarray, values: np.ndarray) -> None:
        self._runs.append((keys, checks, values))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            joint = [np.concatenate(parts) for parts in zip(self._runs.pop(-2), self._runs.pop(), strict=True)]
            order = np.argsort(joint[0], kind="stable")
            self._runs.append((joint[0][order], joint[1][order], joint[2][order]))

    def _evaluated(self, rows: np.ndarray) -> np.ndarray:
        if self.limit is not None and self.evaluations + len(rows) > self.limit:
            raise LimitReachedError
        self.evaluations += len(rows)
        # The function may write to what it is given; error messages need the rows as they were.
        returned = self.function(rows.copy())
        values = host_array(returned, "what function returned")
        if values.dtype.kind not in "fiubc":
            raise TypeError(f"function returned values of dtype {values.dtype}; expected numbers")
        if values.shape != (len(rows),):
            raise ValueError(f"function returned shape {values.shape}; expected ({len(rows)},), a value per index row")
        if values.dtype.kind == "c":
            if self.real:
                raise TypeError(f"function returned values of dtype {values.dtype}; expected real ones, as like is")
            self.dtype = np.complex128
        values = values.astype(self.dtype)
        if not np.isfinite(values).all():
            worst = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"function returned {values[worst]} at index row {rows[worst].tolist()}")
        self._largest = max(self._largest, float(np.max(np.abs(values))))
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
