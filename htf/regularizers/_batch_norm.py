"""Batch normalization whose second derivative is one closed form: torch's is made of some thirty operations.

With x̂ = (x − μ) r, the normalized input, and means over all but the channels, a gradient g at the output gives

    γ r (g − ḡ − x̂ b),  b = mean(g x̂),

at the input.  Its product with v, summed, is γ r M S with S = mean(v g) − v̄ ḡ − c b, c = mean(v x̂), over M pixels; so
the derivatives are γ r (v − v̄ − x̂ c) at g, which is the first derivative again, r M S at γ, and at x

    −γ r² ((S − 2bc) x̂ + c g + b v − (c ḡ + b v̄)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_MASK = [True, True, True]


class ClosedForm(TorchFunctionMode):
    """Where batch normalization in training mode has the second derivative of this module."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = kwargs or {}
        if func is functional.batch_norm:
            given = _Given(*args, **found)
        elif func is torch.batch_norm and len(args) >= 8:
            x, weight, bias, mean, var, training, momentum, eps = args[:8]
            given = _Given(x, mean, var, weight, bias, training, momentum, eps)
        else:
            return func(*args, **found)
        return given.normalized() if given.fits() else func(*args, **found)


class _Given:
    """Arguments of `torch.nn.functional.batch_norm`."""

    def __init__(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        self.x, self.mean, self.var, self.weight, self.bias = input, running_mean, running_var, weight, bias
        self.training, self.momentum, self.eps = training, momentum, eps

    def fits(self) -> bool:
        """Whether there is something to gain: a batch whose statistics are taken, and differentiated."""
        x = self.x
        if not (self.training and torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu"):
            return False
        if x.numel() <= x.shape[1] or x.dtype not in (torch.float32, torch.float64):
            return False
        same = all(each is not None and each.dtype == x.dtype for each in (self.weight, self.bias))
        # What is computed again in the backward pass must save the same tensors as here.
        return same and not _saving_is_changed()

    def normalized(self) -> Tensor:
        given = (self.x, self.weight, self.bias, self.mean, self.var, self.momentum, self.eps)
        found: Tensor = _Normalized.apply(*given)  # type: ignore[no-untyped-call]
        return found


def _saving_is_changed() -> bool:
    """Whether tensors for the backward pass are saved in another way, as by activation checkpointing, or may be."""
    look = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return look is None or look(False) is not None


class _Normalized(torch.autograd.Function):
    """The layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        out, of_batch, inverse = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, weight, of_batch, inverse)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        first = _First.apply(gradients[0], x, weight, mean, inverse, ctx.eps)  # type: ignore[no-untyped-call]
        return (*first, None, None, None, None)


class _First(torch.autograd.Function):
    """Its derivative, at input, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _first(g, x, weight, mean, inverse, eps)
        ctx.save_for_backward(g, x, weight, mean, inverse, found[1], found[2])
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None) -> Any:
        g, x, weight, mean, inverse, products, sums = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        across = (1, -1, *[1] * (x.ndim - 2))
        at_g = at_x = at_weight = None
        if v is not None:
            at_g, products_v, sums_v = _first(v, x, weight, mean, inverse, ctx.eps)
            g_mean, b, v_mean, c = (each / count for each in (sums, products, sums_v, products_v))
            both = _summed(g * v) / count - v_mean * g_mean - c * b
            at_weight = inverse * count * both
            scale = -weight * inverse.square()
            of_x = scale * (both - 2 * b * c) * inverse
            constant = -of_x * mean - scale * (c * g_mean + b * v_mean)
            at_x = torch.addcmul(constant.view(across), of_x.view(across), x)
            at_x.addcmul_((scale * c).view(across), g).addcmul_((scale * b).view(across), v)
        if of_weight is not None:
            # The derivative at the weight is the sum of g x̂.
            scaled = (of_weight * inverse).view(across)
            centred = x - mean.view(across)
            at_g = _plus(at_g, scaled * centred)
            one = torch.ones_like(weight)
            at_x = _plus(at_x, of_weight.view(across) * _first(g, x, one, mean, inverse, ctx.eps)[0])
        if of_bias is not None:
            at_g = _plus(at_g, of_bias.view(across).expand_as(g))
        return at_g, at_x, at_weight, None, None, None


def _first(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives at x, at the weight (the sum of g x̂), and at the bias (the sum of g)."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        g, x, weight, None, None, mean, inverse, True, eps, _MASK
    )
    return found


def _summed(x: Tensor) -> Tensor:
    return x.sum([axis for axis in range(x.ndim) if axis != 1])


def _plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
