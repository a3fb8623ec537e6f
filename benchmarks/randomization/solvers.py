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

from .convolutions import Descent, convolution_features
from .kernels import Array, descend, interpolate, least_squares, median_distance

Found = dict[str, Any]
# Images whose kernel, or hidden units, are in memory at once.
_AT_ONCE = 2000
# Of early stopping: the share of train images that say when, and the steps among which they choose.
_HELD_OUT = 0.2
_STEPS = tuple(2**k for k in range(25))


def solve(name: str, data: ImageData, options: dict[str, Any]) -> Found:
    """Fit the train labels by a solver, and judge by the test labels.

    Parameters
    ----------
    name : str
        From `SOLVERS`.
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
    return _interpolated(data, x, y, test, width)


def _interpolated(data: ImageData, x: Array, y: Array, test: Array, width: float) -> Found:
    f = interpolate(x, y, width * median_distance(x))
    fitted, tested = (
        np.concatenate([f(each[k : k + _AT_ONCE]) for k in range(0, len(each), _AT_ONCE)]) for each in (x, test)
    )
    return _judged(data, fitted, tested) | {"parameters": f.coefficients.size, "norm": f.norm}


def _convolutions_kernel(data: ImageData, filters: int, width: float, seed: int = 0) -> Found:
    """`_gaussian_kernel` of random convolutions."""
    x, test = convolution_features(data, filters, seed)
    return _interpolated(data, x, _one_hot(data), test, width)


def _convolutions_linear(data: ImageData, filters: int, seed: int = 0) -> Found:
    """Least squares of least norm on random convolutions."""
    x, test = convolution_features(data, filters, seed)
    w = x.T @ Descent.of(x, _one_hot(data)).coefficients(np.inf)
    return _judged(data, x @ w, test @ w) | {"parameters": w.size, "norm": float(np.linalg.norm(w))}


def _early_stopping(data: ImageData, filters: int, seed: int = 0) -> Found:
    """Gradient descent on random convolutions, stopped when the error of images held out is least; and its path."""
    x, test = convolution_features(data, filters, seed)
    y, kept = _one_hot(data), round((1 - _HELD_OUT) * len(x))
    descent = Descent.of(x[:kept], y[:kept])
    labels = data.train_labels.numpy()
    path: dict[str, list[float]] = {"steps": [], "train": [], "held_out_error": [], "test": []}
    for steps in (*_STEPS, np.inf):
        w = x[:kept].T @ descent.coefficients(steps)
        fitted, tested = x @ w, test @ w
        path["steps"].append(float(steps) if np.isfinite(steps) else -1.0)
        path["train"].append(float((fitted[:kept].argmax(1) == labels[:kept]).mean()))
        path["held_out_error"].append(float(np.square(fitted[kept:] - y[kept:]).sum(1).mean()))
        path["test"].append(float((tested.argmax(1) == data.test_labels.numpy()).mean()))
    best = int(np.argmin(path["held_out_error"]))
    when = "at the interpolation" if path["steps"][best] < 0 else f"after {path['steps'][best]:g} steps"
    note = f"stopped {when}; interpolation: train {path['train'][-1]:.4f}, test {path['test'][-1]:.4f}"
    return {
        "train": path["train"][best],
        "test": path["test"][best],
        "parameters": x.shape[1] * y.shape[1],
        "note": note,
        "curves": {"path": path},
    }


SOLVERS: dict[str, Callable[..., Found]] = {
    "finite_sample": _finite_sample,
    "least_squares": _least_squares,
    "gradient_descent": _gradient_descent,
    "gaussian_kernel": _gaussian_kernel,
    "convolutions_linear": _convolutions_linear,
    "convolutions_kernel": _convolutions_kernel,
    "early_stopping": _early_stopping,
}


def _arrays(data: ImageData) -> tuple[Array, Array, Array]:
    """Train pixels in [0, 1], labels one-hot, test pixels."""
    x, test = (images.flatten(1).double().numpy() / data.maximum for images in (data.train_images, data.test_images))
    return x, _one_hot(data), test


def _one_hot(data: ImageData) -> Array:
    found: Array = np.eye(count_classes(data))[data.train_labels.numpy()]
    return found


def _judged(data: ImageData, fitted: Array, tested: Array) -> Found:
    def accuracy(values: Array, labels: NDArray[np.int64]) -> float:
        return float((values.argmax(1) == labels).mean())

    return {
        "train": accuracy(fitted, data.train_labels.numpy()),
        "test": accuracy(tested, data.test_labels.numpy()),
    }
