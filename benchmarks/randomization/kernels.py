"""Minimum-norm solutions for the randomization benchmark: least squares, its gradient descent, kernel interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


def least_squares(x: Array, y: Array) -> Array:
    """The solution W of least norm of min ‖X W - Y‖: (n, d) and (n, k) to (d, k)."""
    # Singular values below rounding count as zero.
    solution: Array = scipy.linalg.lstsq(x, y, cond=max(x.shape) * np.finfo(x.dtype).eps)[0]
    return solution


def descend(x: Array, y: Array, steps: int) -> Array:
    """Gradient descent from zero on ‖X W - Y‖² / 2, with the step 1 / ‖X‖², ‖X‖ the largest singular value.

    Its limit is `least_squares`: all its iterates lie in the span of the rows of X.
    """
    w = np.zeros((x.shape[1], y.shape[1]))
    step = 1 / scipy.linalg.norm(x, 2) ** 2
    # Through the smaller of the two Gramians.
    if x.shape[0] < x.shape[1]:
        gram, residual, moved = x @ x.T, y.copy(), np.zeros_like(y)
        for _ in range(steps):
            moved += step * residual
            residual = y - gram @ moved
        return x.T @ moved
    gram, target = x.T @ x, x.T @ y
    for _ in range(steps):
        w -= step * (gram @ w - target)
    return w


@dataclass(frozen=True)
class Interpolation:
    """The function of least norm, in the space of a Gaussian kernel, through given values.

    Attributes
    ----------
    points : array
        (n, d).
    coefficients : array
        (n, k), the solution of K α = Y.
    width : float
        The kernel is exp(-‖x - x'‖² / (2 width²)).
    norm : float
        Of the k functions together, the root of tr(αᵀ K α).
    """

    points: Array
    coefficients: Array
    width: float
    norm: float

    def __call__(self, x: Array) -> Array:
        """(m, d) to (m, k)."""
        return gaussian_kernel(x, self.points, self.width) @ self.coefficients


def gaussian_kernel(x: Array, points: Array, width: float) -> Array:
    """Values (m, n) of exp(-‖x - x'‖² / (2 width²))."""
    squares = square_distances(x, points)
    squares *= -0.5 / width**2
    return np.exp(squares, out=squares)


def square_distances(x: Array, points: Array) -> Array:
    """Values (m, n), 0 or more; by one matrix product, so to within rounding of the squared norms."""
    squares: Array = x @ points.T
    squares *= -2
    squares += np.square(x).sum(1)[:, None]
    squares += np.square(points).sum(1)
    return np.maximum(squares, 0, out=squares)


def interpolate(points: Array, y: Array, width: float) -> Interpolation:
    """Solve K α = Y by Cholesky's decomposition, O(n³); a LinAlgError where K is singular, as for equal points."""
    gram = gaussian_kernel(points, points, width)
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    coefficients: Any = scipy.linalg.cho_solve(factor, y)
    return Interpolation(points, coefficients, width, float(np.sqrt(np.sum(coefficients * y))))


def median_distance(points: Array, among: int = 500) -> float:
    """Median of the distances of the first points from each other."""
    some = points[:among]
    squares = square_distances(some, some)
    return float(np.sqrt(np.median(squares[~np.eye(len(some), dtype=bool)])))
