"""Gathering of rows and their products, with gradients that neither scatter nor divide nor transpose."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from htf.engine.steps import Gather


def take(table: Tensor, gather: Gather) -> Tensor:
    """Rows of a (rows, runs, width) table: (arity, taken rows, runs, width)."""
    rows = _Take.apply(  # type: ignore[no-untyped-call]
        table.flatten(1), gather.index.flatten(), gather.order, gather.starts
    )
    return rows.view(*gather.index.shape, *table.shape[1:])


def product(factors: Tensor) -> Tensor:
    """Product over axis 0; the gradient of a factor is the product of the others, zeros or not."""
    if len(factors) == 1:
        return factors[0]
    return _Product.apply(factors)  # type: ignore[no-untyped-call]


def pairs(first: Tensor, second: Tensor) -> Tensor:
    """Scalar products of all pairs of rows, (runs, m, width) and (runs, n, width): (runs, m, n)."""
    return _Pairs.apply(first, second)  # type: ignore[no-untyped-call]


F = TypeVar("F", bound=type[torch.autograd.Function])


def bound_once(function: F) -> F:
    """Keep the signature of `forward`: `apply` would work it out anew at every call, at a cost of several kernels."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


@bound_once
class _Take(torch.autograd.Function):
    """Rows of a table; the gradient sums runs of sorted positions instead of scattering."""

    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        return table.index_select(0, index)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        _, index, order, starts = inputs
        ctx.save_for_backward(index, order, starts)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        index, order, starts = ctx.saved_tensors
        # Nothing will differentiate this where gradients are off, and a bare call takes half the time.
        sum_into = _SumInto.apply if torch.is_grad_enabled() else _SumInto.forward
        return sum_into(grad.contiguous(), index, order, starts), None, None, None


@bound_once
class _SumInto(torch.autograd.Function):
    """The transpose of `_Take`: row j of the result is the sum of the rows that were taken from row j."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        return embedding_bag(order, rows, starts, mode="sum")

    setup_context = staticmethod(_Take.setup_context)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        index, order, starts = ctx.saved_tensors
        return _Take.apply(grad.contiguous(), index, order, starts), None, None, None  # type: ignore[no-untyped-call]


@bound_once
class _Pairs(torch.autograd.Function):
    """Scalar products of pairs; both gradients are laid out like the rows, where that of a plain one is transposed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> Tensor:
        return torch.bmm(first, second.mT)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        first, second = ctx.saved_tensors
        return torch.bmm(grad, second), torch.bmm(grad.mT, first)


@bound_once
class _Product(torch.autograd.Function):
    """Product over axis 0 by halves; keeps the factors and no intermediate."""

    generate_vmap_rule = True

    @staticmethod
    def forward(factors: Tensor) -> Tensor:
        return fold(factors)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return times_others(ctx.saved_tensors[0], grad)


def times_others(factors: Tensor, grad: Tensor) -> Tensor:
    """For each factor, `grad` times the product of the other factors, (count, ...), by halves in one tensor.

    `htf.linalg.dense.products_of_others` would take a call per factor, and here calls are what takes the time.
    """
    count = len(factors)
    if count == 1:
        return grad.unsqueeze(0)
    half = count // 2
    if count % 2:
        rest, last = factors[:-1], factors[-1]
        return torch.cat([times_others(rest, grad * last), (fold(rest) * grad).unsqueeze(0)])
    first, second = factors[:half], factors[half:]
    pairs = grad.unsqueeze(0) if half == 1 else times_others(first * second, grad)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([second * pairs, first * pairs])
    # Nothing will differentiate this: write in place, and save a copy of all factors.
    result = torch.empty_like(factors)
    torch.mul(second, pairs, out=result[:half])
    torch.mul(first, pairs, out=result[half:])
    return result


def fold(factors: Tensor) -> Tensor:
    while (count := len(factors)) > 1:
        half = count // 2
        pairs = factors[:half] * factors[half : 2 * half]
        factors = torch.cat([pairs, factors[-1:]]) if count % 2 else pairs
    return factors[0]
