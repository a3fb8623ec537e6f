"""Fields in three dimensions that change in time, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

FIELDS = ("front", "bumps")
_BUMPS = 12
_SEED = 0


def blocks(name: str, times: int, grid: int, length: int) -> Iterator[np.ndarray]:
    """Blocks (length, grid, grid, grid) in float64, the last of what is left of the times."""
    moment = _front(grid) if name == "front" else _bumps(grid)
    for start in range(0, times, length):
        yield np.stack([moment(step / times) for step in range(start, min(start + length, times))])


def _axes(grid: int) -> list[np.ndarray]:
    return list(np.meshgrid(*[np.linspace(0, 1, grid)] * 3, indexing="ij", sparse=True))


def _front(grid: int) -> Callable[[float], np.ndarray]:
    """A front that is aslant to the axes and crosses the box, and a wave whose phase runs on."""
    x, y, z = _axes(grid)
    return lambda t: np.tanh(4 * (x + 0.5 * y - 0.4 * z - t)) + 0.2 * np.sin(7 * x * y + 9 * t)


def _bumps(grid: int) -> Callable[[float], np.ndarray]:
    """Gaussian bumps on circles around random centres."""
    x, y, z = _axes(grid)
    rng = np.random.default_rng(_SEED)
    centres, phases = rng.uniform(0.2, 0.8, (_BUMPS, 3)), rng.uniform(0, 2 * np.pi, _BUMPS)
    widths, heights = rng.uniform(0.1, 0.25, _BUMPS), rng.standard_normal(_BUMPS)

    def moment(t: float) -> np.ndarray:
        total = np.zeros((grid,) * 3)
        for (a, b, c), phase, width, height in zip(centres, phases, widths, heights, strict=True):
            angle = phase + 2 * np.pi * t
            squares = (x - a - 0.15 * np.cos(angle)) ** 2 + (y - b - 0.15 * np.sin(angle)) ** 2 + (z - c) ** 2
            total += height * np.exp(-squares / (2 * width**2))
        return total

    return moment
