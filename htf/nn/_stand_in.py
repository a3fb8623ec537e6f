"""What every layer offers that stands for a plain layer of torch but has other parameters."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn


class StandIn(nn.Module):
    """A layer that computes what a linear layer or convolution does, its weight being made from other parameters."""

    bias: nn.Parameter | None

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight of the plain layer with the same outputs, of its shape; gradients pass to the parameters."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Modules of torch alone with the same outputs: one layer, or a sequence of layers where that is smaller."""

    @abstractmethod
    def truncated(self, *, tol: float | None = None, rank: int | float | None = None) -> Self:
        """A new layer of lower rank, by one of two measures.

        Parameters
        ----------
        tol : float, optional
            Largest error of the weight relative to its Frobenius norm.
        rank : int or float, optional
            The rank of every factor at most, or the share of the plain layer's weights that is kept.
        """

    @property
    def plain_size(self) -> int:
        """Numbers in the plain layer's weight and bias."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())


def check_dtype(dtype: torch.dtype | None) -> None:
    """A dtype of parameters, None for torch's default."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {dtype!r}; expected real floating point numbers")


def autocast_dtype(device: str) -> torch.dtype | None:
    """What torch.autocast lowers products to at the moment, if it does."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


def own_precision(device: str) -> AbstractContextManager[Any]:
    """Without autocast, where there is any."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)
