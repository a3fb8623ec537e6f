"""Plans as plain tensors and what JSON can hold, so that they can be kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from htf.engine.layout import Layout
from htf.engine.plan import Plan
from htf.engine.steps import Aligned, Bags, Codes, Gather, Outer, Pairs, Patterns, Stacked, Step
from htf.tree import DimensionTree

_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Aligned, Bags, Codes, Gather, Outer, Pairs, Patterns, Stacked, Step)
}


def plans_to_parts(plans: Sequence[Plan]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The tensors of plans for indices, by name, and a description of each plan; `plans_from_parts` is the inverse."""
    tensors: dict[str, Tensor] = {}
    described = []
    for plan in plans:
        layout = plan.layout
        described.append(
            {
                "dims": layout.dims,
                "widths": layout.widths,
                "outputs": layout.outputs,
                "root_adds": layout.root_adds,
                "batch": plan.batch,
                "runs": plan.runs,
                "dtype": str(plan.dtype).removeprefix("torch."),
                "components": plan.components,
                "steps": _to_parts(plan.steps, tensors, {}),
            }
        )
    return tensors, described


def plans_from_parts(
    tensors: dict[str, Tensor], described: list[dict[str, Any]], tree: DimensionTree, device: torch.device
) -> list[Plan]:
    """Plans on a tree from what `plans_to_parts` returned.

    Raises
    ------
    KeyError, TypeError, AttributeError
        If the description is of something else.
    """
    plans = []
    for each in described:
        layout = Layout(tree, tuple(each["dims"]), tuple(each["widths"]), each["outputs"], each["root_adds"])
        steps = _from_parts(each["steps"], tensors, {}, device)
        runs, components = each["runs"], tuple(each["components"])
        dtype = getattr(torch, each["dtype"])
        plans.append(Plan.of_steps(layout, steps, each["batch"], runs, dtype, device, components))
    return plans


def _to_parts(value: Any, tensors: dict[str, Tensor], known: dict[int, int]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if is_dataclass(value):
        # Steps may share what they take.
        if id(value) in known:
            return {"again": known[id(value)]}
        known[id(value)] = len(known)
        parts = {field.name: _to_parts(getattr(value, field.name), tensors, known) for field in fields(value)}
        return {"kind": type(value).__name__, "parts": parts}
    if isinstance(value, tuple):
        return [_to_parts(each, tensors, known) for each in value]
    return value


def _from_parts(value: Any, tensors: dict[str, Tensor], known: dict[int, Any], device: torch.device) -> Any:
    if isinstance(value, list):
        return tuple(_from_parts(each, tensors, known, device) for each in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].to(device)
    if "again" in value:
        return known[value["again"]]
    number = len(known)
    known[number] = None  # counted before what it holds, as when it was written
    parts = {name: _from_parts(each, tensors, known, device) for name, each in value["parts"].items()}
    known[number] = _KINDS[value["kind"]](**parts)
    return known[number]
