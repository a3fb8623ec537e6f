"""Euclidean norms of each run's part of tensors, at any scale that their entries have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ByRun = Callable[[Tensor, float], Tensor]

# One reduction of all runs is slower than one each where a run has more entries than this.
LONG = 2**16


def leading_norms(tensor: Tensor, p: float) -> Tensor:
    """The p-norms of tensor[0], tensor[1], ..."""
    flat = tensor.flatten(1)
    if flat.shape[1] < LONG:
        return torch.linalg.vector_norm(flat, p, dim=1)
    return torch.stack([torch.linalg.vector_norm(part, p) for part in flat])


def run_norms(tensors: Sequence[Tensor], count: int, by_run: ByRun, spread: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Norm of each run's entries in all tensors together.

    Parameters
    ----------
    tensors : sequence of Tensor
    count : int
        How many the network's parameters are.
    by_run : callable
        From one of the tensors and an order p (2 or inf) to the p-norms of the runs' parts, (runs,).
    spread : callable
        From one value per run to factors, each broadcastable to its tensor.

    Notes
    -----
    One pass without temporaries.  Only where squares leave the range of the dtype are the tensors scaled by their
    largest entries, and passed again.  On a GPU, where looking would make the host wait, squares of float32 are added
    in float64, and float64 is always scaled.
    """
    if len(tensors) != count:
        raise ValueError(f"tensors has {len(tensors)} entries; the network has {count} parameters")
    on_gpu = tensors[0].device.type != "cpu"
    if on_gpu and tensors[0].dtype == torch.float32:
        return _together([t.double() for t in tensors], by_run).float()
    plain = _together(tensors, by_run)
    info = torch.finfo(plain.dtype)
    # Squares below the smallest normal number are lost; above this norm they add less than rounding.
    least = (sum(t.numel() for t in tensors) * info.tiny / info.eps) ** 0.5
    if not on_gpu and all(least < norm < math.inf for norm in plain.tolist()):
        return plain
    largest = torch.stack([by_run(t, torch.inf) for t in tensors]).amax(0)
    scale = torch.where((largest > 0) & (largest < torch.inf), largest, 1)
    scaled = [t / factor for t, factor in zip(tensors, spread(scale), strict=True)]
    return _together(scaled, by_run) * scale


def _together(tensors: Sequence[Tensor], by_run: ByRun) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([by_run(t, 2) for t in tensors]), dim=0)
