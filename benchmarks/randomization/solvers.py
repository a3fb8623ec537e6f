"""Fits of the randomization benchmark that are computed, not trained: rows of the table from images and labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from htf.datasets import ImageData
from htf.nn import finite_sample_network

from .kernels import Array, descend, interpolate, least_squares, median_distance

Found = dict[str, Any]
# Images whose kernel, or hidden units, are in memory at once.
_AT_ONCE = 2000


def solve(name: str, data: ImageData, options: dict[str, Any]) -> Found:
    """Fit the train labels by a solver, and judge by the test labels.

    Parameters
    ----------
    name : {"finite_sample", "least_squares", "gradient_descent", "gaussian_kernel"}
    data : ImageData
    options : dict
        Of the solver.

    Returns
    -------
    dict
        Columns of the table.
    """
    began = time.perf_counter()
    found = SOLVERS[name](data, **options)
    return found | {"seconds": round(time.perf_counter() - began, 2)}


def count_classes(data: ImageData) -> int:
    """Classes 0 to the largest label: few train images may not have all of them."""
    return 1 + int(torch.cat([data.train_labels, data.test_labels]).max())


def _finite_sample(data: ImageData, seed: int = 0) -> Found:
    """The network of 2n + d weights; it says the class that its value is nearest to."""
    x, test = (images.flatten(1).double() / data.maximum for images in (data.train_images, data.test_images))
    network = finite_sample_network(x, data.train_labels, seed=seed)
    with torch.no_grad():
        values, tested = (torch.cat([network(part) for part in each.split(_AT_ONCE)]) for each in (x, test))
    error = float((values - data.train_labels).abs().max())

    def accuracy(values: Tensor, labels: Tensor) -> float:
        return float((values.round() == labels).double().mean())

    return {
        "train": accuracy(values, data.train_labels),
        "test": accuracy(tested, data.test_labels),
        "parameters": sum(p.numel() for p in network.parameters()),
        "note": f"largest error {error:.0e}",
    }


def _least_squares(data: ImageData) -> Found:
    x, y, test = _arrays(data)
    w = least_squares(x, y)
    return _judged(data, x @ w, test @ w) | {"parameters": w.size, "norm": float(np.linalg.norm(w))}


def _gradient_descent(data: ImageData, steps: int) -> Found:
    x, y, test = _arrays(data)
    w, solution = descend(x, y, steps), least_squares(x, y)
    distance = np.linalg.norm(w - solution) / np.linalg.norm(solution)
    note = f"relative distance to least_squares {distance:.0e} after {steps} steps"
    return _judged(data, x @ w, test @ w) | {"parameters": w.size, "norm": float(np.linalg.norm(w)), "note": note}


def _gaussian_kernel(data: ImageData, width: float) -> Found:
    """Width in units of the median distance between train images."""
    x, y, test = _arrays(data)
    f = interpolate(x, y, width * median_distance(x))
    fitted, tested = (
        np.concatenate([f(each[k : k + _AT_ONCE]) for k in range(0, len(each), _AT_ONCE)]) for each in (x, test)
    )
    return _judged(data, fitted, tested) | {"parameters": f.coefficients.size, "norm": f.norm}


SOLVERS: dict[str, Callable[..., Found]] = {
    "finite_sample": _finite_sample,
    "least_squares": _least_squares,
    "gradient_descent": _gradient_descent,
    "gaussian_kernel": _gaussian_kernel,
}


def _arrays(data: ImageData) -> tuple[Array, Array, Array]:
    """Train pixels in [0, 1], labels one-hot, test pixels."""
    x, test = (images.flatten(1).double().numpy() / data.maximum for images in (data.train_images, data.test_images))
    return x, np.eye(count_classes(data))[data.train_labels.numpy()], test


def _judged(data: ImageData, fitted: Array, tested: Array) -> Found:
    def accuracy(values: Array, labels: NDArray[np.int64]) -> float:
        return float((values.argmax(1) == labels).mean())

    return {
        "train": accuracy(fitted, data.train_labels.numpy()),
        "test": accuracy(tested, data.test_labels.numpy()),
    }
