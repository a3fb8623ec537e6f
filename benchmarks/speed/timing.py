"""Steps of several sides timed in one run: they take turns, so that a change of the machine's speed meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Step = Callable[[], Any]
WARM = 2  # steps of each side before any is timed


def take_turns(sides: Sequence[Step], turns: int, steps: int, device: torch.device) -> list[list[float]]:
    """Mean seconds of a step of each side, in each turn of so many steps."""
    for side in sides:
        _seconds(side, WARM, device)
    return [[_seconds(side, steps, device) for side in sides] for _ in range(turns)]


def _seconds(step: Step, times: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times
