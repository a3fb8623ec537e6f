"""Arguments that are one for all runs or one per run, and the dtype of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from htf._checks import check_dtype, positive


def per_run(name: str, value: object, runs: int | None) -> tuple[list[object], int | None]:
    """Spread an argument that is one value, or has one per run, and the runs; None where nothing asks for runs."""
    runs = None if runs is None else positive("runs", runs)
    if isinstance(value, Iterable) and not isinstance(value, Mapping | str):
        values = list(value)
        if not values:
            raise ValueError(f"{name} is empty; expected at least one value")
        if runs is not None and runs != len(values):
            raise ValueError(f"{name} has {len(values)} values, one per run; runs is {runs}")
        return values, len(values)
    return [value] * (runs or 1), runs


def parameter_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of parameters: torch's default for None."""
    check_dtype(dtype)
    return torch.get_default_dtype() if dtype is None else dtype


def initializers(init: Any, runs: int) -> list[Any]:
    """One initializer, or name of one, per run."""
    if isinstance(init, Sequence) and not isinstance(init, str):
        if len(init) != runs:
            raise ValueError(f"init has {len(init)} values; the network has {runs} runs")
        return list(init)
    return [init] * runs
