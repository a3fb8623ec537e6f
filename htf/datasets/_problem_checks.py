"""Checks of completion problems that are put together by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from htf.datasets._arguments import check_shape
from htf.datasets._entry_files import Entries, check_entries
from htf.tree import DimensionTree


def check_problem(
    tree: DimensionTree,
    shape: tuple[int, ...],
    observed: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    target: Tensor | None,
) -> tuple[int, ...]:
    """The shape as a tuple; errors that name the argument where entries do not fit each other, the shape or the tree.

    On the meta device there are no entries to look at, only their shapes and dtypes are checked.
    """
    shape = check_shape(shape)
    if tree.order != len(shape):
        raise ValueError(f"tree has {tree.order} modes; shape is {shape}")
    for prefix, pair in (("", observed), ("test_", test)):
        _check_form(prefix, *pair, len(shape))
    (indices, values), (test_indices, test_values) = observed, test
    if not len(indices):
        raise ValueError("indices has no rows; expected at least one observed entry")
    for name, tensor in (("test_values", test_values), ("target", target)):
        if tensor is not None and tensor.dtype != values.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; values have {values.dtype}")
    for name, tensor in (("values", values), ("test_indices", test_indices), ("test_values", test_values)):
        if tensor.device != indices.device:
            raise ValueError(f"{name} is on {tensor.device}; indices are on {indices.device}")
    if target is not None and tuple(target.shape) != shape:
        raise ValueError(f"target has shape {tuple(target.shape)}; shape is {shape}")
    if indices.device.type != "meta":
        _check_entries(shape, observed, test)
    return shape


def _check_form(prefix: str, indices: Tensor, values: Tensor, order: int) -> None:
    if indices.ndim != 2 or indices.shape[1] != order:
        raise ValueError(f"{prefix}indices has shape {tuple(indices.shape)}; expected (m, {order})")
    if tuple(values.shape) != (len(indices),):
        raise ValueError(f"{prefix}values has shape {tuple(values.shape)}; {prefix}indices has {len(indices)} rows")
    if indices.dtype != torch.int64:
        raise TypeError(f"{prefix}indices has dtype {indices.dtype}; expected torch.int64")
    if not values.dtype.is_floating_point:
        raise TypeError(f"{prefix}values has dtype {values.dtype}; expected a floating type")


def _check_entries(shape: tuple[int, ...], observed: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
    for name, (_, given) in (("values", observed), ("test_values", test)):
        strange = (~given.isfinite()).nonzero().flatten().tolist()
        if strange:
            raise ValueError(f"{name}[{strange[0]}] is {float(given[strange[0]])}; expected a finite number")
    count = len(observed[0])
    indices = np.concatenate([part[0].cpu().numpy() for part in (observed, test)])
    # In doubles: NumPy does not have every dtype.
    values = np.concatenate([part[1].detach().cpu().double().numpy() for part in (observed, test)])

    def place(row: int) -> str:
        return f"indices[{row}]" if row < count else f"test_indices[{row - count}]"

    check_entries(Entries(Path("problem:"), indices, values, place), shape)
