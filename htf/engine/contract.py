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

from htf.engine.gather import product, take
from htf.engine.log_domain import lookup_product, one_hot_product
from htf.engine.plan import Plan
from htf.engine.steps import Gather, Lookup, OneHot, Step

# Normalized factors multiplied before the product is normalized again.
FACTORS_IN_RANGE = 8


@dataclass(frozen=True)
class _Activations:
    """Rows of one or more nodes, (rows, runs, width), each to be multiplied by exp(log_scale)."""

    value: Tensor
    log_scale: Tensor  # (rows, runs), constant


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
    bare = [leaf.flatten(0, 1) for leaf in leaves]
    tables: dict[int, _Activations] = {}
    root = plan.layout.tree.root
    out = None
    for number, step in enumerate(plan.steps, len(leaves)):
        if isinstance(step.inputs, OneHot | Lookup):
            # Logarithms need no scaling: these steps read the leaves as they are.
            joint = _in_log_domain(step.inputs, [bare[s] for s in step.sources])
        else:
            for source in step.sources:
                if source not in tables:
                    tables[source] = _normalize(bare[source])
            joint = _joint(step, tables)
        for source in step.release:
            tables.pop(source, None)
        mixed = _mix(joint.value, step, weights[step.block - len(leaves)])
        tables[number] = _normalize(mixed, joint.log_scale)
        if step.nodes == (root,):
            out = tables[number]
    assert out is not None
    # Bounded, so that an exact zero times a scale beyond all floats stays a zero.
    scale = out.log_scale.exp().clamp(max=torch.finfo(out.value.dtype).max)
    return out.value * scale.unsqueeze(-1)


def _in_log_domain(inputs: OneHot | Lookup, leaves: list[Tensor]) -> _Activations:
    """Multiply leaf rows as sums of logarithms."""
    table = leaves[0] if len(leaves) == 1 else torch.cat(leaves)
    product_of = one_hot_product if isinstance(inputs, OneHot) else lookup_product
    return _Activations(*product_of(table, inputs))  # type: ignore[arg-type]


def _joint(step: Step, tables: dict[int, _Activations]) -> _Activations:
    """Multiply the children's rows, entry by entry."""
    source, inputs = _joined(step.sources, tables), step.inputs
    if isinstance(inputs, Gather):
        scales = source.log_scale.index_select(0, inputs.index.flatten()).unflatten(0, inputs.index.shape)
        return _multiply(take(source.value, inputs), scales.sum(0))
    shape = (len(step.nodes), step.arity, step.rows)
    factors = source.value.unflatten(0, shape).transpose(0, 1).flatten(1, 2)
    return _multiply(factors, source.log_scale.unflatten(0, shape).sum(1).flatten(0, 1))


def _multiply(factors: Tensor, log_scale: Tensor) -> _Activations:
    """Product over axis 0 of (arity, rows, runs, width), in portions whose range is safe."""
    while len(factors) > FACTORS_IN_RANGE:
        portions = [_normalize(product(part)) for part in factors.split(FACTORS_IN_RANGE)]
        log_scale = torch.stack([log_scale, *(portion.log_scale for portion in portions)]).sum(0)
        factors = torch.stack([portion.value for portion in portions])
    return _Activations(product(factors), log_scale)


def _mix(value: Tensor, step: Step, weight: Tensor | None) -> Tensor:
    """Apply each node's matrix to its rows."""
    if weight is None:
        return value
    if step.positions is not None and weight.shape[0] > 1:
        weight = weight.index_select(0, step.positions)
    value = value.unflatten(0, (len(step.nodes), step.rows))
    runs, width, columns = weight.shape[1:]
    if width == columns == 1:
        mixed = value * weight.view(-1, 1, runs, 1)
    elif runs == 1:
        mixed = torch.matmul(value.squeeze(2), weight.squeeze(1)).unsqueeze(2)
    else:
        mixed = torch.matmul(value.transpose(1, 2), weight).transpose(1, 2)
    return mixed.flatten(0, 1)


def _normalize(value: Tensor, log_scale: Tensor | None = None) -> _Activations:
    """Divide each row by its mean magnitude, per run, and carry the logarithm on top of `log_scale`."""
    with torch.no_grad():
        # A product with a constant vector sums short rows several times faster than a reduction does.
        width = value.shape[-1]
        size = value.abs() @ value.new_full((width,), 1 / width) if width > 1 else value.abs().squeeze(-1)
        # A row of zeros keeps its scale: its gradient may be all that matters of it.
        size.masked_fill_(size == 0, 1)
        total = size.log() if log_scale is None else size.log() + log_scale
    return _Activations(value / size.unsqueeze(-1), total)


def _joined(sources: tuple[int, ...], tables: dict[int, _Activations]) -> _Activations:
    """Several tables end to end."""
    parts = [tables[s] for s in sources]
    if len(parts) == 1:
        return parts[0]
    return _Activations(torch.cat([p.value for p in parts]), torch.cat([p.log_scale for p in parts]))
