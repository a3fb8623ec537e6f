"""Times of calls: sides that are compared take turns in one run, so that a change of the machine's speed meets all."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch

from htf._machine import describe_machine

Step = Callable[[], Any]
WARM = 2  # calls of each side before any is timed
CPU = torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mean_seconds(call: Step, times: int, device: torch.device = CPU) -> float:
    """Mean seconds of a call, of so many in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / times


def take_turns(sides: Sequence[Step], turns: int, steps: int, device: torch.device) -> list[dict[str, float]]:
    """Median milliseconds of a step of each side over turns of so many steps, and median ratio to the first side.

    Ratios are taken within a turn.
    """
    for side in sides:
        mean_seconds(side, WARM, device)
    found = [[mean_seconds(side, steps, device) for side in sides] for _ in range(turns)]
    return [
        {"ms": 1e3 * median(turn[k] for turn in found), "ratio": median(turn[k] / turn[0] for turn in found)}
        for k in range(len(sides))
    ]


def race(sides: Sequence[Step], repeats: int, seconds: float = 0.0, device: torch.device = CPU) -> list[float]:
    """Seconds of a call of each side: the shortest mean of some repetitions in turns.

    A repetition lasts about so many seconds; 0 stands for a single call, without any before.
    """
    counts = [max(1, round(seconds / mean_seconds(side, WARM, device))) if seconds else 1 for side in sides]
    times = [[mean_seconds(*pair, device) for pair in zip(sides, counts, strict=True)] for _ in range(repeats)]
    return [min(each) for each in zip(*times, strict=True)]


def seconds_of(call: Step, device: torch.device, budget: float = 0.5, rounds: int = 5) -> float:
    """Seconds of one call: the median over `rounds` of means, after warming up; about `budget` seconds in all."""
    call()
    once = mean_seconds(call, 1, device)
    if once > budget:
        return once
    count = max(1, min(1000, int(budget / rounds / max(once, 1e-7))))
    return median(mean_seconds(call, count, device) for _ in range(rounds))


def kernels_of(call: Step, device: torch.device) -> int | None:
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


def made_by(device: torch.device = CPU) -> dict[str, Any]:
    """The head of a report: date, machine and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{name}, {torch.get_num_threads()} threads",
        "versions": describe_machine(device)["versions"],
    }
