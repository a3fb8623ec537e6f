"""The search for a fit to some entries: which rank, from where, over which detours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from htf.decomposition._held_out import NOTHING_FOUND, Judged, Split, exact, held_out
from htf.decomposition._least_squares import Fit, Observed, Options
from htf.decomposition._spectral_start import Directions
from htf.linalg.backend import asarray
from htf.tensors.arithmetic import ht_add
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.random import random_ht
from htf.tensors.rank import n_parameters, rank_bounds

# Passes for one added rank, before the last one has been added.
_GROWTH_PASSES = 15
# Fits of higher rank that may fail to lower the validation error before the search for a rank ends.
_PATIENCE = 3
# Detours over higher ranks for a fit of given rank that ends above the tolerance.
_DETOURS = 3
# Searches from other starts, of which the entries held out choose one.
_ATTEMPTS = 5
# No further one is begun after this many times the most passes of one fit, nor a detour after this many in a search.
_LARGEST_EFFORT = 5
_LARGEST_DETOUR = 2
# Tensors of rank 1 that are tried in the span of leading eigenvectors, by the first search and by each later one, and
# how many eigenvectors that are.
_FEW_DRAWS, _DRAWS = 1, 12
_DIRECTIONS = 3


@dataclass(frozen=True)
class Completed:
    """A fit to all entries, and what is known of it.

    Attributes
    ----------
    tensor : HTTensor
    errors : list of float
        After every pass of all fits that led to it.
    held : float or None
        Relative error at the entries held out of the fit that it went on from, which was made without them.
    stopped : bool
        Whether the last fit ended before the most passes allowed.
    confirmed : bool
        Whether the entries held out confirm the fit; see `ht_completion`.
    """

    tensor: HTTensor
    errors: list[float]
    held: float | None
    stopped: bool
    confirmed: bool


def completed(
    observed: Observed, ranks: tuple[int, ...] | None, options: Options, validation: float, rng: Any
) -> Completed:
    """Fit from several starts without some of the entries, which choose among the fits; then fit the best to all."""
    split = held_out(observed, ranks, validation, rng)
    best: Judged | None = None
    confirmed, spent = False, 0
    for attempt in range(_ATTEMPTS):
        search = Search(split, options, _DRAWS if attempt else _FEW_DRAWS, rng)
        found = search.of_found_rank() if ranks is None else search.of_rank(ranks)
        agree = best is not None and found.consistent(split) and best.consistent(split) and found.same(best, split)
        if best is None or found.score < best.score:
            best = found
        confirmed = best.exact(options.tol) or best.convincing(split) or agree
        spent += search.passes
        # Without anything held out, nothing that another start finds can confirm it.
        if confirmed or spent > _LARGEST_EFFORT * options.n_iter_max or (split.held is None and attempt >= 1):
            break
    assert best is not None
    fit, errors = Fit(observed, best.tensor, options), list(best.errors)
    stopped = fit.run(options.n_iter_max, options.tol, errors)
    if split.held is None:
        confirmed = observed.complete or observed.tree.order == 1
    elif observed.complete and exact(errors[-1], options.tol):
        confirmed = True
    # The entries that were held out may not pull the fit away from where it was.
    elif errors[-1] > 2 * max(best.score, options.tol):
        confirmed = False
    # Nor may it have left a fit that is hardly better than zero.
    confirmed = confirmed and errors[-1] <= NOTHING_FOUND
    return Completed(fit.tensor, errors, best.held, stopped, confirmed)


@dataclass
class Search:
    """One search from a start of its own.

    Attributes
    ----------
    split : Split
    options : Options
    draws : int
        Tensors of rank 1 that are tried in the span of leading eigenvectors, whenever one is added.
    rng : RandomState
    passes : int
        Made so far by fits of more than one added tensor of rank 1.
    """

    split: Split
    options: Options
    draws: int
    rng: Any
    passes: int = 0

    def of_rank(self, ranks: tuple[int, ...]) -> Judged:
        """The fit of given ranks that is reached from a tensor of rank 1."""
        errors: list[float] = []
        start = self._rank_one(self.split)
        for highest in range(1, max(ranks)):
            fit = Fit(self.split.fitted, start, self.options)
            fit.run(_GROWTH_PASSES, self.options.tol, errors, least_gain=0.05)
            start = self._grown(fit.tensor, [min(highest + 1, r) for r in ranks])
        return self._detoured(self._judged(start, errors), ranks)

    def of_found_rank(self) -> Judged:
        """The fit whose rank predicts the entries held out best."""
        fitted, options = self.split.fitted, self.options
        errors: list[float] = []
        if self.split.held is None:
            return self._judged(self._rank_one(self.split), errors)
        bounds = rank_bounds(fitted.tree, fitted.dims)

        def fit_from(start: HTTensor) -> tuple[HTTensor, float]:
            fit, made = Fit(fitted, start, options), len(errors)
            found, error = start, math.inf
            for _ in range(max(options.n_iter_max // _GROWTH_PASSES, 1)):
                done = fit.run(_GROWTH_PASSES, options.tol, errors, least_gain=0.01)
                reached = self.split.error(fit.tensor)
                slow = reached > 0.95 * error
                if reached < error:
                    found, error = fit.tensor, reached
                # Further passes would fit noise, or crawl where one more rank leads on.
                if done or slow:
                    break
            self.passes += len(errors) - made
            return found, error

        def higher(best: HTTensor, best_error: float) -> tuple[HTTensor, float]:
            x, failures = best, 0
            for highest in range(max(best.rank) + 1, max(bounds) + 1):
                start = self._grown(x, [min(highest, b) for b in bounds])
                if n_parameters(fitted.tree, fitted.dims, start.rank) > len(fitted.rows):
                    break
                x, error = fit_from(start)
                failures = 0 if error < 0.9 * best_error else failures + 1
                if error < best_error:
                    best, best_error = x, error
                if best_error <= 10 * options.tol or failures >= _PATIENCE:
                    break
            return best, best_error

        def lower(best: HTTensor, best_error: float) -> tuple[HTTensor, float]:
            # Directions that only follow rounding error or noise are weak, but stronger than the error that they leave.
            fits = [(best, best_error)]
            fits += [fit_from(best.round(tol=min(tol, 0.5))) for tol in (best_error, math.sqrt(best_error))]
            enough = 1.05 * min(error for _, error in fits) + options.tol
            return [(x, error) for x, error in fits if error <= enough][-1]

        best, error = fit_from(self._rank_one(self.split))
        for _ in range(_DETOURS):
            grown, grown_error = higher(best, error) if error > 10 * options.tol else (best, error)
            best, error = lower(grown, grown_error)
            # Where fewer directions predict better, growth went astray, and may do better from here.
            if error <= 10 * options.tol or error > 0.95 * grown_error:
                break
        errors.append(fitted.error(best))
        return Judged(best, errors, error, True)

    def _judged(self, start: HTTensor, errors: list[float]) -> Judged:
        """A fit from a tensor, ended where only the entries that are fitted are still met better."""
        fit, made = Fit(self.split.fitted, start, self.options), len(errors)
        held, left, stopped = math.inf, self.options.n_iter_max, False
        while left and not stopped:
            passes = min(2 * _GROWTH_PASSES, left)
            stopped = fit.run(passes, self.options.tol, errors)
            left, before, held = left - passes, held, self.split.error(fit.tensor)
            stopped = stopped or held > 0.99 * before
        self.passes += len(errors) - made
        return Judged(fit.tensor, errors, None if self.split.held is None else held, stopped)

    def _detoured(self, found: Judged, ranks: tuple[int, ...]) -> Judged:
        """The better of a fit and of those reached from it over higher ranks, where local minima are fewer."""
        for extra in range(1, _DETOURS + 1):
            if found.exact(self.options.tol) or not found.stopped or max(ranks) == 1:
                break
            # From a fit that predicts nothing, another start is the shorter way.
            if found.score > NOTHING_FOUND or self.passes > _LARGEST_DETOUR * self.options.n_iter_max:
                break
            tried: list[float] = []
            start = self._grown(found.tensor, [r + extra for r in ranks])
            fit = Fit(self.split.fitted, start, self.options)
            fit.run(2 * _GROWTH_PASSES, self.options.tol, tried, least_gain=0.01)
            self.passes += len(tried)
            other = self._judged(fit.tensor.round(rank=[*ranks[:-1], 1]), tried)
            if other.score < 0.95 * found.score:
                found = Judged(other.tensor, found.errors + tried, other.held, other.stopped)
        return found

    def _grown(self, x: HTTensor, caps: Sequence[int]) -> HTTensor:
        """The tensor with one of rank 1 added, fitted to its residual; ranks at most `caps`."""
        return ht_add(x, self._rank_one(self.split.minus(x))).round(rank=[*caps[:-1], 1])

    def _rank_one(self, split: Split) -> HTTensor:
        """A tensor of rank 1 after a few passes: of those from several starts, the nearest to the entries held out."""
        best, error = None, math.inf
        for start in self._starts(split.fitted):
            fit = Fit(split.fitted, start, self.options)
            fit.run(min(_GROWTH_PASSES, self.options.n_iter_max), self.options.tol, [], least_gain=0.01)
            reached = split.error(fit.tensor)
            if best is None or reached < error:
                best, error = fit.tensor, reached
            if split.beyond_chance(best):
                break
        assert best is not None
        return best

    def _starts(self, fitted: Observed) -> Iterator[HTTensor]:
        """Tensors of rank 1: from near a constant or from random signs, then in the span of leading eigenvectors.

        At high orders products of signed numbers have next to nothing to do with the data, and least squares do not
        lead away from there; what has no mean is met by signs.  With few entries neither leads anywhere; spectra do.
        """
        signed = random_ht(fitted.dims, 1, fitted.tree, random_state=self.rng, like=fitted.values)
        order = fitted.tree.order
        constant_like = [1 + 0.3 * f if node < order else f * 0 + 1 for node, f in enumerate(signed.factors)]
        found = []
        for start in (HTTensor._of(fitted.tree, constant_like), signed):
            errors: list[float] = []
            fit = Fit(fitted, start, self.options)
            fit.run(3, self.options.tol, errors)
            found.append((errors[-1], fit.tensor))
        yield min(found, key=lambda pair: pair[0])[1]
        directions = Directions(fitted.rows, fitted.numbers, fitted.dims, _DIRECTIONS, self.rng)
        if directions.known:
            yield _outer(fitted, directions.first(self.rng))
            for _ in range(self.draws):
                yield _outer(fitted, directions.draw(self.rng))


def _outer(fitted: Observed, vectors: Sequence[np.ndarray]) -> HTTensor:
    B, tree = fitted.B, fitted.tree
    frames = [asarray(B, vector[:, None], fitted.values) for vector in vectors]
    ones = [asarray(B, np.ones((1,) * (len(tree.children(n)) + 1)), fitted.values) for n in tree.inner_nodes]
    return HTTensor._of(tree, [*frames, *ones])
