"""Which batch fits a device's memory, found when one did not."""

from __future__ import annotations

from collections.abc import Callable

import torch


def largest_fitting(attempt: Callable[[int], object], size: int, least: int = 1) -> int:
    """The first of size, size / 2, size / 4, ... that `attempt` survives.

    Parameters
    ----------
    attempt : callable
        Raises torch.OutOfMemoryError where so many samples are too many.
    size, least : int
        The first to try, and the smallest.

    Returns
    -------
    int
        0 if none does.
    """
    while size >= least:
        if torch.cuda.is_available():
            # What is cached in pieces for the batch that failed must not stand in the way.
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            size //= 2
        else:
            return size
    return 0
