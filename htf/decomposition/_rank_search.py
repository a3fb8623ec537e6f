"""The search for a fit to some entries: which rank, from where, over which detours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from htf.decomposition._least_squares import Fit, Observed, Options
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


def completed(
    observed: Observed, ranks: tuple[int, ...] | None, options: Options, validation: float, rng: Any
) -> tuple[HTTensor, list[float], float | None, bool]:
    """The fit, the errors of all passes that led to it, its error at entries held out, and whether it converged."""
    if ranks is None:
        errors: list[float] = []
        start, held = _of_found_rank(observed, options, validation, rng, errors)
        fit = Fit(observed, start, options)
        converged = fit.run(options.n_iter_max, options.tol, errors)
        return fit.tensor, errors, held, converged
    best: tuple[HTTensor, list[float], float | None, bool] | None = None
    for start in _starts(observed, options, rng):
        found = _of_rank(observed, start, ranks, options, rng)
        if best is None or found[1][-1] < best[1][-1]:
            best = found
        if best[1][-1] <= options.tol:
            break
    assert best is not None
    return best


def _of_rank(
    observed: Observed, start: HTTensor, ranks: tuple[int, ...], options: Options, rng: Any
) -> tuple[HTTensor, list[float], None, bool]:
    """The fit of given ranks that is reached from a tensor of rank 1."""
    errors: list[float] = []
    for highest in range(1, max(ranks)):
        fit = Fit(observed, start, options)
        fit.run(_GROWTH_PASSES, options.tol, errors, least_gain=0.05)
        start = _grown(observed, fit.tensor, [min(highest + 1, r) for r in ranks], options, rng)
    fit = Fit(observed, start, options)
    converged = fit.run(options.n_iter_max, options.tol, errors)
    return *_detoured(observed, fit.tensor, ranks, options, rng, errors, converged), None, converged


def _detoured(
    observed: Observed,
    x: HTTensor,
    ranks: tuple[int, ...],
    options: Options,
    rng: Any,
    errors: list[float],
    converged: bool,
) -> tuple[HTTensor, list[float]]:
    """The better of a fit and of those reached from it over higher ranks, where local minima are fewer."""
    for extra in range(1, _DETOURS + 1):
        if errors[-1] <= options.tol or not converged or max(ranks) == 1:
            break
        error, tried = errors[-1], list[float]()
        fit = Fit(observed, _grown(observed, x, [r + extra for r in ranks], options, rng), options)
        fit.run(2 * _GROWTH_PASSES, options.tol, tried, least_gain=0.01)
        fit = Fit(observed, fit.tensor.round(rank=[*ranks[:-1], 1]), options)
        fit.run(options.n_iter_max, options.tol, tried)
        if tried[-1] < 0.95 * error:
            x = fit.tensor
            errors += tried
    return x, errors


def _starts(observed: Observed, options: Options, rng: Any) -> list[HTTensor]:
    """Two tensors of rank 1 after a few passes, the better first: one from near a constant, one from random signs.

    At high orders products of signed numbers have next to nothing to do with the data, and least squares do not lead
    away from there; what has no mean is met by signs.
    """
    signed = random_ht(observed.dims, 1, observed.tree, random_state=rng, like=observed.values)
    order = observed.tree.order
    constant_like = [1 + 0.3 * f if node < order else f * 0 + 1 for node, f in enumerate(signed.factors)]
    found = []
    for start in (HTTensor._of(observed.tree, constant_like), signed):
        errors: list[float] = []
        fit = Fit(observed, start, options)
        fit.run(3, options.tol, errors)
        found.append((errors[-1], fit.tensor))
    return [x for _, x in sorted(found, key=lambda pair: pair[0])]


def _grown(observed: Observed, x: HTTensor, caps: Sequence[int], options: Options, rng: Any) -> HTTensor:
    """The tensor with one of rank 1 added, fitted to its residual; ranks at most `caps`."""
    residual = observed.values - x.entries(observed.rows)
    rest = Observed(observed.B, observed.tree, observed.dims, observed.rows, residual)
    fit = Fit(rest, _starts(rest, options, rng)[0], options)
    fit.run(5, 0.0, [])
    return ht_add(x, fit.tensor).round(rank=[*caps[:-1], 1])


def _of_found_rank(
    observed: Observed, options: Options, validation: float, rng: Any, errors: list[float]
) -> tuple[HTTensor, float]:
    """The fit whose rank predicts the entries held out best, and its error there."""
    count = len(observed.rows)
    if count < 2:
        return _starts(observed, options, rng)[0], math.nan
    order = rng.permutation(count)
    cut = min(max(round(validation * count), 1), count - 1)
    held, fitted = observed.some(order[:cut]), observed.some(order[cut:])
    bounds = rank_bounds(observed.tree, observed.dims)

    def fit_from(start: HTTensor) -> tuple[HTTensor, float]:
        fit = Fit(fitted, start, options)
        found, error = start, math.inf
        for _ in range(max(options.n_iter_max // _GROWTH_PASSES, 1)):
            done = fit.run(_GROWTH_PASSES, options.tol, errors, least_gain=0.01)
            reached = held.error(fit.tensor)
            slow = reached > 0.95 * error
            if reached < error:
                found, error = fit.tensor, reached
            # Further passes would fit noise, or crawl where one more rank leads on.
            if done or slow:
                break
        return found, error

    def higher(best: HTTensor, best_error: float) -> tuple[HTTensor, float]:
        x, failures = best, 0
        for highest in range(max(best.rank) + 1, max(bounds) + 1):
            start = _grown(fitted, x, [min(highest, b) for b in bounds], options, rng)
            if n_parameters(observed.tree, observed.dims, start.rank) > len(fitted.rows):
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

    best, error = fit_from(_starts(fitted, options, rng)[0])
    for _ in range(_DETOURS):
        grown, grown_error = higher(best, error) if error > 10 * options.tol else (best, error)
        best, error = lower(grown, grown_error)
        # Where fewer directions predict better, growth went astray, and may do better from here.
        if error <= 10 * options.tol or error > 0.95 * grown_error:
            break
    return best, error
