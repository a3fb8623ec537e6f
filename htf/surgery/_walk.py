"""The modules of a model with all of their names; choosing some by name, and putting others in their places."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from htf.nn.layers.drop_in import DropInLayer

ROOT = "(the model)"


@dataclass(frozen=True, eq=False)
class Place:
    """A module and the names under which it is registered, several where it is used more than once."""

    module: nn.Module
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first name, as reports and messages have it."""
        return self.names[0] or ROOT

    def matches(self, pattern: str) -> bool:
        """Whether the pattern fits a name of the module, or of one that contains it."""
        return any(above == pattern or fnmatchcase(above, pattern) for name in self.names for above in _above(name))


def places(model: nn.Module) -> list[Place]:
    """All modules but those inside of stand-ins, in the order of registration, the model itself first."""
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for name, module in _visit(model, "", ()):
        found.setdefault(id(module), (module, []))[1].append(name)
    return [Place(module, tuple(names)) for module, names in found.values()]


def as_patterns(modules: object) -> list[str] | None:
    """Names or patterns as a list, one by itself too; None for None."""
    if modules is None or isinstance(modules, str):
        return modules if modules is None else [modules]
    if not isinstance(modules, Iterable):
        raise TypeError(f"modules is {modules!r}; expected names or patterns, or None for the whole model")
    return list(modules)


def choose(found: list[Place], patterns: list[str] | None) -> list[Place]:
    """The modules that names or patterns fit, with all below them; all for None.

    Raises
    ------
    ValueError
        For a pattern that fits nothing.
    """
    if patterns is None:
        return found
    if not patterns:
        raise ValueError("modules is empty; expected names or patterns, or None for the whole model")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"modules has {pattern!r}; expected names or patterns")
        if not any(place.matches(pattern) for place in found):
            raise ValueError(_unknown(pattern, found))
    return [place for place in found if any(place.matches(pattern) for pattern in patterns)]


def check_model(model: nn.Module) -> None:
    """Refuse what is not a module, or is one whose modules cannot be exchanged."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if (reason := sealed(model)) is not None:
        raise TypeError(f"model is a {type(model).__name__}: {reason}")


def sealed(module: nn.Module) -> str | None:
    """Why nothing can be exchanged in a module, or None where it can."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted; change the model first and script it then"
    # By name: looking the class up imports the compiler, which takes seconds.
    if kind.__module__.startswith("torch._dynamo"):
        return "it is compiled; change the model first and compile it then"
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return "it is shared among processes; change the model first and wrap it then"
    if kind.__module__.startswith("torch.") and ".quantized" in kind.__module__:
        return "it is quantized; change the model first and quantize it then"
    return None


def copy_with(model: nn.Module, new: Mapping[int, nn.Module]) -> tuple[nn.Module, dict[int, nn.Module]]:
    """A deep copy in which modules, given by their ``id`` in the model, are replaced; and the copies that made room."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        # weight_norm and pruning keep weights that were computed, which torch does not copy; recurrent layers in lists.
        held = [each for v in vars(module).values() for each in (v if isinstance(v, list) else [v])]
        memo |= {id(v): v.detach().clone() for v in held if isinstance(v, Tensor) and not v.is_leaf}
    copied = copy.deepcopy(model, memo)
    old = {key: memo[key] for key in new}
    by_copy = {id(old[key]): module for key, module in new.items()}
    for parent in list(copied.modules()):
        for slot, child in parent._modules.items():
            if id(child) in by_copy:
                # In its place, so that names and the order of the state do not change.
                parent._modules[slot] = by_copy[id(child)]
    return by_copy.get(id(copied), copied), old


def _visit(module: nn.Module, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in above:
        return
    yield name, module
    if isinstance(module, DropInLayer):
        return
    for slot, child in module._modules.items():
        if child is not None:
            yield from _visit(child, f"{name}.{slot}" if name else slot, (*above, id(module)))


def _above(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _unknown(pattern: str, found: list[Place]) -> str:
    names = [name for place in found for name in place.names if name]
    near = difflib.get_close_matches(pattern, names, n=4, cutoff=0.4) or names[:4]
    hint = f"; near are {', '.join(near)}" if near else "; it has no modules with names"
    return f"modules has {pattern!r}, which fits no module of the model{hint}"
