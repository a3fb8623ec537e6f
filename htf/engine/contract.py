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
from htf.engine.steps import Aligned, Lookup, OneHot, Step

# Normalized factors multiplied before the product is normalized again.
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
    tables = {t: _Activations(leaf.flatten(0, 1), None) for t, leaf in enumerate(leaves)}
    n_leaf_blocks = len(leaves)
    root = plan.layout.tree.root
    out = None
    for number, step in enumerate(plan.steps, n_leaf_blocks):
        if not isinstance(step.inputs, OneHot | Lookup):
            for source in step.sources:
                if tables[source].log_scale is None:  # leaves, as they came
                    tables[source] = _normalize(tables[source])
        joint = _joint(step, tables)
        for source in step.release:
            del tables[source]
        tables[number] = _normalize(_mix(joint, step, weights[step.block - n_leaf_blocks]))
        if step.nodes == (root,):
            out = tables[number]
    assert out is not None
    assert out.log_scale is not None
    # Bounded, so that an exact zero times a scale beyond all floats stays a zero.
    scale = out.log_scale.exp().clamp(max=torch.finfo(out.value.dtype).max)
    return out.value * scale.unsqueeze(-1)


def _joint(step: Step, tables: dict[int, _Activations]) -> _Activations:
    """Multiply the children's rows, entry by entry."""
    inputs = step.inputs
    source = _joined(step.sources, tables)
    if isinstance(inputs, OneHot):
        return _Activations(*one_hot_product(source.value, inputs))
    if isinstance(inputs, Lookup):
        return _Activations(*lookup_product(source.value, inputs))
    if isinstance(inputs, Aligned):
        shape = (len(step.nodes), step.arity, step.rows)
        factors = source.value.unflatten(0, shape).transpose(0, 1).flatten(1, 2)
        scales = None
        if source.log_scale is not None:
            scales = source.log_scale.unflatten(0, shape).sum(1).flatten(0, 1)
        return _multiply(factors, scales)
    factors = take(source.value, inputs)
    scales = None
    if source.log_scale is not None:
        taken = source.log_scale.index_select(0, inputs.index.flatten())
        scales = taken.unflatten(0, inputs.index.shape).sum(0)
    return _multiply(factors, scales)


def _multiply(factors: Tensor, log_scale: Tensor | None) -> _Activations:
    """Product over axis 0 of (arity, rows, runs, width), in portions whose range is safe."""
    while len(factors) > FACTORS_IN_RANGE:
        portions = [product(part) for part in factors.split(FACTORS_IN_RANGE)]
        normalized = [_normalize(_Activations(part, None)) for part in portions]
        for each in normalized:
            assert each.log_scale is not None
            log_scale = each.log_scale if log_scale is None else log_scale + each.log_scale
        factors = torch.stack([each.value for each in normalized])
    return _Activations(product(factors), log_scale)


def _mix(joint: _Activations, step: Step, weight: Tensor | None) -> _Activations:
    """Apply each node's matrix to its rows."""
    if weight is None:
        return joint
    if step.positions is not None and weight.shape[0] > 1:
        weight = weight.index_select(0, step.positions)
    nodes = len(step.nodes)
    value = joint.value.unflatten(0, (nodes, step.rows))
    runs, width, columns = weight.shape[1:]
    if width == columns == 1:
        mixed = value * weight.view(-1, 1, runs, 1)
    elif runs == 1:
        mixed = torch.matmul(value.squeeze(2), weight.squeeze(1)).unsqueeze(2)
    else:
        mixed = torch.matmul(value.transpose(1, 2), weight).transpose(1, 2)
    return _Activations(mixed.flatten(0, 1), joint.log_scale)


def _normalize(rows: _Activations) -> _Activations:
    """Divide each row by its mean magnitude, per run, and carry the logarithm."""
    with torch.no_grad():
        # A product with a constant vector sums short rows several times faster than a reduction does.
        width = rows.value.shape[-1]
        size = (
            rows.value.abs() @ rows.value.new_full((width,), 1 / width) if width > 1 else rows.value.abs().squeeze(-1)
        )
        # A row of zeros keeps its scale: its gradient may be all that matters of it.
        size.masked_fill_(size == 0, 1)
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
