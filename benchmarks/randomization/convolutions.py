"""Convolutions with random filters, of which nothing is learned, and linear models on what they give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, relu

from htf._checks import positive
from htf.datasets import ImageData

from .kernels import Array
from .networks import Whiten

KERNEL = 5
_AT_ONCE = 50


def convolution_features(data: ImageData, filters: int, seed: int) -> tuple[Array, Array]:
    """Features of train and test images: positive and negative parts of convolutions, means over the four quarters.

    Parameters
    ----------
    data : ImageData
    filters, seed : int
        Gaussian filters of 5×5 pixels and all channels, on images of mean 0 and variance 1.

    Returns
    -------
    array, array
        (n, 8 · filters), centred by the mean of train images.
    """
    return _features(data.train_images, data.test_images, data.maximum, filters, seed)


# Labels of all kinds share their images, which `pick` keeps.
@lru_cache(maxsize=1)
def _features(train: Tensor, test: Tensor, maximum: int, filters: int, seed: int) -> tuple[Array, Array]:
    channels = train.shape[3] if train.ndim == 4 else 1
    generator = Generator().manual_seed(seed)
    taps = torch.randn(positive("filters", filters), channels, KERNEL, KERNEL, generator=generator)
    taps /= KERNEL * channels**0.5
    white = Whiten()
    found: list[Array] = []
    for images in (train, test):
        parts = []
        for part in images.split(_AT_ONCE):
            x = part[:, None] if part.ndim == 3 else part.movedim(-1, 1)
            out = conv2d(white(x.float() / maximum), taps, padding=KERNEL // 2)
            both = torch.cat([relu(out), relu(-out)], 1)
            parts.append(adaptive_avg_pool2d(both, 2).flatten(1).double())
        found.append(torch.cat(parts).numpy())
    mean = found[0].mean(0)
    return found[0] - mean, found[1] - mean


@dataclass(frozen=True)
class Descent:
    r"""Gradient descent from zero on :math:`\|X W - Y\|^2 / 2`, at any step in closed form.

    With :math:`X X^T = U \Lambda U^T` and the step 1 / λ₁, W after t steps is
    :math:`X^T U \Lambda^{-1} (1 - (1 - \Lambda / \lambda_1)^t) U^T Y`.  O(n³) once, O(n² k) for a step.

    Attributes
    ----------
    x, y : array
        (n, d) and (n, k).
    values, vectors : array
        Of the Gramian.
    """

    x: Array
    y: Array
    values: Array
    vectors: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> Descent:
        """Decompose the Gramian."""
        values, vectors = np.linalg.eigh(x @ x.T)
        return cls(x, y, values, vectors)

    def coefficients(self, steps: float) -> Array:
        """A (n, k) with W = Xᵀ A after so many steps, at least 1; the solution of least norm at infinity."""
        kept = self.values > len(self.values) * np.finfo(float).eps * self.values[-1]
        values = self.values[kept]
        with np.errstate(divide="ignore"):
            # (1 - λ / λ₁)^t, precise also where λ is small and t large.
            left = np.exp(steps * np.log1p(-np.minimum(values / values[-1], 1)))
        vectors = self.vectors[:, kept]
        found: Array = vectors @ (((1 - left) / values)[:, None] * (vectors.T @ self.y))
        return found
