"""Decisions between two classes each, by models of all, where pixels that are not zero are missing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.classifiers.controls import ConvNet, channels_first
from benchmarks.fits import Images
from htf.models import GenerativeClassifier

from .masks import non_zero

COUNTS = (0, 25, 50, 75, 100, 125, 150)
OF_EACH = 300  # training images of a class, at most


def few_of_each(images: Tensor, labels: Tensor, count: int = OF_EACH) -> Images:
    """The first so many images of each class, in their order."""
    places = [(labels == label).nonzero().flatten()[:count] for label in labels.unique()]
    chosen = torch.cat(places).sort().values
    return images[chosen], labels[chosen]


def protocol_of_pairs(images: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Numbers of pixels, as names, and masks of the shape of the images."""
    generator = Generator().manual_seed(seed)
    for count in COUNTS:
        yield str(count), non_zero(images, count, generator)


@torch.no_grad()
def of_pairs(model: Any, images: Tensor, labels: Tensor, missing: Tensor) -> float:
    """Accuracy of decisions between two classes: the mean over all pairs of classes that are there.

    The convolutional network reads zeros where pixels are missing; the others know which ones are.
    """
    scores, total, pairs = _scores(model, images, missing), 0.0, 0
    for a, b in combinations(labels.unique().tolist(), 2):
        at = (labels == a) | (labels == b)
        told = torch.where(scores[at, a] >= scores[at, b], a, b)
        total, pairs = total + float((told == labels[at]).double().mean()), pairs + 1
    return total / pairs


def _scores(model: Any, images: Tensor, missing: Tensor) -> Tensor:
    """What grows with the probability of each class, (n, classes)."""
    if isinstance(model, GenerativeClassifier):
        found: Tensor = model.log_joint(images, missing=missing)
        return found
    if isinstance(model, ConvNet):
        pixels = (images / 255).masked_fill(missing, 0)
        return torch.cat([model.network(part) for part in channels_first(pixels).split(500)])
    found = model.scores(images, missing)
    return found
