"""Optimizers by name, how fast they follow the gradient flow, and their state as plain tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from htf._checks import above_zero
from htf.nn import Factorization
from htf.nn.networks.normal_leaves import NormalNetwork
from htf.training.expectation_maximization import ExpectationMaximization
from htf.training.group_rmsprop import GroupRMSprop
from htf.training.relative_adam import RelativeAdam
from htf.training.state_dicts import part_of

OptimizerLike = str | Callable[..., Optimizer]
# Those of torch that treat every entry by itself, so that runs stay independent of each other.
_TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
# Those whose steps are per run, for which they have to know the network.
_OF_NETWORKS: dict[str, Callable[..., Optimizer]] = {
    "expectation_maximization": ExpectationMaximization,
    "group_rmsprop": GroupRMSprop,
    "relative_adam": RelativeAdam,
}


def make_optimizer(optimizer: OptimizerLike, model: nn.Module, lr: float) -> Optimizer:
    """The optimizer of a name, or what a callable of (parameters, lr=lr) returns."""
    lr = above_zero("lr", lr)
    made_from = optimizer.func if isinstance(optimizer, partial) else optimizer
    of_network = _OF_NETWORKS.get(made_from) if isinstance(made_from, str) else None
    if of_network is not None or made_from in _OF_NETWORKS.values():
        if not isinstance(model, Factorization | NormalNetwork):
            name = made_from if isinstance(made_from, str) else made_from.__name__
            raise TypeError(f"optimizer is {name}, which takes a factorization; model is a {type(model).__name__}")
        make: Any = of_network or optimizer
        return make(model, **{"step" if RelativeAdam in (make, made_from) else "lr": lr})
    if isinstance(optimizer, str):
        if optimizer not in _TORCH:
            known = "group_rmsprop, sgd, adam, adamw, rmsprop, relative_adam, expectation_maximization"
            raise ValueError(f"optimizer is {optimizer!r}; known are {known}, or a callable")
        return _TORCH[optimizer](_trained(model), lr=lr)
    if not callable(optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a name or a callable (parameters, lr=lr)")
    made = optimizer(_trained(model), lr=lr)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer returned a {type(made).__name__}; expected a torch.optim.Optimizer")
    own = {id(parameter) for parameter in model.parameters()}
    for held in (tensor for group in made.param_groups for tensor in group["params"]):
        if id(held) not in own:
            raise ValueError(
                f"optimizer holds a tensor of shape {tuple(held.shape)} that is no parameter of the model; expected "
                "those that it is given"
            )
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer is {type(made).__name__}, which evaluates the loss itself; expected one that does not"
        )
    return made


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flow_rates(optimizer: Optimizer, network: Factorization) -> Tensor | None:
    """Factor of the gradient in the last step, (runs,) float64; None if the step was not along the gradient."""
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
    if isinstance(optimizer, RelativeAdam):
        # Its rates depend on the network's entries.
        return {"name": "RelativeAdam", "step": optimizer.full_step, "betas": optimizer.defaults["betas"]}
    groups = [
        {key: value for key, value in group.items() if isinstance(value, int | float | str | tuple | None)}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, **(groups[0] if len(groups) == 1 else {"groups": groups})}


def optimizer_state(optimizer: Optimizer, parameters: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that an optimizer remembers: tensors, and plain numbers, both by "parameter number/name".

    Values of its groups, which schedules change, are there by "group number/name".
    """
    memories = [(str(k), optimizer.state.get(parameter, {})) for k, parameter in enumerate(parameters)]
    for k, group in enumerate(optimizer.param_groups):
        memories.append((f"group {k}", {name: value for name, value in group.items() if name != "params"}))
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for where, memory in memories:
        for name, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"{where}/{name}"] = value
            elif isinstance(value, bool | int | float | str | tuple | list | None):
                numbers[f"{where}/{name}"] = value
    return tensors, numbers


def restore_optimizer(
    optimizer: Optimizer, parameters: Iterable[Tensor], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """The inverse of `optimizer_state`; unlike torch's own way it keeps the dtype of everything."""
    for k, parameter in enumerate(parameters):
        # A step count stays on the CPU even where parameters are not, as torch keeps it.
        own = part_of(f"{k}/", tensors)
        moved = {name: t if name == "step" else t.to(parameter.device) for name, t in own.items()}
        state = moved | part_of(f"{k}/", numbers)
        if state:
            optimizer.state[parameter] = state
    for k, group in enumerate(optimizer.param_groups):
        for name, value in part_of(f"group {k}/", numbers).items():
            # Tuples come back from JSON as lists.
            group[name] = tuple(value) if isinstance(group.get(name), tuple) else value
        for name, tensor in part_of(f"group {k}/", tensors).items():
            group[name] = tensor.to(group[name].device)
