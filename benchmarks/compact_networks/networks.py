"""A compact convolutional network, and the ways to train it as another one."""

from __future__ import annotations

import math

import torch
from torch import nn

from htf.surgery import factorize, overparameterize

KERNEL = 5
# The three ways of Guo et al. 2020: linear layers, convolutions as 1×1, k×k and 1×1, and k×k as several 3×3.
EXPANSIONS = ("linear", "convolutions", "kernels")


def compact(image: tuple[int, int, int], classes: int, seed: int, width: int = 1) -> nn.Sequential:
    """Three convolutions of 5×5 and two linear layers; 73,162 parameters for 32×32 in colour.

    Parameters
    ----------
    image : tuple of int
        Channels, height, width.
    classes, seed : int
    width : int
        Times as many channels, as for a teacher.
    """
    channels, height, across = image
    first, later, hidden = 16 * width, 32 * width, 64 * width
    layers: list[nn.Module] = []
    # Torch's own initialization draws from the global generator, which is put back.
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for before, after in ((channels, first), (first, later), (later, later)):
            layers += [nn.Conv2d(before, after, KERNEL, padding=KERNEL // 2), nn.ReLU(), nn.MaxPool2d(2)]
        features = later * (height // 8) * (across // 8)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def expanded(network: nn.Sequential, way: str, width: int, seed: int) -> nn.Module:
    """The network with layers that are products of several, drawn at random; `htf.surgery.collapse` folds it.

    Parameters
    ----------
    network : nn.Sequential
        From `compact`.
    way : {"linear", "convolutions", "kernels"}
        Linear layers as products of three; convolutions as 1×1, 5×5, 1×1; or as 3×3, 3×3.
    width, seed : int
        Hidden channels, or units, of the products.
    """
    if way == "linear":
        return overparameterize(network, 3, width=width, types=nn.Linear, start="random", seed=seed)
    if way not in EXPANSIONS:
        raise ValueError(f"way is {way!r}; expected one of {', '.join(EXPANSIONS)}")
    sizes = (1, KERNEL, 1) if way == "convolutions" else (3,) * (KERNEL // 2)
    return overparameterize(
        network, len(sizes), width=width, kernel_sizes=sizes, types=nn.Conv2d, start="random", seed=seed
    )


def factorized(image: tuple[int, int, int], classes: int, seed: int, width: int) -> nn.Module:
    """A network of `width` times the channels in HT format, with no more parameters than the compact one."""
    budget = count(compact(image, classes, seed))
    return factorize(compact(image, classes, seed, width), "ht", budget=budget, start="random", seed=seed)


def count(network: nn.Module) -> int:
    """Parameters."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
