"""Entries on which the error of an approximation is estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from htf.decomposition._ascent import are_digits, carried
from htf.linalg.backend import square
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import ht_entries

# Weights below are rounding error of a zero.
_SMALLEST = 1e-290
# Weighted values have a root mean square of about 1 where a sample holds what the norm is made of.  Where it holds
# nothing but rounding error of zeros, an error relative to these would tell nothing.
_LEAST_NORM = 0.1


@dataclass
class Sample:
    """Entries and how often they are drawn.

    Sums of squares over the sample are divided by how often an entry is drawn, so that they estimate those over all
    entries.
    """

    rows: np.ndarray
    values: np.ndarray
    weights: np.ndarray  # square roots of the frequencies, in the unit of the tensor's root mean square

    def error(self, x: HTTensor) -> tuple[float, np.ndarray]:
        """Relative error in the Frobenius norm, and the sizes of the errors."""
        found = ht_entries(x, self.rows)
        errors = np.abs(found - self.values)
        norm = max(rms(self.values / self.weights), rms(found / self.weights), _LEAST_NORM)
        return rms(errors / self.weights) / norm, errors


def weights_of_drawn(found: np.ndarray, drawn: int, mean: float) -> np.ndarray:
    """Weights of random rows and of some that were drawn by the squares of an approximation.

    Either finds what the other misses: random ones tell what the approximation has not seen, drawn ones what the norm
    is made of.  Counting each for both (the balance heuristic of Veach & Guibas 1995) keeps the weights from zero.

    Parameters
    ----------
    found : array (rows,)
        The approximation's entries.
    drawn : int
        How many of the rows were drawn by squares.
    mean : float
        Root mean square of all its entries.
    """
    share = drawn / len(found)
    return np.maximum(np.hypot(math.sqrt(1 - share) * mean, math.sqrt(share) * np.abs(found)), _SMALLEST)


def perturbed(rows: np.ndarray, dims: Sequence[int], rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which some indices are changed, in half of them by one, and the square roots of how many are alike.

    The number of changes is drawn so that few and many are as frequent in the logarithm.
    """
    count, order = rows.shape
    sizes = np.array(dims)
    changes = np.minimum(np.exp(rng.random_sample(count) * math.log(order + 1)).astype(np.int64), order)
    changed = np.argsort(rng.random_sample((count, order)), axis=1).argsort(1) < changes[:, None]
    near = rng.random_sample(count)[:, None] < 0.5
    far = 1 + rng.randint(0, np.maximum(sizes - 1, 1), size=(count, order))
    step = np.where(near, rng.choice([-1, 1], size=(count, order)), far)
    moved = rows + step
    # A step of one over the end goes the other way.
    moved = np.where(near & ((moved < 0) | (moved >= sizes)), rows - step, moved) % sizes
    moved = np.where(changed, moved, rows)
    kinds = np.where(near, np.minimum(sizes - 1, 2), sizes - 1)
    logs = np.where(changed, np.log(np.maximum(kinds, 1)), 0).sum(1)
    logs += gammaln(order + 1) - gammaln(changes + 1) - gammaln(order - changes + 1)
    if are_digits(tuple(dims)):
        # A quarter of the rows is changed as numbers are, by one at some digit.
        some = slice(0, count // 4)
        modes, way = rng.randint(order, size=count // 4), int(rng.choice([-1, 1]))
        moved[some] = carried(rows[some], tuple(dims), modes, rng.choice([-1, 1], size=count // 4), way)
        logs[some] = math.log(4 * order)
    return moved, np.exp(logs / 2)


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    # Squares of the largest or smallest doubles leave the range.
    largest = float(np.max(np.abs(values)))
    return largest * math.sqrt(float(np.mean(square(values / largest)))) if largest > 0 else 0.0


def ratio(error: float, scale: float) -> float:
    """Relative error; any error is infinite relative to zero."""
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
