"""What every layer offers that stands for a plain layer of torch but has other parameters."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from htf.nn.layers._computed import ComputedWeight, refusal


class DropInLayer(nn.Module):
    """A layer that computes what a linear layer or convolution does, its weight being made from other parameters."""

    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The weight of the plain layer with the same outputs, of its shape; gradients pass to the factors.

        Computed anew at every access, so writing to it is refused: see `set_weight`.  With batch normalization inside
        of the layer it holds its running statistics: the weight of evaluation mode.  Only that of an over-parameterized
        layer of depth 1, without residual connections and batch normalization, is a parameter, its only factor.
        """
        weight = self._computed_weight()
        if isinstance(weight, nn.Parameter) or torch.compiler.is_compiling():
            return weight
        return ComputedWeight.of(weight, refusal(type(self).__name__))

    @abstractmethod
    def _computed_weight(self) -> Tensor:
        """The weight as a tensor like any other."""

    def set_weight(self, weight: Tensor) -> float:
        """Change the factors so that the weight is another one, or the closest that they can make; the bias stays.

        Parameters
        ----------
        weight : Tensor
            Of the shape of `weight`, real, on any device.

        Returns
        -------
        float
            Distance of the layer's new weight from it, relative to its Frobenius norm: rounding error where the ranks
            suffice.

        Raises
        ------
        TypeError, ValueError
            If it is no tensor of real numbers, has another shape, entries that are not finite, or no values (meta), or
            there are no such factors.

        Notes
        -----
        The factors stay the same parameters, so that an optimizer goes on with them; they are changed in place.
        """
        expected = tuple(self._computed_weight().shape)
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight is a {type(weight).__name__}; expected a tensor of shape {expected}")
        if weight.is_complex():
            raise TypeError(f"weight has dtype {weight.dtype}; expected real numbers")
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; expected {expected}")
        if weight.is_meta:
            raise ValueError("weight is on the meta device; expected one with values")
        if not bool(weight.isfinite().all()):
            raise ValueError("weight has entries that are not finite")
        with torch.no_grad():
            exact = weight.detach().cpu().double()
            self._set_weight(weight.detach())
            norm = float(torch.linalg.vector_norm(exact))
            distance = torch.linalg.vector_norm(self._computed_weight().detach().cpu().double() - exact)
            return float(distance) / norm if norm else float(distance)

    @abstractmethod
    def _set_weight(self, weight: Tensor) -> None:
        """`set_weight` without its checks."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(f"weight cannot be assigned: {refusal(type(self).__name__)}")
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in `torch.nn.Module`; refuses what would take the place of the weight, as pruning does."""
        if name == "weight" or name.startswith("weight_"):
            raise AttributeError(f"{name} cannot be registered: {refusal(type(self).__name__)}")
        super().register_parameter(name, param)

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
        return self._computed_weight().numel() + (0 if self.bias is None else self.bias.numel())


def autocast_dtype(device: str) -> torch.dtype | None:
    """What torch.autocast lowers products to at the moment, if it does."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


def own_precision(device: str) -> AbstractContextManager[Any]:
    """Without autocast, where there is any."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)
