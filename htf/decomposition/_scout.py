"""Where a function of indices is large: random entries, and ascents from them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from htf.decomposition._ascent import ascend
from htf.decomposition._black_box import BlackBox, LimitReachedError
from htf.decomposition._rows import unique
from htf.decomposition._samples import rms
from htf.linalg.backend import square

# Random entries other than zero that are looked for to begin with, among how many, and new ones by which alone an
# approximation can be judged.
_WANTED_NONZERO, _MOST_RANDOM, _LEAST_NONZERO = 8, 2**15, 5
# Where the norm is made by fewer than this part of random entries, these are not typical.
_UNEQUAL = 0.1
# The search for them, and the first ascents, may take this part of the evaluations.
_SHARE = 0.2
# First ascents where few entries make the norm, and the local maxima through which columns go at most.
_MOST_ASCENTS, _MOST_MAXIMA = 24, 16
# Local maxima below this part of the largest are none to begin with.
_NEGLIGIBLE = 1e-6
# Share of ascents that may end somewhere new.
_NEW = 0.05
# Steps of the ascents of a second look where entries are of like size.
_FEW_STEPS = 1


@dataclass
class Scout:
    """Random entries and ascents, and what they tell about the entries' sizes."""

    box: BlackBox
    n_test: int
    rng: Any
    start: np.ndarray
    seen: int = 0
    nonzero: int = 0
    witnesses: int = 0  # new random entries other than zero in a second look
    rms: float = 0.0  # of the random entries met last
    ascents: int = 0  # to begin with
    first: np.ndarray = field(init=False)  # random entries
    ends: np.ndarray = field(init=False)  # of all ascents, and the entries to start with
    reached: Counter[bytes] = field(default_factory=Counter)  # ends, by the ascents from random entries

    def __post_init__(self) -> None:
        self.ends = self.start

    @property
    def unequal(self) -> bool:
        """Whether few entries make the norm."""
        return self.ascents > 0

    @property
    def trusted(self) -> bool:
        """Whether so many random entries differ from zero that an approximation can be judged by them."""
        return self.witnesses >= _LEAST_NONZERO or len(self.start) > 0

    def random_rows(self, count: int) -> np.ndarray:
        drawn = [self.rng.randint(0, dim, size=count, dtype=np.int64) for dim in self.box.dims]
        return np.stack(drawn, 1)

    def note(self, values: np.ndarray) -> None:
        """Take note of values at random rows."""
        self.seen += len(values)
        self.nonzero += int(np.count_nonzero(values))
        largest = float(np.max(np.abs(values)))
        self.rms = largest
        if largest > 0:
            squares = square(values / largest)
            self.rms *= math.sqrt(float(squares.mean()))
            # As many equal entries beside zeros would have the same ratio of moments.
            effective = float(squares.sum() ** 2 / (squares**2).sum())
            if effective < _UNEQUAL * len(values):
                self.ascents = max(self.ascents, int(_MOST_ASCENTS * min(1, max(4 / effective, 0.25))))

    def begin(self, count: int) -> np.ndarray:
        """Index rows through which the first columns go.

        Where entries are of like size, random ones.  Where few make the norm, local maxima and entries around them, as
        columns through others would tell nothing.
        """
        rows = self.random_rows(self.n_test)
        try:
            values = self.box([rows])[0]
        except LimitReachedError:
            raise ValueError(f"max_evaluations is {self.box.limit}; n_test={self.n_test} alone takes more") from None
        self.note(values)
        self.first = rows
        most = self.box.evaluations + int(_SHARE * self.box.left)
        while self.nonzero < _WANTED_NONZERO and self.seen < _MOST_RANDOM and self.box.evaluations + self.seen <= most:
            more = self.random_rows(self.seen)
            values = np.concatenate([values, self.box([more])[0]])
            rows = np.concatenate([rows, more])
            self.note(values[-len(more) :])
        self.box.rescaled()
        if not self.unequal and not len(self.start):
            self.rms = rms(self.box([rows])[0])
            return self.random_rows(count)
        ends, met = self._ascents(rows, self.ascents, self.start, most - self.box.evaluations)
        self.box.rescaled()
        self.rms = rms(self.box([rows])[0])
        ends, sizes = self._largest_first(ends)
        ends = ends[sizes >= _NEGLIGIBLE * self.box.largest][: max(count, _MOST_MAXIMA)]
        near = self._largest_first(met)[0][: max(count, len(ends) + 2)]
        return np.concatenate([self.start, ends, near, self.random_rows(0 if self.unequal else count)])

    def new_random_rows(self, count: int) -> np.ndarray:
        """Random rows, as many more as it takes to meet new entries that are not zero."""
        rows, self.witnesses = self.random_rows(0), 0
        most = min(_MOST_RANDOM if self.box.largest > 0 else 0, self.box.left)
        while len(rows) < count or (not self.trusted and len(rows) < most):
            more = self.random_rows(max(count - len(rows), len(rows)))
            new = ~self.box.known(more)
            self.witnesses += int(np.count_nonzero(self.box([more])[0][new]))
            rows = np.concatenate([rows, more])
        return rows

    def second_look(self, random: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index rows on which to judge an approximation: the ends of ascents, and others met on their ways.

        Ascents are made from random entries and from large ones of the approximation.  Where few entries make the
        norm, they go on while more than `_NEW` of those from random entries ended where no other did: such is the share
        of ascents that would end somewhere new (I. J. Good, 1953).  A rugged function has new ends for ever, so they
        take a sixteenth of the evaluations.
        """
        if not self.unequal:
            met = [self._ascents(random, 1, drawn[:1], self.box.entries, _FEW_STEPS)[1]]
        else:
            met = [self._ascents(random, self.ascents // 2, self._largest_first(drawn)[0][:4], self.box.entries)[1]]
            most = self.box.evaluations * 17 // 16
            while self._share_of_new() > _NEW and self.box.evaluations < most:
                count = len(random)
                random = random[self.rng.permutation(count)[: count // 2]]
                if not np.any(self.box([random])[0]):
                    break
                met.append(self._ascents(random, self.ascents, random[:0], most - self.box.evaluations)[1])
        return self.ends, np.concatenate([self.first, *met])

    def _share_of_new(self) -> float:
        counts = list(self.reached.values())
        return sum(count == 1 for count in counts) / max(sum(counts), 1)

    def _ascents(
        self, rows: np.ndarray, count: int, others: np.ndarray, allowance: int, steps: int = 60
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ascents from `count` of the random rows, half of them the largest, and from the others."""
        sizes = np.abs(self.box([rows])[0])
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        rest = order[(count + 1) // 2 :]
        chosen = np.concatenate([order[: (count + 1) // 2], self.rng.permutation(rest)[: count // 2]])
        ends, met = ascend(self.box, np.concatenate([rows[chosen], others]), allowance, steps)
        for end in ends[: len(chosen)]:
            self.reached[end.tobytes()] += 1
        self.ends = unique(np.concatenate([self.ends, ends]))
        return ends, met

    def _largest_first(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Different rows by the size of their values, and the sizes."""
        rows = unique(rows)
        sizes = np.abs(self.box([rows])[0])
        order = np.argsort(-sizes, kind="stable")
        return rows[order], sizes[order]
