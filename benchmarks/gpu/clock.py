"""Times of calls on a device, and steps as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device, budget: float = 0.5, rounds: int = 5) -> float:
    """Seconds of one call: the median over `rounds` of means, after warming up; about `budget` seconds in all."""
    call()
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    once = time.perf_counter() - began
    count = max(1, min(1000, int(budget / rounds / max(once, 1e-7))))
    if once > budget:
        return once
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            call()
        synchronize(device)
        times.append((time.perf_counter() - began) / count)
    return median(times)


def kernels_of(call: Callable[[], Any], device: torch.device) -> int | None:
    """How many kernels one call launches; None where there are none."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    call()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        call()
        synchronize(device)
    return sum(event.count for event in record.key_averages() if str(event.device_type).endswith("CUDA"))
