"""What the long-range benchmarks train, and how: scales, models, regularizers, and a recipe for each.

A regularizer is written as its name with options, ``igc:samples=16`` or ``interaction:samples=4,patches=far,size=2``;
options of the patches are ``patches`` (random, far, or areas: the places that the task names), ``size`` and ``apart``,
the least distance; all others are the regularizer's own.
"""

from __future__ import annotations

import warnings
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from htf.datasets import far_parity, is_same_class, pathfinder
from htf.datasets.long_range import LongRangeData
from htf.nn import HTNetwork, receptive_field, resnet18, small_resnet
from htf.regularizers import (
    GradientFieldChange,
    InputGradientChange,
    Interaction,
    PatchSampler,
    TreeEntropy,
    TreeLogDet,
    far_patches,
    preset_areas,
    random_patches,
    separating_edges,
)
from htf.training.classify_settings import Regularizer
from htf.tree import DimensionTree

TASKS: dict[str, Callable[..., LongRangeData]] = {
    "pathfinder": pathfinder,
    "is_same_class": is_same_class,
    "far_parity": far_parity,
}
# What a distance is called by the function that makes the task.
DISTANCE = {"pathfinder": "path_length", "is_same_class": "distance", "far_parity": "distance"}


@dataclass(frozen=True)
class Recipe:
    """How a regularizer is used on a task.

    Attributes
    ----------
    weight : float
    epochs : int
    options : dict
        Of the regularizer and its patches.
    """

    weight: float
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A task at a scale.

    Attributes
    ----------
    distances : tuple of int
        By default.
    data : dict
        Arguments of the task.
    of_distance : dict
        More of them, for some distances.
    model : str
    training : dict
        Of `ClassifySettings`.
    recipes : dict
        By name of the regularizer.
    """

    distances: tuple[int, ...]
    data: Mapping[str, Any]
    model: str
    training: Mapping[str, Any]
    recipes: Mapping[str, Recipe]
    of_distance: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


_PAPERS_TRAINING = {"batch_size": 64, "lr": 0.01, "momentum": 0.9}
_AREAS = {"patches": "areas"}
_DOTS = {"patches": "random", "size": 2}

# The CPU scale is for two cores; the GPU scale is that of Razin et al. 2022.
SETTINGS: dict[str, dict[str, Setting]] = {
    "cpu": {
        "pathfinder": Setting(
            distances=(3, 5),
            data={"size": 48, "train": 5_000, "validation": 1_000, "test": 2_000},
            model="small_resnet",
            training=_PAPERS_TRAINING,
            recipes={
                "none": Recipe(0.0, 60),
                "igc": Recipe(3.0, 60, _DOTS),
                "gradient_field": Recipe(3.0, 50, {"size": 2, "samples": 8}),
                "interaction": Recipe(1.0, 60, {**_DOTS, "samples": 8}),
            },
            # With the 4 distractors of the default density, the plain network learns three dashes.
            of_distance={3: {"distractors": 8}},
        ),
        "is_same_class": Setting(
            distances=(20, 22),
            data={
                "source": "mnist",
                "scale": 0.5,
                "canvas": (16, 64),
                "train": 5_000,
                "validation": 1_000,
                "test": 2_000,
            },
            model="small_resnet_near",
            training=_PAPERS_TRAINING,
            recipes={
                "none": Recipe(0.0, 40),
                "igc": Recipe(1.0, 40, _AREAS),
                "interaction": Recipe(1.0, 140, {**_AREAS, "samples": 4, "grid": 4}),
            },
        ),
        "far_parity": Setting(
            distances=(1, 2, 4, 7),
            data={"shape": (4, 8), "levels": 4, "train": 5_000, "validation": 1_000, "test": 2_000},
            model="convac",
            training={"batch_size": 64, "lr": 0.006, "momentum": 0.9},
            recipes={
                "none": Recipe(0.0, 40),
                "igc": Recipe(1.0, 40, _AREAS),
                "interaction": Recipe(1.0, 40, {**_AREAS, "samples": 4}),
                "tree_entropy": Recipe(0.1, 40),
                "tree_logdet": Recipe(0.1, 40),
            },
        ),
    },
    "gpu": {
        "pathfinder": Setting(
            distances=(3, 5, 7, 9),
            data={"size": 150, "train": 10_000, "validation": 2_000, "test": 10_000},
            model="resnet18",
            training=_PAPERS_TRAINING,
            recipes={
                "none": Recipe(0.0, 150),
                "igc": Recipe(9.0, 150, _DOTS),
                "gradient_field": Recipe(3.0, 150, {"size": 2, "samples": 8}),
                "interaction": Recipe(1.0, 150, {**_DOTS, "samples": 8}),
            },
        ),
        "is_same_class": Setting(
            distances=(0, 40, 80, 120, 160),
            data={"source": "cifar10", "train": 5_000, "validation": 1_000, "test": 10_000},
            model="resnet18",
            training=_PAPERS_TRAINING,
            recipes={
                "none": Recipe(0.0, 150),
                "igc": Recipe(1.0, 150, _AREAS),
                "interaction": Recipe(1.0, 150, {**_AREAS, "samples": 4}),
            },
        ),
    },
}


# -- models ---------------------------------------------------------------------------------------------


# Polynomials through more equidistant points swing too far between them.
_MOST_LEVELS = 16


class ConvAC(nn.Module):
    """A hierarchical tensor factorization that reads the levels of an image's pixels.

    Parameters
    ----------
    height, width, levels : int
        Of the images: pixels k / (levels - 1).
    channels : int
        Width of the tree's nodes.
    seed : int

    Notes
    -----
    A pixel becomes the values of the Lagrange polynomials at the levels: one-hot at each level, and smooth between, so
    that gradients at the image are there.  The output is the difference to the mean that the network begins near.
    """

    nodes: Tensor

    def __init__(self, height: int, width: int, levels: int, channels: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.network = HTNetwork(DimensionTree.grid(height, width), levels, channels, seed=seed)
        self.bias = nn.Parameter(-torch.ones(()))
        self.register_buffer("nodes", torch.linspace(0, 1, levels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 1) of images (n, 1, height, width)."""
        pixels = x.flatten(1).unsqueeze(-1)
        factors = []
        for k, node in enumerate(self.nodes):
            others = torch.cat([self.nodes[:k], self.nodes[k + 1 :]])
            factors.append(((pixels - others) / (node - others)).prod(-1))
        return self.network(torch.stack(factors, -1)) + self.bias


