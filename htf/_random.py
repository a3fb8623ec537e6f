"""Random numbers that do not depend on torch's default device.

Everything is drawn where its generator is, on the CPU without one, and then moved: a seed gives the same numbers on
every device.  Networks and layers are made on torch's default device, as torch's own modules are; data sets, samplers
and measurements stay on the CPU, and what is made within an operation goes where its inputs are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def randn(shape: Sequence[int], generator: Generator | None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent normal numbers, on the CPU."""
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=place(generator)).cpu()


def rand(shape: Sequence[int], generator: Generator | None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent numbers, uniform in [0, 1), on the CPU."""
    return torch.rand(tuple(shape), generator=generator, dtype=dtype, device=place(generator)).cpu()


def place(generator: Generator | None) -> torch.device:
    """Where a generator draws; torch's global one on the CPU."""
    return torch.device("cpu") if generator is None else generator.device


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Copy values drawn on the CPU to the device of another tensor, without waiting for it."""
    return values.to(like.device, non_blocking=True)
