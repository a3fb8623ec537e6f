"""What codes are good for: a linear classifier from few labels, images in between, and new ones."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Generator, Tensor

LABELS = (10, 30, 100, 300, 1000)
DRAWS = 5
# Ridges, relative to the mean square of the codes, from which validation images choose.
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
COMPONENTS = 10

Labelled = tuple[Tensor, Tensor]


def few_label_accuracies(train: Labelled, validation: Labelled, test: Labelled, seed: int) -> dict[str, float]:
    """Test accuracy of least squares on one-hot labels with a ridge, by the number of labels; means over draws.

    Parameters
    ----------
    train, validation, test : (Tensor, Tensor)
        Codes (n, code) and labels; the ridge is the best one on validation codes, for each number of labels.
    seed : int
        Of the labels that are drawn.
    """
    found = {}
    classes = 1 + int(torch.cat([train[1], validation[1], test[1]]).max())
    for count in LABELS:
        if count > len(train[1]):
            break
        right = torch.zeros(2, len(RIDGES), dtype=torch.float64)
        for draw in range(DRAWS):
            chosen = torch.randperm(len(train[1]), generator=Generator().manual_seed(DRAWS * seed + draw))[:count]
            for k, ridge in enumerate(RIDGES):
                weights = _ridge(train[0][chosen], train[1][chosen], classes, ridge)
                for part, (code, labels) in enumerate((validation, test)):
                    right[part, k] += float((_outputs(weights, code).argmax(1) == labels).double().mean()) / DRAWS
        found[str(count)] = float(right[1, int(right[0].argmax())])
    return found


def _ridge(code: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Weights (code + 1, classes), the last row of which is not shrunk."""
    x, y = code.double(), torch.nn.functional.one_hot(labels, classes).double()
    mean, middle = x.mean(0), y.mean(0)
    gram = (x - mean).mT @ (x - mean)
    gram += ridge * x.square().mean() * len(x) * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, (x - mean).mT @ (y - middle))
    return torch.cat([weights, (middle - mean @ weights)[None]])


def _outputs(weights: Tensor, code: Tensor) -> Tensor:
    return code.double() @ weights[:-1] + weights[-1]


def between(code: Tensor, steps: int) -> Tensor:
    """Codes on the lines from each of the first half to its partner in the second: (n // 2, steps, code)."""
    first, second = code[: len(code) // 2, None], code[len(code) // 2 : 2 * (len(code) // 2), None]
    return torch.lerp(first, second, torch.linspace(0, 1, steps)[None, :, None])


def sampled(code: Tensor, count: int, seed: int) -> Tensor:
    """Codes drawn from a mixture of Gaussians of any covariance, fitted to codes by expectation maximization."""
    x: NDArray[np.float64] = code.double().numpy()
    # Directions that codes leave unused would make covariances singular.
    floor = 1e-6 * float(x.var(0).sum())
    mixture = GaussianMixture(min(COMPONENTS, len(x) // 2), reg_covar=max(floor, 1e-300), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        drawn = mixture.fit(x).sample(count)[0]
    return torch.from_numpy(np.random.default_rng(seed).permutation(drawn)).to(code.dtype)


def distance_to_nearest(images: Tensor, among: Tensor) -> float:
    """Median over images of the distance to the nearest of others."""
    return float(torch.cdist(images.flatten(1), among.flatten(1)).amin(1).median())