# By how far they see: receptive fields of 79 and 55 pixels.
_STRIDES = {"small_resnet": (2, 1, 2, 2, 1), "small_resnet_near": (2, 1, 2, 1, 1)}
MODELS = (*_STRIDES, "resnet18", "convac")


def make_model(name: str, data: LongRangeData, *, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A model of one logit for the images of a task."""
    channels, height, width = data.image_size
    if name == "convac":
        levels = data.train.maximum + 1
        if dropout or channels != 1 or levels > _MOST_LEVELS:
            raise ValueError(
                f"model convac takes one channel of at most {_MOST_LEVELS} levels and no dropout; got {channels}, "
                f"{levels} and {dropout}"
            )
        return ConvAC(height, width, levels=levels, seed=seed)
    if name == "resnet18":
        return resnet18(channels, dropout=dropout, seed=seed)
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; known are {', '.join(MODELS)}")
    return small_resnet(channels, strides=_STRIDES[name], dropout=dropout, seed=seed)


def warn_of_short_sight(model: nn.Module, data: LongRangeData) -> None:
    """Warn where no unit of a convolutional network sees both of what a task relates."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return
    field, span = min(receptive_field(model)), data.span
    if field < span:
        warnings.warn(
            f"the receptive field of the network is {field} pixels, and {data.name} at this distance spans {span}: no "
            "remedy makes it see farther; expected a network of a larger field, or a shorter distance",
            RuntimeWarning,
            stacklevel=2,
        )


# -- regularizers ---------------------------------------------------------------------------------------

_OF_PATCHES: dict[str, Any] = {"igc": InputGradientChange, "interaction": Interaction}
_OF_TREES: dict[str, Any] = {"tree_entropy": TreeEntropy, "tree_logdet": TreeLogDet}
REGULARIZERS = ("none", "gradient_field", *_OF_PATCHES, *_OF_TREES)


def read_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a regularizer written as ``name:option=value,...``."""
    name, _, rest = text.partition(":")
    if name not in REGULARIZERS:
        raise ValueError(f"regularizer is {name!r}; known are {', '.join(REGULARIZERS)}")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equal, value = part.partition("=")
        if not equal:
            raise ValueError(f"regularizer is {text!r}; expected name:option=value,option=value")
        try:
            options[key] = literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    if unknown := sorted(set(options) - set(known := _options_of(name))):
        raise ValueError(f"regularizer is {text!r}: {name} has no {unknown[0]}; it has {', '.join(known) or 'none'}")
    return name, options


def _options_of(name: str) -> list[str]:
    """What can be written behind a regularizer's name."""
    regularizer = (_OF_PATCHES | _OF_TREES | {"gradient_field": GradientFieldChange}).get(name)
    own = [] if regularizer is None else list(signature(regularizer).parameters)
    # What every training gives it.
    own = [option for option in own if option not in ("patches", "weight", "seed", "edges")]
    return own + (["patches", "size", "apart"] if name in _OF_PATCHES else [])


def write_spec(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `read_spec`, options in order of their names."""
    return name + ":" * bool(options) + ",".join(f"{key}={options[key]}" for key in sorted(options))


def make_regularizer(spec: str, weight: float, data: LongRangeData, seed: int) -> Regularizer | None:
    """The regularizer of a spec for a task; None for "none"."""
    name, options = read_spec(spec)
    if name == "none":
        return None
    if name in _OF_TREES:
        _, height, width = data.image_size
        tree = DimensionTree.grid(height, width)
        # Promoting what the task needs, not all ranks of the tree.
        edges = separating_edges(tree, width, *data.settings["areas"])
        return _OfTree(_OF_TREES[name](weight, edges, **options))
    if name == "gradient_field":
        return GradientFieldChange(weight=weight, seed=seed, **options)
    sampler = _patches(data, options.pop("patches", "random"), options.pop("size", 2), options.pop("apart", 0))
    found: Regularizer = _OF_PATCHES[name](sampler, weight, seed=seed, **options)
    return found


def _patches(data: LongRangeData, kind: str, size: int, apart: int) -> PatchSampler:
    if kind == "areas":
        if "areas" not in data.settings:
            raise ValueError(f"patches is 'areas'; {data.name} has none, expected 'random' or 'far'")
        return preset_areas(*(tuple(area) for area in data.settings["areas"]))
    samplers = {"random": random_patches, "far": far_patches}
    if kind not in samplers:
        raise ValueError(f"patches is {kind!r}; expected areas, {' or '.join(samplers)}")
    return samplers[kind](size, apart)


@dataclass(frozen=True)
class _OfTree:
    """A regularizer of the tree in a `ConvAC`."""

    regularizer: Any

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, out: Tensor, /) -> Tensor:
        found: Tensor = self.regularizer(model.network)
        return found
