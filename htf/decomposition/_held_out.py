"""Entries that are held out of a completion: which ones, and what they say about a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from htf.decomposition._least_squares import Observed, doubled
from htf.linalg.backend import square
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import n_parameters

# A fit whose error at entries held out is this many times what its error at the others lets expect has not found what
# the entries have in common; and this many standard errors more where few are held out.
_LARGEST_RATIO = 1.5
_STANDARD_ERRORS = 4.0
# The same where the error is large, and a fit to noise would otherwise pass for one to a tensor under noise.
_STRICT_RATIO = 1.2
# A relative error at entries held out below which a fit has found the tensor, whatever its error at the others.
_EXACT = 1e-5
# Where entries held out are met to this, the fit is taken for right; a larger error has to be found from another start.
_SURE = 0.1
# A relative error above which a fit has found nothing, as zeros have an error of 1.
NOTHING_FOUND = 0.9
# Relative difference of predictions up to which two fits are the same.
_SAME = 0.1
# Standard errors by which the squared error at entries held out has to fall for a prediction to be more than chance.
_SIGNIFICANT = 3.0


@dataclass(frozen=True)
class Split:
    """Entries that are fitted, and those held out; None where none could be."""

    fitted: Observed
    held: Observed | None

    def error(self, x: HTTensor) -> float:
        """Error at the entries held out, in root mean squares of the others, as those may be few; at all if none is."""
        if self.held is None:
            return self.fitted.error(x)
        missed = np.sqrt(np.mean(square(self.held.numbers - _numbers(x, self.held))))
        return float(missed / (np.sqrt(np.mean(square(self.fitted.numbers))) or 1.0))

    def minus(self, x: HTTensor) -> Split:
        """The same split of what a tensor leaves."""
        return Split(self.fitted.minus(x), self.held and self.held.minus(x))

    def beyond_chance(self, x: HTTensor) -> bool:
        """Whether a tensor is nearer to the entries held out than zeros are, by more than their number explains."""
        if self.held is None or len(self.held.rows) < 8:
            return False
        known, seen = self.held.numbers, _numbers(x, self.held)
        gains = square(known) - square(known - seen)
        return bool(gains.mean() > _SIGNIFICANT * gains.std() / math.sqrt(len(gains)))


def exact(error: float, tol: float) -> bool:
    """Whether an error is one of rounding, or of a tolerance that was asked for."""
    return error <= max(_EXACT, 4 * tol)


@dataclass(frozen=True)
class Judged:
    """A fit to the entries of a split, and what those held out say about it.

    Attributes
    ----------
    tensor : HTTensor
    errors : list of float
        Relative errors at the entries fitted, pass by pass; the last is that of the tensor.
    held : float or None
        Relative error at the entries held out.
    stopped : bool
        Whether the fit ended before the most passes allowed.
    """

    tensor: HTTensor
    errors: list[float]
    held: float | None
    stopped: bool

    @property
    def score(self) -> float:
        """Error by which fits are compared."""
        return self.errors[-1] if self.held is None else self.held

    def exact(self, tol: float) -> bool:
        """Whether it is so near that no noise and no local minimum can be meant."""
        return exact(self.score, tol)

    def consistent(self, split: Split) -> bool:
        """Whether the error at the entries held out is what the error at the others lets expect.

        Least squares with p parameters and n entries under noise have squared errors of (1 - p/n) and (1 + p/n) times
        the noise's at the entries fitted and at others (Akaike's final prediction error).
        """
        if self.held is None or split.held is None:
            return False
        count = len(split.fitted.rows)
        p = n_parameters(split.fitted.tree, split.fitted.dims, self.tensor.rank)
        if p >= count:
            return False
        expected = self.errors[-1] * math.sqrt((count + p) / (count - p))
        ratio = max(_LARGEST_RATIO, 1 + _STANDARD_ERRORS / math.sqrt(2 * len(split.held.rows)))
        if self.held > _SURE:
            ratio = _STRICT_RATIO
        return self.held <= ratio * expected and self.held <= NOTHING_FOUND

    def convincing(self, split: Split) -> bool:
        """Whether it is consistent and so near that no second fit has to confirm it."""
        return self.consistent(split) and self.score <= _SURE

    def same(self, other: Judged, split: Split) -> bool:
        """Whether two fits predict the same where nothing was fitted."""
        if split.held is None:
            return False
        ours, theirs = _numbers(self.tensor, split.held), _numbers(other.tensor, split.held)
        return bool(np.linalg.norm(ours - theirs) <= _SAME * np.linalg.norm(ours))


def held_out(observed: Observed, ranks: tuple[int, ...] | None, share: float, rng: np.random.RandomState) -> Split:
    """Part of the entries at random, so that every slice of the others still determines its row of a leaf's frame.

    Entries of one index tuple stay together: a copy of what was fitted would show nothing.
    """
    order = observed.tree.order
    tuples, copy_of = observed.tuples
    if order == 1 or len(tuples) < 2:
        return Split(observed, None)
    drawn = rng.permutation(len(tuples))
    wanted = max(round(share * len(tuples)), 1)
    least = (1,) * order if ranks is None else ranks[:order]
    chosen = drawn[:0]
    for keep in ([3 * r for r in least], [2 * r for r in least], [r + 1 for r in least]):
        free = np.ones(len(drawn), dtype=bool)
        for mode in range(order):
            column = tuples[drawn, mode]
            by_index = np.argsort(column, kind="stable")
            counts = np.bincount(column, minlength=observed.dims[mode])
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            place = np.empty(len(drawn), dtype=np.int64)
            place[by_index] = np.arange(len(drawn)) - starts
            free &= place < counts[column] - keep[mode]
        chosen = drawn[free][:wanted]
        if len(chosen) == wanted:
            break
    if not len(chosen):
        return Split(observed, None)
    held = np.isin(copy_of, chosen)
    return Split(observed.some(np.flatnonzero(~held)), observed.some(np.flatnonzero(held)))


def _numbers(x: HTTensor, at: Observed) -> np.ndarray:
    return doubled(x.entries(at.rows))
