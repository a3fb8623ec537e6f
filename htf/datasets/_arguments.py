"""Checks of what the problems are made from."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator

from htf._checks import positive
from htf.tree import DimensionTree


def check_shape(shape: Sequence[int], name: str = "shape") -> tuple[int, ...]:
    """A shape of two modes or more."""
    dims = tuple(positive(f"{name}[{mode}]", dim) for mode, dim in enumerate(shape))
    if len(dims) < 2:
        raise ValueError(f"{name} is {dims}; expected two modes at least")
    return dims


def check_noise(noise: float) -> float:
    """A standard deviation."""
    if not (is_number(noise) and 0 <= noise < math.inf):
        raise ValueError(f"noise is {noise!r}; expected a standard deviation, 0 or more")
    return float(noise)


def default_device(device: torch.device | str | None) -> torch.device | str:
    """Where a problem is made: on torch's default device, as networks are, if none is named."""
    return torch.get_default_device() if device is None else device


def check_dtype(dtype: torch.dtype) -> None:
    """A TypeError for what is no floating type."""
    if not dtype.is_floating_point:
        raise TypeError(f"dtype is {dtype}; expected a floating type")


def is_number(value: object) -> bool:
    """Whether a value is a real number and no bool."""
    # NumPy's floats and integers are numbers too; a bool that is one is a slip.
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def seeded(seed: int) -> Generator:
    """A generator of an integer seed."""
    try:
        return Generator().manual_seed(operator.index(seed))
    except TypeError:
        raise TypeError(f"seed is {seed!r}; expected an integer") from None


def children_of(tree: DimensionTree) -> list[list[int]]:
    """The tree's inner nodes as JSON can hold them."""
    return [list(tree.children(node)) for node in tree.inner_nodes]
