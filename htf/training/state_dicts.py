"""States of models as dicts of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a state into a model, tensor by tensor; all or none."""
    own = model.state_dict()
    shapes, theirs = ({name: tuple(t.shape) for name, t in each.items()} for each in (own, weights))
    if shapes != theirs:
        different = sorted(name for name in {*shapes, *theirs} if shapes.get(name) != theirs.get(name))
        raise KeyError(different[0])
    for name, tensor in own.items():
        tensor.copy_(weights[name])


T = TypeVar("T")


def part_of(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors, or other values, whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
