"""Contraction along the tree, as a plan says: gather or multiply children, apply the matrices, carry scales.

Activations are tables of shape (rows, runs, width).  Each row is divided by a power of two near its magnitude after
every level, per run, and the exponent is carried beside it as a constant: the product of a thousand factors stays in
range, without rounding for it, and gradients are those of the plain product because the divisor and the carried power
cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from htf.engine.gather import pairs, product, take
from htf.engine.log_domain import met_product
from htf.engine.plan import Plan
from htf.engine.steps import FACTORS_IN_RANGE, Gather, Outer, Pairs, Patterns, Stacked, Step
from htf.engine.tracing import values_at_hand

# Below this, scales are so small that gradients could underflow: 2^-126 is the smallest normal float.
LEAST_SCALE = -80
# Values of the last step may be as small as this, and 2^-126 of it: all outputs that are normal floats.
LEAST_EXPONENT = -40.0


@dataclass(frozen=True)
class _Activations:
    """Rows of one or more nodes, (rows, runs, width), each to be multiplied by 2^log_scale."""

    value: Tensor
    log_scale: Tensor  # (rows, runs), constant whole numbers


def contract(plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
    """Outputs of a network on the inputs of a plan.

    Parameters
    ----------
    plan : Plan
    leaves : sequence of Tensor
        Per leaf block of the layout, (nodes, rows, runs, width): the leaf matrices for discrete inputs
        (rows are the mode's values), or their products with encoded inputs (rows are samples).
    weights : sequence of Tensor or None
        Per inner block, (runs, nodes or 1, rows, columns); None where the matrix is the identity, or, at the root of a
        plan that meets, a column of ones.

    Returns
    -------
    Tensor
        (batch, runs, outputs).

    See Also
    --------
    htf.engine.Plan : what is computed for given inputs.
    htf.nn.HTNetwork : a network whose outputs it computes.

    Notes
    -----
    O(rows x runs x width (arity + width)) operations per node, `Plan.multiplications` in all.

    Examples
    --------
    >>> import torch, htf
    >>> from htf.engine import Layout, Plan, contract
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), dims=3, width=2, seed=0)
    >>> layout = Layout.build(net.tree, dims=3, width=2)
    >>> plan = Plan(layout, torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]]))
    >>> leaves = torch.stack([net.matrix(mode) for mode in range(4)]).unsqueeze(2)  # nodes, rows, runs, width
    >>> pairs = torch.stack([net.matrix(4), net.matrix(5)]).unsqueeze(0)  # runs, nodes, rows, columns
    >>> outputs = contract(plan, [leaves], [pairs, net.matrix(6)[None, None]])
    >>> torch.allclose(outputs[:, :, 0], net(torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])))
    True
    """
    out = _contracted(plan, leaves, weights)
    dtype = out.value.dtype
    bounded = dtype == torch.float64 or isinstance(plan.steps[-1].inputs, Patterns)
    if not bounded and values_at_hand(out.value) and bool(out.log_scale.min() < LEAST_SCALE):
        # The gradients of what is normalized have this factor, and would be too small for floats, even where those of
        # small entries are not small: once more, in a wider range.
        wide = [None if w is None else w.double() for w in weights]
        return _scaled(_contracted(plan, [leaf.double() for leaf in leaves], wide)).to(dtype)
    return _scaled(out)


def contract_logarithm(plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """As `contract`, without leaving the log domain.

    Returns
    -------
    value, exponent : Tensor
        (batch, runs, outputs) and (batch, runs), constant whole numbers: outputs are value * 2^exponent, which may be
        beyond all floats.
    """
    out = _contracted(plan, leaves, weights, least=-math.inf)
    return out.value, out.log_scale


def _contracted(
    plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None], least: float = LEAST_EXPONENT
) -> _Activations:
    """Contract along the tree; in the last step, exponents below `least` are left in the values."""
    bare = [leaf.flatten(0, 1) for leaf in leaves]
    tables: dict[int, _Activations] = {}
    together: dict[int, list[_Activations]] = {}
    root = plan.layout.tree.root
    out = None
    for number, step in enumerate(plan.steps, len(leaves)):
        weight, last = weights[step.block - len(leaves)], step.nodes == (root,)
        if isinstance(step.inputs, Patterns):
            # Logarithms need no scaling: these steps read the leaves as they are.
            joint = _in_log_domain(step.inputs, [bare[s] for s in step.sources], least if last else -math.inf)
        else:
            for source in step.sources:
                if source not in tables:
                    tables[source] = _normalize(bare[source])
            if isinstance(step.inputs, Pairs):
                out = _pairwise(step, step.inputs, tables, weight)
                break
            joint = _joint(step, tables, together)
        for source in step.release:
            tables.pop(source, None)
        mixed = apply_matrices(joint.value, step, weight)
        if last:
            out = _Activations(mixed, joint.log_scale)
            break
        tables[number] = _normalize(mixed, joint.log_scale)
    assert out is not None
    return out


def _scaled(out: _Activations) -> Tensor:
    """The values themselves."""
    # In two steps, as the scale of a sample may be beyond all floats where one of its outputs is not.
    root_of_scale = (out.log_scale / 2).exp2().unsqueeze(-1)
    # Bounded where the value is an exact zero, which then stays one, with room for gradients on their way.
    bounded = root_of_scale.clamp(max=torch.finfo(out.value.dtype).max ** 0.5 / 16)
    root_of_scale = torch.where(out.value == 0, bounded, root_of_scale)
    return out.value * root_of_scale * root_of_scale


def _in_log_domain(inputs: Patterns, leaves: list[Tensor], least: float) -> _Activations:
    """Multiply leaf rows as sums of logarithms.

    In the last step, small products are left as they are: their scale would make the gradients that come back small.
    """
    table = leaves[0] if len(leaves) == 1 else torch.cat(leaves)
    return _Activations(*met_product(table, inputs, least))


def _joint(step: Step, tables: dict[int, _Activations], together: dict[int, list[_Activations]]) -> _Activations:
    """Multiply the children's rows, entry by entry."""
    if isinstance(step.inputs, Gather):
        if step.inputs.whole is None:
            return _gathered(step.inputs, tables)
        return _part(step.inputs, step.inputs.whole, tables, together)
    if isinstance(step.inputs, Outer):
        return _outer([step.inputs], tables)[0]
    source, nodes = _joined(step.sources, tables), len(step.nodes)
    if isinstance(step.inputs, Stacked):
        # (slots * nodes, batch, ...) each, then (slots, nodes, batch, ...)
        factors, scales = (
            table.unflatten(0, (step.inputs.nodes, -1)).index_select(0, step.inputs.index).unflatten(0, (-1, nodes))
            for table in (source.value, source.log_scale)
        )
        return _multiply(factors.flatten(1, 2), scales.sum(0).flatten(0, 1))
    shape = (nodes, step.arity, -1)
    factors = source.value.unflatten(0, shape).transpose(0, 1)  # (arity, nodes, batch, runs, width)
    # A copy is made where one is needed anyway: it does not depend on the batch, which may be a symbol.
    factors = factors.squeeze(1) if nodes == 1 else factors.clone(memory_format=torch.contiguous_format).flatten(1, 2)
    return _multiply(factors, source.log_scale.unflatten(0, shape).sum(1).flatten(0, 1))


