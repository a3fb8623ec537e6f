"""Operations of HT tensors on the device and on the CPU, at orders to 1,024."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import htf
from benchmarks.speed.timing import seconds_of

from .run import Bench

MANY = 100
CPU = torch.device("cpu")


def run(bench: Bench) -> dict[str, Any]:
    """Milliseconds of HSVD, rounding, inner and Hadamard products, float32."""
    rows, found = [], []
    for what, calls in _cases(bench):
        if bench.left() < 1:
            rows.append({"what": what, "figure": "no time left"})
            continue
        times = {
            str(device): 1e3 * seconds_of(make(device), device, 0.05 if bench.tiny else 0.3, rounds=3)
            for device, make in calls.items()
        }
        found.append({"what": what, "ms": times})
        here = times[str(bench.device)]
        rows.append({"what": what, "figure": f"{here:.2f} ms", "limit": f"CPU {times['cpu']:.2f} ms"})
    return {"rows": rows, "operations": found}


Call = Callable[[], Any]


def _cases(bench: Bench) -> list[tuple[str, dict[torch.device, Callable[[torch.device], Call]]]]:
    devices = [CPU] if bench.device.type == "cpu" else [bench.device, CPU]
    orders, rank = ((8,), 2) if bench.tiny else ((16, 128, 1024), 8)
    cases: list[tuple[str, Callable[[torch.device], Call]]] = [
        (f"HSVD of a dense 8^{4 if bench.tiny else 8}", partial(_hsvd, 4 if bench.tiny else 8))
    ]
    for order in orders:
        cases += [
            (f"rounding, order {order}, dimension 4, rank {2 * rank} to {rank}", partial(_rounding, order, rank, 4)),
            (f"inner product, order {order}, rank {rank}", partial(_inner, order, rank)),
            (f"Hadamard product, order {order}, rank {rank // 2}", partial(_hadamard, order, rank // 2)),
        ]
    wide = (4, 4) if bench.tiny else (16, 60)
    cases.append(
        (f"rounding, order {wide[0]}, dimension 20, rank {wide[1]}", partial(_rounding, wide[0], wide[1] // 2, 20))
    )
    count = 3 if bench.tiny else MANY
    cases.append((f"inner products of {count} pairs of order 16, rank {rank}", partial(_inners, count, rank)))
    return [(what, dict.fromkeys(devices, make)) for what, make in cases]


def _tensor(device: torch.device, order: int, rank: int, seed: int, dim: int = 4) -> htf.HTTensor:
    x = htf.random_ht((dim,) * order, rank=rank, random_state=seed)
    x = x / x.norm()
    return x.to_backend("pytorch", dtype=torch.float32, device=device)


def _hsvd(order: int, device: torch.device) -> Call:
    dense = torch.rand((8,) * order, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda: htf.hierarchical_tucker(dense, rank=8)


def _rounding(order: int, rank: int, dim: int, device: torch.device) -> Call:
    x = _tensor(device, order, 2 * rank, 0, dim)
    return lambda: x.round(rank=rank)


def _inner(order: int, rank: int, device: torch.device, seed: int = 0) -> Call:
    x, y = (_tensor(device, order, rank, s) for s in (seed, seed + 1))
    return lambda: x.inner(y)


def _hadamard(order: int, rank: int, device: torch.device) -> Call:
    x, y = (_tensor(device, order, max(rank, 2), s) for s in (0, 1))
    return lambda: x * y


def _inners(count: int, rank: int, device: torch.device) -> Call:
    calls = [_inner(16, rank, device, 2 * k) for k in range(count)]
    return lambda: [call() for call in calls]
