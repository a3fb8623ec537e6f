"""Optimizers by name, how fast they follow the gradient flow, and their state as plain tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from htf.training.group_rmsprop import GroupRMSprop
from htf.training.tracking import Factorization

OptimizerLike = str | Callable[..., Optimizer]
# Those of torch that treat every entry by itself, so that runs stay independent of each other.
_TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}


def make_optimizer(optimizer: OptimizerLike, network: Factorization, lr: float) -> Optimizer:
    """The optimizer of a name, or what a callable of (parameters, lr=lr) returns."""
    if not lr > 0:
        raise ValueError(f"lr is {lr}; expected above 0")
    if optimizer == "group_rmsprop":
        return GroupRMSprop(network, lr)
    if optimizer is GroupRMSprop or (isinstance(optimizer, partial) and optimizer.func is GroupRMSprop):
        # Its steps are per run, for which it has to know the network.
        return optimizer(network, lr=lr)
    if isinstance(optimizer, str):
        if optimizer not in _TORCH:
            raise ValueError(f"optimizer is {optimizer!r}; known are group_rmsprop, {', '.join(_TORCH)}, or a callable")
        return _TORCH[optimizer](network.parameters(), lr=lr)
    if not callable(optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a name or a callable (parameters, lr=lr)")
    made = optimizer(network.parameters(), lr=lr)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer returned a {type(made).__name__}; expected a torch.optim.Optimizer")
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer is {type(made).__name__}, which evaluates the loss itself; expected one that does not"
        )
    return made


def flow_rates(optimizer: Optimizer, network: Factorization) -> Tensor | None:
    """What multiplied the gradient in the last step, (runs,) float64; None if the step was not along the gradient."""
    if isinstance(optimizer, GroupRMSprop):
        return optimizer.rates
    group, *others = optimizer.param_groups
    if type(optimizer) is not torch.optim.SGD or others:
        return None
    if group["momentum"] or group["weight_decay"] or group["maximize"]:
        return None
    return torch.full((network.runs,), float(group["lr"]), dtype=torch.float64, device=network.device)


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Name and settings, as JSON can hold them."""
    groups = [
        {key: value for key, value in group.items() if isinstance(value, int | float | str | tuple | None)}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, **(groups[0] if len(groups) == 1 else {"groups": groups})}


def optimizer_state(optimizer: Optimizer, parameters: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that an optimizer remembers: tensors, and plain numbers, both by "parameter number/name"."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for k, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{k}/{name}"] = value
    return tensors, numbers


def restore_optimizer(
    optimizer: Optimizer, parameters: Iterable[Tensor], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """The inverse of `optimizer_state`; unlike torch's own way it keeps the dtype of everything."""
    # A step count stays on the CPU even where parameters are not, as torch keeps it.
    for k, parameter in enumerate(parameters):
        prefix = f"{k}/"
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        moved = {n: t if n == "step" else t.to(parameter.device) for n, t in own.items()}
        state = moved | {n.removeprefix(prefix): v for n, v in numbers.items() if n.startswith(prefix)}
        if state:
            optimizer.state[parameter] = state