def _gathered(inputs: Gather, tables: dict[int, _Activations]) -> _Activations:
    """Products of rows taken slot by slot."""
    source = _joined(inputs.sources, tables)
    scales = source.log_scale.index_select(0, inputs.index.flatten()).unflatten(0, inputs.index.shape)
    return _multiply(take(source.value, inputs), scales.sum(0))


def _part(
    inputs: Gather, whole: Gather, tables: dict[int, _Activations], together: dict[int, list[_Activations]]
) -> _Activations:
    """Products of rows that were taken together with those of other steps, in the order of the steps."""
    if id(whole) not in together:
        source = _joined(whole.sources, tables)
        rows = take(source.value, whole).squeeze(0).split(whole.portions)
        scales = source.log_scale.index_select(0, whole.index.flatten()).split(whole.portions)
        together[id(whole)] = [_Activations(*pair) for pair in zip(rows, scales, strict=True)]
    own = together[id(whole)].pop(0)
    shape = inputs.index.shape
    return _multiply(own.value.unflatten(0, shape), own.log_scale.unflatten(0, shape).sum(0))


def _outer(parts: list[Outer], tables: dict[int, _Activations]) -> list[_Activations]:
    """Products of all combinations of rows, of one or several parts of the tables."""
    cut: dict[int, dict[int, _Activations]] = {}
    for source in {part.source for part in parts}:
        cut[source] = _cut(tables[source], sorted((p.first, p.taken) for p in parts if p.source == source))
    return [_combined(part, cut[part.source][part.first]) for part in parts]


def _cut(table: _Activations, spans: list[tuple[int, int]]) -> dict[int, _Activations]:
    """Parts of a table by first row, in one cut: their gradients are laid side by side, where slices' are added."""
    if spans == [(0, len(table.value))]:
        return {0: table}
    sizes, end = [], 0
    for first, rows in spans:
        sizes += [first - end, rows]
        end = first + rows
    sizes.append(len(table.value) - end)
    pieces = zip(spans, table.value.split(sizes)[1::2], table.log_scale.split(sizes)[1::2], strict=True)
    return {first: _Activations(value, log_scale) for (first, _), value, log_scale in pieces}


