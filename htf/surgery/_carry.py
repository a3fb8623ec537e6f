"""What a new layer takes over from the one whose place it takes, and factors that layers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from htf.nn.layers.drop_in import DropInLayer

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
# What a module is made of; all else in it belongs to torch or to who uses it.
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


def take_over(old: nn.Module, new: nn.Module, *, fresh: bool = False) -> None:
    """Hooks, mode, what is trained, and the bias as the parameter that it is, with new values where `fresh`."""
    new.train(old.training)
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    trained = any(parameter.requires_grad for parameter in factors(old).values())
    last = new[-1] if isinstance(new, nn.Sequential) else new
    for parameter in new.parameters():
        parameter.requires_grad_(trained)
    bias, found = old._parameters.get("bias"), last._parameters.get("bias")
    if bias is None or found is None:
        return
    if fresh:
        with torch.no_grad():
            bias.copy_(found)
    # A bias into which batch normalization was folded is another.
    if fresh or bias.is_meta or torch.equal(bias, found):
        last._parameters["bias"] = bias
    else:
        found.requires_grad_(bias.requires_grad)


def become(layer: DropInLayer, new: DropInLayer) -> None:
    """Give a layer the factors of another of its class; it stays the same object, with its hooks."""
    take_over(layer, new)
    torchs_own = set(vars(nn.Module())) - set(_STATE)
    vars(layer).update({name: value for name, value in vars(new).items() if name not in torchs_own})


def factors(layer: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters but biases, by name."""
    return {name: p for name, p in layer.named_parameters() if name.rpartition(".")[2] != "bias"}


def share(layer: nn.Module, first: nn.Module) -> None:
    """Make the factors of a layer those of another that stands for the same weight.

    Raises
    ------
    ValueError
        If the two are not made alike.
    """
    mine, theirs = factors(layer), factors(first)
    alike = mine.keys() == theirs.keys() and all(mine[name].shape == theirs[name].shape for name in mine)
    if not alike or any(True for _ in layer.buffers()):
        raise ValueError("its weight is shared with a layer whose factors cannot be")
    for name, parameter in theirs.items():
        owner, _, leaf = name.rpartition(".")
        layer.get_submodule(owner)._parameters[leaf] = parameter


def relative_error(new: DropInLayer, weight: Any) -> float:
    """Distance of a layer's weight from another relative to that one's Frobenius norm."""
    with torch.no_grad():
        norm = torch.linalg.vector_norm(weight)
        return float(torch.linalg.vector_norm(new.weight - weight) / norm) if norm else 0.0
