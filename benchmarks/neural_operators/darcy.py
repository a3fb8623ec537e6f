"""Darcy flow: fields of permeability on a square, and the pressures that finite differences find for them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

_LENGTH = 0.15  # over which the logarithm of the permeability is correlated
_SPREAD = 1.0  # its standard deviation


def darcy(samples: int, grid: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logarithms of permeabilities a, and solutions u of -div(a grad u) = 1 with u = 0 on the boundary of a square.

    Both are float32, (samples, 1, grid, grid), at the centres of the cells of a grid.  log a is a periodic Gaussian
    field of mean zero, with the spectrum exp(-(0.15 k)² / 2).  The equation is discretized by finite volumes with
    harmonic means of a at the faces between cells, and solved by a sparse LU decomposition.
    """
    rng = np.random.default_rng(seed)
    fields = np.stack([_field(grid, rng) for _ in range(samples)])
    solutions = np.stack([_solved(np.exp(field)) for field in fields])
    return tuple(torch.from_numpy(each[:, None].astype(np.float32)) for each in (fields, solutions))  # type: ignore[return-value]


def _field(grid: int, rng: np.random.Generator) -> np.ndarray:
    k = 2 * np.pi * np.fft.fftfreq(grid, 1 / grid)
    damping = np.exp(-0.25 * _LENGTH**2 * (k[:, None] ** 2 + k[None, :] ** 2))
    damping[0, 0] = 0
    noise = rng.standard_normal((grid, grid))
    field = np.fft.ifft2(np.fft.fft2(noise) * damping).real
    # The variance of the entries, from Parseval.
    return _SPREAD * field / np.sqrt((damping**2).mean())


def _solved(a: np.ndarray) -> np.ndarray:
    rows, columns = a.shape
    down, right = _harmonic(a[1:], a[:-1]), _harmonic(a[:, 1:], a[:, :-1])
    # Half a cell lies between the centre of a cell and the boundary.
    middle = np.zeros_like(a)
    middle[0] += 2 * a[0]
    middle[-1] += 2 * a[-1]
    middle[:, 0] += 2 * a[:, 0]
    middle[:, -1] += 2 * a[:, -1]
    middle[1:] += down
    middle[:-1] += down
    middle[:, 1:] += right
    middle[:, :-1] += right
    beside = np.zeros((rows, columns))
    beside[:, :-1] = right
    along = beside.ravel()[:-1]
    below = down.ravel()
    matrix = diags(
        [-below, -along, middle.ravel(), -along, -below], [-columns, -1, 0, 1, columns], shape=(a.size, a.size)
    )
    # Cells have the area 1 / (rows · columns), and so has the source in each.
    return splu(csc_matrix(matrix)).solve(np.full(a.size, 1 / a.size)).reshape(rows, columns)


def _harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return 2 * one * other / (one + other)
