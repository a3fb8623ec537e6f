"""Checks of what a network is given: integer indices or encoded vectors, nothing in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from htf.engine.tracing import values_at_hand, values_known
from htf.linalg.backend import check_tensor

# Integers that torch reduces as they are.
_READ = (torch.uint8, torch.int8, torch.int16, torch.int32)


def check_indices(indices: Tensor, dims: Sequence[int]) -> Tensor:
    """Return (batch, order) integer indices as they are, or raise."""
    check_tensor(indices, "indices")
    if indices.ndim != 2:
        raise ValueError(f"indices has shape {tuple(indices.shape)}; expected (batch, order)")
    if indices.dtype.is_floating_point or indices.dtype.is_complex:
        raise TypeError(
            f"indices has dtype {indices.dtype}; expected integers. Encoded vectors have shape (batch, order, dim)"
        )
    if indices.shape[1] != len(dims):
        raise ValueError(f"indices has {indices.shape[1]} columns; the network has order {len(dims)}")
    if not values_known(indices):
        raise ValueError(
            "indices cannot be read while a graph is traced, or under vmap, and what is computed depends on their "
            "values; make a plan of them before, or give encoded vectors"
        )
    if len(indices):
        # In their own type: bytes are read far faster than long integers.
        read = indices if indices.dtype in _READ else indices.long()
        low, high = read.amin(0).long(), read.amax(0).long()
        bad = ((low < 0) | (high >= torch.tensor(dims, device=indices.device))).nonzero()
        if len(bad):
            mode = int(bad[0])
            raise IndexError(
                f"indices of mode {mode} range from {int(low[mode])} to {int(high[mode])}; "
                f"its dimension is {dims[mode]}"
            )
    return indices


def check_encoded(vectors: Tensor, dims: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return (batch, order, max dim) encoded vectors, or raise."""
    check_tensor(vectors, "vectors")
    if vectors.ndim != 3:
        raise ValueError(f"vectors has shape {tuple(vectors.shape)}; expected (batch, order, dim)")
    if not vectors.dtype.is_floating_point:
        raise TypeError(
            f"vectors has dtype {vectors.dtype}; encoded vectors are floats. Integer indices have shape (batch, order)"
        )
    if vectors.shape[1] != len(dims):
        raise ValueError(f"vectors has {vectors.shape[1]} modes; the network has order {len(dims)}")
    if vectors.shape[2] != max(dims):
        raise ValueError(f"vectors has dimension {vectors.shape[2]}; the largest mode has {max(dims)}")
    if vectors.dtype != dtype:
        raise TypeError(f"vectors has dtype {vectors.dtype}; the network has {dtype}")
    # Not looked at while a graph is traced, or under vmap, nor on a GPU, which the host would wait for.
    if values_at_hand(vectors) and not bool(vectors.isfinite().all()):
        bad = int((~vectors.isfinite()).sum())
        raise ValueError(f"vectors has {bad} entries that are NaN or infinite")
    return vectors


def outputs_of_none(inputs: Tensor, dims: Sequence[int], shape: Sequence[int], parameters: Iterable[Tensor]) -> Tensor:
    """Outputs (0, ...) for a batch without samples; gradients flow, and are zero, as those of torch's layers are."""
    parameters = list(parameters)
    outputs = parameters[0].new_zeros(0, *shape)
    if inputs.ndim == 3 or inputs.dtype.is_floating_point:
        outputs = outputs + check_encoded(inputs, dims, outputs.dtype).sum()
    else:
        check_indices(inputs, dims)
    # Sums over nothing, which are zero whatever the entries are.
    return outputs + sum(parameter[:0].sum() for parameter in parameters)
