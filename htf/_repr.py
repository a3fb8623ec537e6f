"""Representations of results that fit on a screen: what there is, not every number of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

_WIDTH, _FIELDS, _FEW, _MANY = 100, 16, 4, 10**6


def brief(result: Any) -> str:
    """One line for each field of a dataclass; its ``__repr__`` where fields hold arrays, or many values.

    Arrays are given by dtype, shape and range, what is long by its length and first names.
    """
    names = [field.name for field in fields(result) if field.repr]
    lines = [f"{name}={_summary(getattr(result, name))}" for name in names[:_FIELDS]]
    if len(names) > _FIELDS:
        lines.append(f"and {len(names) - _FIELDS} more fields")
    return f"{type(result).__name__}(\n  " + ",\n  ".join(lines) + ",\n)"


def _summary(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return _array(value)
    if isinstance(value, Mapping) and not _is_short(value):
        return f"{len(value)} entries: {_cut(', '.join(map(str, value)))}"
    if isinstance(value, (list, tuple)) and not _is_short(value):
        kinds = sorted({type(each).__name__ for each in value})
        return f"{type(value).__name__} of {len(value)} {' and '.join(kinds[:3])}"
    if vars(type(value)).get("__repr__") is brief:
        return f"{type(value).__name__}(...)"
    return _cut(" ".join(repr(value).split()))


def _is_short(value: Any) -> bool:
    """Whether a container holds a few plain values."""
    parts = [*value, *(value.values() if isinstance(value, Mapping) else [])]
    if len(parts) > 2 * _FEW:
        return False
    plain = all(isinstance(part, (str, int, float, type(None))) for part in parts)
    return plain and len(repr(value)) <= _WIDTH


def _array(array: Any) -> str:
    values, kind = array, str(array.dtype).removeprefix("torch.")
    if isinstance(array, torch.Tensor):
        if array.is_meta:
            return f"{kind} {tuple(array.shape)} on meta"
        kind += "" if array.device.type == "cpu" else f" on {array.device}"
        values = array.detach()
    size = math.prod(array.shape)
    if size <= _FEW and len(array.shape) <= 1:
        return f"{kind} {_cut(str(values.tolist()))}"
    text = f"{kind} {tuple(array.shape)}"
    if not 0 < size <= _MANY or not ("float" in kind or "int" in kind):
        return text
    values = values[values == values]  # NaN says that there is nothing
    return f"{text}, {float(values.min()):.4g} to {float(values.max()):.4g}" if len(values) else f"{text}, NaN"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
