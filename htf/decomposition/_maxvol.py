"""Rows of a matrix that span a large volume."""

from __future__ import annotations

import numpy as np

# Known rows stay while no other has a coefficient above this.
_LOOSE = 2.0


def maxvol(
    Q: np.ndarray, known: np.ndarray | None = None, tolerance: float = 1.05, n_iter_max: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Rows P of Q (m, r) of nearly the largest volume, and Q Q[P]⁻¹, whose entries are at most `tolerance` in size.

    With a mask of `known` rows these are preferred, up to a tolerance of `_LOOSE`.
    """
    rank = Q.shape[1]
    rest, rows = Q.copy(), np.zeros(rank, dtype=np.int64)
    preferred = known is not None and known.any()
    # Gaussian elimination with row pivoting gives the start, with complete pivoting where some rows are preferred.
    for k in range(rank):
        column = k
        if preferred:
            sizes = np.abs(rest).max(1)
            first = int(np.argmax(sizes * known))
            rows[k] = first if _LOOSE * sizes[first] >= sizes.max() else int(np.argmax(sizes))
            column = int(np.argmax(np.abs(rest[rows[k]])))
        else:
            rows[k] = np.argmax(np.abs(rest[:, k]))
        pivot = rest[rows[k]].copy()
        rest -= np.outer(rest[:, column] / pivot[column], pivot)
    coefficients = np.linalg.solve(Q[rows].T, Q.T).T
    for _ in range(n_iter_max):
        i, j = divmod(int(np.argmax(np.abs(coefficients))), rank)
        if abs(coefficients[i, j]) <= (_LOOSE if preferred else tolerance):
            break
        rows[j] = i
        change = coefficients[i].copy()
        change[j] -= 1
        coefficients -= np.outer(coefficients[:, j] / coefficients[i, j], change)
    coefficients = np.linalg.solve(Q[rows].T, Q.T).T
    coefficients[rows] = np.eye(rank)
    return coefficients, rows
