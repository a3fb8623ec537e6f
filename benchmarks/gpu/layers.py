"""Training steps of factorized and over-parameterized layers against plain ones, with and without torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import htf
from benchmarks.speed.timing import seconds_of

from .run import Bench

FORMATS = ("matrix", "tucker", "tt", "ht", "cp")


def run(bench: Bench) -> dict[str, Any]:
    """Milliseconds of forward, backward and a step of SGD, and ratios to the plain layer."""
    rows, found = [], []
    generator = torch.Generator().manual_seed(0)
    for what, make, shape in _cases(bench):
        x = torch.randn(shape, generator=generator).to(bench.device)
        plain = None
        for kind, layer in make().items():
            if bench.left() < 1:
                rows.append({"what": f"{what}, {kind}", "figure": "no time left"})
                continue
            layer = layer.to(bench.device)
            times = {"eager": _time(layer, x, bench)}
            # Compilation takes half a minute for all of them together; plain, matrix and ht tell what it gives.
            if bench.device.type == "cuda" and kind in ("plain", "ht") and bench.left() > 20:
                torch.compiler.reset()
                try:
                    times["compiled"] = _time(torch.compile(layer), x, bench)
                except Exception as error:
                    what_failed = f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
                    rows.append({"what": f"{what}, {kind}, compiled", "figure": what_failed})
            plain = times if plain is None else plain
            for how, ms in times.items():
                base = plain.get(how, plain["eager"])
                found.append({"what": what, "layer": kind, "how": how, "ms": ms, "ratio": ms / base})
                rows.append(
                    {
                        "what": f"{what}, {kind}, {how}",
                        "figure": f"{ms:.3f} ms",
                        "limit": f"{ms / base:.2f} times plain",
                    }
                )
    return {"rows": rows, "steps": found}


def _time(layer: Callable[[Tensor], Tensor], x: Tensor, bench: Bench) -> float:
    assert isinstance(layer, nn.Module)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    return 1e3 * seconds_of(step, bench.device, 0.05 if bench.tiny else 0.2)


Cases = list[tuple[str, Callable[[], dict[str, nn.Module]], tuple[int, ...]]]


def _cases(bench: Bench) -> Cases:
    sizes = [(24, 16, 0.3)] if bench.tiny else [(784, 512, 0.1), (4096, 4096, 0.01)]
    batch = 8 if bench.tiny else 1024
    channels, image = (8, 8) if bench.tiny else (256, 32)
    cases: Cases = [
        (
            f"linear {n} to {m}, batch {batch}, {share:.0%} of the weights",
            partial(_linear, n, m, share),
            (batch, n),
        )
        for n, m, share in sizes
    ]
    few = 4 if bench.tiny else 64
    shape = (few, channels, image, image)
    return [
        *cases,
        (
            f"convolution {channels}, 3x3, {few} images of {image}x{image}, 10% of the weights",
            partial(_convolution, channels),
            shape,
        ),
    ]


def _linear(n: int, m: int, share: float) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {"plain": nn.Linear(n, m)}
    layers |= {name: htf.nn.FactorizedLinear(n, m, format=name, rank=share, seed=0) for name in FORMATS}
    return layers | {"over-parameterized, depth 3": htf.nn.OverparamLinear(n, m, depth=3, seed=0)}


def _convolution(channels: int) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {"plain": nn.Conv2d(channels, channels, 3, padding=1)}
    layers |= {
        name: htf.nn.FactorizedConv2d(channels, channels, 3, padding=1, format=name, rank=0.1, seed=0)
        for name in FORMATS
    }
    return layers | {
        "over-parameterized, depth 3": htf.nn.OverparamConv2d(channels, channels, 3, padding=1, depth=3, seed=0)
    }
