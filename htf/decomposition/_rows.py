"""Arrays of index rows, (count, order)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

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
    return rows[np.sort(np.unique(_keys(rows), return_index=True)[1])]


def among(rows: np.ndarray, wanted: np.ndarray | None) -> np.ndarray:
    """Which rows are among the wanted ones."""
    return np.zeros(len(rows), dtype=bool) if wanted is None else np.isin(_keys(rows), _keys(wanted))


def _keys(rows: np.ndarray) -> np.ndarray:
    """A number per row: odd multiples of the indices, summed modulo 2⁶⁴.  Different rows hardly ever share one."""
    return rows.astype(np.uint64) @ _multipliers(rows.shape[1])


@lru_cache(maxsize=16)
def _multipliers(order: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 2**63, size=order, dtype=np.uint64) * 2 + 1