def _combined(part: Outer, table: _Activations) -> _Activations:
    if part.arity == 1:
        return table
    shape = (part.nodes, part.arity, part.rows_of_child)
    value, *values = table.value.unflatten(0, shape).unbind(1)
    log_scale, *log_scales = table.log_scale.unflatten(0, shape).unbind(1)
    for other, scale in zip(values, log_scales, strict=True):
        # (nodes, rows, 1, runs, width) times (nodes, 1, rows of the child, runs, width)
        value = (value.unsqueeze(2) * other.unsqueeze(1)).flatten(1, 2)
        log_scale = (log_scale.unsqueeze(2) + scale.unsqueeze(1)).flatten(1, 2)
    return _Activations(value.flatten(0, 1), log_scale.flatten(0, 1))


def _multiply(factors: Tensor, log_scale: Tensor) -> _Activations:
    """Product over axis 0 of (arity, rows, runs, width), in portions whose range is safe."""
    while len(factors) > FACTORS_IN_RANGE:
        portions = [_normalize(product(part)) for part in factors.split(FACTORS_IN_RANGE)]
        log_scale = torch.stack([log_scale, *(portion.log_scale for portion in portions)]).sum(0)
        factors = torch.stack([portion.value for portion in portions])
    return _Activations(product(factors), log_scale)


def apply_matrices(value: Tensor, step: Step, weight: Tensor | None) -> Tensor:
    """Apply each node's matrix to its rows."""
    if weight is None:
        return value
    if step.positions is not None and weight.shape[1] > 1:
        weight = weight.index_select(1, step.positions)
    runs, nodes, width, columns = weight.shape
    # Nodes that share a matrix are more rows of one.
    value = value.unflatten(0, (nodes, -1))  # (nodes, rows, runs, width)
    if width == columns == 1:
        return (value * weight.transpose(0, 1).view(nodes, 1, runs, 1)).flatten(0, 1)
    # Matrices are multiplied as they are stored: it is the values that are brought into their order.
    mixed = torch.bmm(value.permute(2, 0, 1, 3).flatten(0, 1), weight.flatten(0, 1))  # (runs * nodes, rows, columns)
    mixed = mixed.unflatten(0, (runs, nodes)).permute(1, 2, 0, 3)
    # In a traced graph of any batch, strides must not be symbols that are compared.
    return (mixed.contiguous() if torch.compiler.is_compiling() else mixed).flatten(0, 1)


def _pairwise(step: Step, inputs: Pairs, tables: dict[int, _Activations], weight: Tensor | None) -> _Activations:
    """Outputs of the samples, read from the products of all pairs of rows of two groups."""
    left, right = _sides(step, inputs, tables)
    rows, outputs = left.value.transpose(0, 1), 1  # (runs, m, width)
    if weight is not None:
        # (runs, 1, m, width) times (runs, outputs, 1, width), then (runs, outputs * m, width)
        rows, outputs = (rows.unsqueeze(1) * weight.permute(0, 3, 1, 2)).flatten(1, 2), weight.shape[3]
    grid = pairs(rows, right.value.transpose(0, 1)).view(len(rows) * outputs, -1)  # (runs * outputs, m * n)
    # Runs lie outermost in what is read, as in the grid.
    mixed = grid.index_select(1, inputs.cell).T.unflatten(1, (-1, outputs))  # (batch, runs, outputs)
    scales = left.log_scale.index_select(0, inputs.left_of) + right.log_scale.index_select(0, inputs.right_of)
    return _Activations(mixed, scales)


def _sides(step: Step, inputs: Pairs, tables: dict[int, _Activations]) -> list[_Activations]:
    """The rows of the two groups."""
    groups = (inputs.left, inputs.right)
    outer = iter(_outer([side for side in groups if isinstance(side, Outer)], tables))
    sides = [next(outer) if isinstance(side, Outer) else _gathered(side, tables) for side in groups]
    if step.arity > FACTORS_IN_RANGE:
        # Each group's products are in range, those of both might not be.
        sides = [_normalize(side.value, side.log_scale) for side in sides]
    return sides


def _normalize(value: Tensor, log_scale: Tensor | None = None) -> _Activations:
    """Divide each row by a power of two near its mean magnitude, per run, and add the exponent to `log_scale`."""
    with torch.no_grad():
        # A product with a constant vector sums short rows several times faster than a reduction does.
        width = value.shape[-1]
        size = value.abs() @ value.new_full((width,), 1 / width) if width > 1 else value.abs().squeeze(-1)
        # A row of zeros keeps its scale: its gradient may be all that matters of it.
        exponent = size.masked_fill_(size.logical_not(), 1).log2_().round_()
        # The inverse of the power has to be a normal number too.
        exponent = exponent.clamp(least := math.log2(torch.finfo(size.dtype).tiny), -least)
        total = exponent if log_scale is None else exponent + log_scale
        divisor = exponent.neg().exp2_()
    return _Activations(value * divisor.unsqueeze(-1), total)


def _joined(sources: tuple[int, ...], tables: dict[int, _Activations]) -> _Activations:
    """Several tables end to end."""
    parts = [tables[s] for s in sources]
    if len(parts) == 1:
        return parts[0]
    return _Activations(torch.cat([p.value for p in parts]), torch.cat([p.log_scale for p in parts]))
