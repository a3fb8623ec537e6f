"""The largest accuracy that fits into a budget of parameters, by bisection on one error common to all layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from htf._checks import positive

T = TypeVar("T")

LEAST = 1e-4
_CLOSE, _NEAR = 1.01, 0.98


def check_budget(budget: float | int, total: int) -> int:
    """A number of parameters from a number or a share of the whole."""
    if not isinstance(budget, float):
        try:
            return positive("budget", budget)
        except TypeError:
            raise TypeError(f"budget is {budget!r}; expected a share (float) or a number (int) of parameters") from None
    if not 0 < budget <= 1:
        raise ValueError(
            f"budget is {budget}; expected a share above 0 and up to 1, or a number of parameters as an int"
        )
    return math.floor(budget * total)


def fit_into(limit: int, attempt: Callable[[float], tuple[int, T]], smallest: Callable[[], tuple[int, T]]) -> T:
    """Result of `attempt` at the smallest error at which its size is within the limit.

    Parameters
    ----------
    limit : int
    attempt : callable
        From an error to the size and the thing; sizes fall as errors rise.
    smallest : callable
        The smallest size and its thing.

    Raises
    ------
    ValueError
        If the smallest is above the limit.

    Notes
    -----
    Errors are bisected on a logarithmic scale until they are known to 1 %, or 98 % of the limit are used.
    """
    size, found = attempt(LEAST)
    if size <= limit:
        return found
    size, best = smallest()
    if size > limit:
        raise ValueError(f"budget is {limit} parameters; the smallest that can be reached is {size}")
    low, high = LEAST, 1.0
    while high / low > _CLOSE:
        middle = math.sqrt(low * high)
        size, found = attempt(middle)
        low, high, best = (low, middle, found) if size <= limit else (middle, high, best)
        if _NEAR * limit <= size <= limit:
            break
    return best
