"""Exchanging plain layers of a model for stand-ins, in a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, nn

from htf._checks import check_seed
from htf.nn.layers.drop_in import DropInLayer
from htf.surgery._carry import factors, share, take_over
from htf.surgery._eligible import LeftAlone, check_values, has_weights, held_outside, reason_against, shared_outside
from htf.surgery._walk import Place, as_patterns, check_model, choose, copy_with, places, sealed

Build = Callable[[nn.Module], DropInLayer]
Types = tuple[type[nn.Module], ...]
Start = Literal["same", "random"]


@dataclass
class Selection:
    """The layers of a model that are to be exchanged, and reasons against the others.

    Attributes
    ----------
    found : list of Place
        All modules.
    groups : list of list of Place
        Layers to be exchanged; those that share a weight are together.
    reasons : dict
        Against the others, by the module's ``id``.
    """

    found: list[Place]
    groups: list[list[Place]]
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """All layers to be exchanged, in the order of the model."""
        chosen = {id(place.module) for group in self.groups for place in group}
        return [place for place in self.found if id(place.module) in chosen]

    @property
    def left_alone(self) -> list[LeftAlone]:
        """Layers with weights that stay, in the order of the model."""
        listed = [place for place in self.found if id(place.module) in self.reasons and has_weights(place.module)]
        return [LeftAlone(p.name, type(p.module).__name__, self.reasons[id(p.module)]) for p in listed]

    def keep(self, group: list[Place], reason: str) -> None:
        """Leave a group alone after all."""
        self.groups = [each for each in self.groups if each is not group]
        self.reasons |= {id(place.module): reason for place in group}

    def check_values(self) -> None:
        """Refuse layers whose weights are not there yet."""
        check_values([place for group in self.groups for place in group], "; or draw new ones with start='random'")

    def check_some(self, what: str) -> None:
        """Refuse a model in which nothing is to be changed."""
        if not self.groups:
            told = "; ".join(f"{name} ({kind}): {reason}" for name, kind, reason in self.left_alone[:4])
            raise ValueError(f"model has no layer with weights that can be {what}{': ' + told if told else ''}")


def select(model: nn.Module, modules: Iterable[str] | None, types: Types, supported: Types, what: str) -> Selection:
    """Find the layers to be exchanged.

    Raises
    ------
    TypeError
        For scripted, compiled or quantized modules among those chosen.
    ValueError
        If names fit nothing that can be exchanged.
    """
    check_model(model)
    found = places(model)
    patterns = as_patterns(modules)
    chosen = choose(found, patterns)
    for place in chosen:
        if (reason := sealed(place.module)) is not None:
            raise TypeError(f"{place.name} is a {type(place.module).__name__}: {reason}; or name others in modules")
    reasons = {id(place.module): reason_against(place.module, types, supported) for place in chosen}
    against = {key: reason for key, reason in reasons.items() if reason is not None}
    against = {key: reason for key, reason in held_outside(found).items() if key in reasons} | against
    against |= shared_outside(found, [place for place in chosen if id(place.module) not in against])
    _check_named(chosen, patterns, against)
    groups = _groups([place for place in chosen if id(place.module) not in against])
    selection = Selection(found, groups, {**_not_chosen(found, chosen), **against})
    selection.check_some(what)
    return selection


def build_each(selection: Selection, build: Build, what: str) -> dict[int, DropInLayer]:
    """A new layer for each, by the ``id`` of the old one; groups for which there is none are left alone."""
    new: dict[int, DropInLayer] = {}
    for group in selection.groups:
        try:
            new |= build_group(group, build)
        except ValueError as error:
            selection.keep(group, str(error))
    selection.check_some(what)
    return new


def build_group(group: list[Place], build: Build) -> dict[int, DropInLayer]:
    """New layers for those that share a weight, which share their factors.

    Raises
    ------
    ValueError
        If one cannot be built.
    """
    new = [build(place.module) for place in group]
    for other in new[1:]:
        share(other, new[0])
        with torch.no_grad():
            if not torch.allclose(other.weight, new[0].weight, rtol=1e-3, atol=1e-6):
                raise ValueError("its weight is shared with a layer whose factors cannot be")
    return {id(place.module): layer for place, layer in zip(group, new, strict=True)}


def check_start(start: str) -> None:
    """Refuse what is neither "same" nor "random"."""
    if start not in ("same", "random"):
        raise ValueError(f"start is {start!r}; expected 'same' or 'random'")


def make_generator(seed: int | Generator | None) -> Generator | None:
    """One generator for all layers, so that no two are drawn alike; None for torch's global one."""
    return seed if seed is None or isinstance(seed, Generator) else Generator().manual_seed(check_seed(seed))


def exchange(model: nn.Module, new: dict[int, DropInLayer], *, fresh: bool) -> nn.Module:
    """A copy of the model with the new layers, which take over what belongs to the place."""
    copied, old = copy_with(model, new)
    for key, layer in new.items():
        take_over(old[key], layer, fresh=fresh)
    return copied


def size_of(layers: Iterable[nn.Module]) -> int:
    """Numbers in the factors of layers, those that they share once."""
    return sum({id(p): p.numel() for layer in layers for p in factors(layer).values()}.values())


def _not_chosen(found: list[Place], chosen: list[Place]) -> dict[int, str]:
    return dict.fromkeys({id(p.module) for p in found} - {id(p.module) for p in chosen}, "not selected")


def _check_named(chosen: list[Place], patterns: list[str] | None, against: dict[int, str]) -> None:
    for pattern in patterns or ():
        hits = [place for place in chosen if place.matches(pattern)]
        if all(id(place.module) in against for place in hits):
            told = [p for p in hits if has_weights(p.module)] or hits
            first = "; ".join(f"{p.name} ({type(p.module).__name__}): {against[id(p.module)]}" for p in told[:4])
            raise ValueError(f"modules has {pattern!r}, where nothing can be changed: {first}")


def _groups(eligible: list[Place]) -> list[list[Place]]:
    groups: dict[int, list[Place]] = {}
    for place in eligible:
        groups.setdefault(id(place.module._parameters["weight"]), []).append(place)
    return list(groups.values())
