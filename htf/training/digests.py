"""A fingerprint of tensors and of what holds them, to tell whether two trainings are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from htf.engine import Plan


def digest(*values: Any) -> str:
    """SHA-256 of the bytes of all entries.

    Parameters
    ----------
    values : Tensor, Plan, dataclass, sequence, mapping, number or str
        Dataclasses, mappings and sequences are read part by part, plans by their steps, which the inputs determine.
    """
    found = hashlib.sha256()
    for value in values:
        _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        # Flat, as a tensor without axes has no last one to be seen as bytes; contiguous, as a column is not.
        found.update(
            value.detach().cpu().resolve_conj().resolve_neg().flatten().contiguous().view(torch.uint8).numpy().data
        )
        return
    if isinstance(value, Plan):
        value = (value.batch, value.layout.dims, value.steps)
    if is_dataclass(value):
        found.update(type(value).__name__.encode())
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        parts = list(value)
        found.update(f"{len(parts)} parts".encode())
        for part in parts:
            # The shape, as the same entries may lie in tensors of several.
            found.update(f"{tuple(part.shape)}{part.dtype}".encode() if isinstance(part, Tensor) else b",")
            _add(found, part)
        return
    found.update(repr(value).encode())
