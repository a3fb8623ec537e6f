"""Contraction along the tree, as a plan says: gather or multiply children, apply the matrices, carry scales.

Activations are tables of shape (rows, runs, width).  Each row is divided by its magnitude after every
level, per run, and the logarithm of what was divided out is carried beside it as a constant: the product
of a thousand factors stays in range, and gradients are those of the plain product because the divisor and
the carried logarithm cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from htf.engine.log_domain import lookup_product, one_hot_product
from htf.engine.plan import Aligned, Gather, Lookup, OneHot, Plan, Step

# Factors multiplied between two normalizations; 8 factors of 1e-4 still fit in float32.
FACTORS_IN_RANGE = 8


@dataclass(frozen=True)
class _Activations:
    """Rows of one or more nodes, (rows, runs, width), each to be multiplied by exp(log_scale)."""

    value: Tensor
    log_scale: Tensor | None  # (rows, runs), constant


def contract(plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
    """Outputs of a network on the inputs of a plan.

    Parameters
    ----------
    plan : Plan
    leaves : sequence of Tensor
        Per leaf block of the layout, (nodes, rows, runs, width): the leaf matrices for discrete inputs
        (rows are the mode's values), or their products with encoded inputs (rows are samples).
    weights : sequence of Tensor or None
        Per inner block, (nodes or 1, runs, rows, columns); None where the matrix is the identity.

    Returns
    -------
    Tensor
        (batch, runs, outputs).

    Notes
    -----
    O(rows x runs x width (arity + width)) operations per node, `Plan.multiplications` in all.
    """
    tables: dict[int, _Activations] = {
        t: _Activations(leaf.flatten(0, 1), None) for t, leaf in enumerate(leaves)
    }
    n_leaf_blocks = len(leaves)
    root = plan.layout.tree.root
    out = None
    for number, step in enumerate(plan.steps, n_leaf_blocks):
        product = _product(step, tables)
        for source in step.release:
            del tables[source]
        mixed = _mix(product, step, weights[step.block - n_leaf_blocks])
        if step.nodes == (root,):
            out = mixed
        else:
            tables[number] = _normalize(mixed)
    assert out is not None
    if out.log_scale is None:
        return out.value
    return out.value * out.log_scale.exp().unsqueeze(-1)


def _product(step: Step, tables: dict[int, _Activations]) -> _Activations:
    """Multiply the children's rows, entry by entry."""
    inputs = step.inputs
    if isinstance(inputs, Aligned):
        table = tables[inputs.source]
        shape = (len(step.nodes), step.arity, step.rows)
        value = table.value.unflatten(0, shape)
        scale = None if table.log_scale is None else table.log_scale.unflatten(0, shape).sum(1).flatten(0, 1)
        return _fold(value, scale)
    if isinstance(inputs, OneHot):
        return _Activations(*one_hot_product(_joined(inputs.sources, tables).value, inputs))
    if isinstance(inputs, Lookup):
        return _Activations(*lookup_product(_joined(inputs.sources, tables).value, inputs))
    return _multiply(inputs, tables)


def _multiply(slots: tuple[Gather, ...], tables: dict[int, _Activations]) -> _Activations:
    product: Tensor | None = None
    scales: list[Tensor] = []
    joined: dict[tuple[int, ...], _Activations] = {}
    for k, slot in enumerate(slots):
        if slot.sources not in joined:
            joined[slot.sources] = _joined(slot.sources, tables)
        source = joined[slot.sources]
        rows = _Take.apply(source.value.flatten(1), slot.index, slot.order, slot.starts)
        rows = rows.unflatten(1, source.value.shape[1:])
        product = rows if product is None else product * rows
        if source.log_scale is not None:
            scales.append(source.log_scale.index_select(0, slot.index))
        if (k + 1) % FACTORS_IN_RANGE == 0:
            normalized = _normalize(_Activations(product, None))
            product = normalized.value
            if normalized.log_scale is not None:
                scales.append(normalized.log_scale)
    assert product is not None
    total = None
    for scale in scales:
        total = scale if total is None else total + scale
    return _Activations(product, total)


def _fold(value: Tensor, scale: Tensor | None) -> _Activations:
    """Product over axis 1 of (nodes, arity, rows, runs, width), by halves, never dividing."""
    factors = 1
    while value.shape[1] > 1:
        half = value.shape[1] // 2
        product = value[:, :half] * value[:, half : 2 * half]
        value = torch.cat([product, value[:, 2 * half :]], 1) if value.shape[1] % 2 else product
        factors *= 2
        if factors >= FACTORS_IN_RANGE and value.shape[1] > 1:
            flat = _normalize(_Activations(value.flatten(0, 2), None))
            value, factors = flat.value.unflatten(0, value.shape[:3]), 1
            if flat.log_scale is not None:
                own = flat.log_scale.unflatten(0, value.shape[:3]).sum(1).flatten(0, 1)
                scale = own if scale is None else scale + own
    return _Activations(value.flatten(0, 2), scale)


def _mix(product: _Activations, step: Step, weight: Tensor | None) -> _Activations:
    """Apply each node's matrix to its rows."""
    if weight is None:
        return product
    if step.positions is not None and weight.shape[0] > 1:
        weight = weight.index_select(0, step.positions)
    nodes = len(step.nodes)
    value = product.value.unflatten(0, (nodes, step.rows))
    runs, width, columns = weight.shape[1:]
    if width == columns == 1:
        mixed = value * weight.view(-1, 1, runs, 1)
    elif runs == 1:
        mixed = torch.matmul(value.squeeze(2), weight.squeeze(1)).unsqueeze(2)
    else:
        mixed = torch.matmul(value.transpose(1, 2), weight).transpose(1, 2)
    return _Activations(mixed.flatten(0, 1), product.log_scale)


def _normalize(rows: _Activations) -> _Activations:
    """Divide each row by its mean magnitude, per run, and carry the logarithm."""
    with torch.no_grad():
        size = torch.linalg.vector_norm(rows.value, ord=1, dim=-1) / rows.value.shape[-1]
        # Rows of zeros stay; overflowed ones are left to show in the output.
        size = torch.where((size > 0) & size.isfinite(), size, torch.ones_like(size))
        log_scale = size.log()
        if rows.log_scale is not None:
            log_scale += rows.log_scale
    return _Activations(rows.value / size.unsqueeze(-1), log_scale)


def _joined(sources: tuple[int, ...], tables: dict[int, _Activations]) -> _Activations:
    """Several tables end to end."""
    parts = [tables[s] for s in sources]
    if len(parts) == 1:
        return parts[0]
    value = torch.cat([p.value for p in parts])
    if all(p.log_scale is None for p in parts):
        return _Activations(value, None)
    scales = [torch.zeros_like(p.value[..., 0]) if p.log_scale is None else p.log_scale for p in parts]
    return _Activations(value, torch.cat(scales).detach())


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
        return _SumInto.apply(grad.contiguous(), index, order, starts), None, None, None


class _SumInto(torch.autograd.Function):
    """The transpose of `_Take`: row j of the result is the sum of the rows that were taken from row j."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(order, rows, starts, mode="sum")

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        _, index, order, starts = inputs
        ctx.save_for_backward(index, order, starts)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        index, order, starts = ctx.saved_tensors
        return _Take.apply(grad.contiguous(), index, order, starts), None, None, None
