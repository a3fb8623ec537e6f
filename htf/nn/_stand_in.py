"""What every layer offers that stands for a plain layer of torch but has other parameters."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

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
