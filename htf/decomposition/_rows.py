"""Arrays of index rows, (count, order)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grid(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Index rows of all combinations of pivots, (count, ..., count, order)."""
    grid = parts[0]
    for part in parts[1:]:
        grid = grid[..., None, :] + part
    return grid


def worst(rows: np.ndarray, errors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the largest errors, and the errors."""
    at = np.argsort(-errors)[:count]
    return rows[at], errors[at]


def unique(rows: np.ndarray) -> np.ndarray:
    """Rows without repetitions, in the order in which they first come."""
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


def among(rows: np.ndarray, wanted: np.ndarray | None) -> np.ndarray:
    """Which rows are among the wanted ones."""
    if wanted is None:
        return np.zeros(len(rows), dtype=bool)
    numbers = np.unique(np.concatenate([rows, wanted]), axis=0, return_inverse=True)[1].reshape(-1)
    return np.isin(numbers[: len(rows)], numbers[len(rows) :])
