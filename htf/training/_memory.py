"""Memory of a training: which batch fits a device, found when one did not, and what is kept from step to step."""

from __future__ import annotations

from collections.abc import Callable

import torch

# The largest block that the C library of Linux will keep.
_KEPT = 31 * 2**20


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


def keep_freed_memory() -> None:
    """Let the process keep the memory that a step frees, for the next one.

    Blocks larger than the largest that it has freed, 128 KiB at first, the C library of Linux takes from the system and
    gives back at every step: the system clears each page anew, which takes longer than a small training's arithmetic.
    Untouched memory costs nothing.
    """
    torch.empty(_KEPT, dtype=torch.uint8, device="cpu")
