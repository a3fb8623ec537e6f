"""Outputs up to a positive factor per sample: products along the tree whose vectors are brought to one size.

The vector of each node is divided by its root mean square, sample by sample.  All outputs of a sample are divided by
the product of these numbers, so that their order, and with it the class that a network tells, stays what it was, at any
order and depth; what is left is smooth, which dividing by powers of two is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from htf.engine.contract import apply_matrices
from htf.engine.gather import product
from htf.engine.plan import Plan
from htf.engine.steps import FACTORS_IN_RANGE, Aligned, Stacked, Step

# Keeps the gradients of vectors of zeros finite.
EPSILON = 1e-12


def contract_normalized(
    plan: Plan,
    leaves: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Outputs on encoded vectors, divided by a positive number per sample and run.

    Parameters
    ----------
    plan : Plan
        For encoded vectors.
    leaves, weights
        As for `htf.engine.contract`.
    drop : callable, optional
        Applied to the vectors (rows, runs, width) of all nodes but the root, before they are multiplied, as dropout is.

    Returns
    -------
    Tensor
        (batch, runs, outputs).

    Notes
    -----
    O(batch x runs x width (arity + width)) operations per node.
    """
    tables = {}
    for number, leaf in enumerate(leaves):
        table = unit_size(leaf.flatten(0, 1))
        tables[number] = table if drop is None else drop(table)
    for number, step in enumerate(plan.steps, len(leaves)):
        joint = unit_size(_product(_factors(step, tables)))
        for source in step.release:
            tables.pop(source, None)
        mixed = apply_matrices(joint, step, weights[step.block - len(leaves)])
        if step.nodes == (plan.layout.tree.root,):
            return mixed
        tables[number] = mixed if drop is None else drop(mixed)
    raise AssertionError("a plan ends at the root")


def unit_size(vectors: Tensor) -> Tensor:
    """Vectors (..., width) over their root mean squares."""
    return vectors * torch.rsqrt(vectors.square().mean(-1, keepdim=True) + EPSILON)


def _factors(step: Step, tables: dict[int, Tensor]) -> Tensor:
    """The children's vectors of a step, (arity, nodes * batch, runs, width)."""
    source = torch.cat([tables[s] for s in step.sources]) if len(step.sources) > 1 else tables[step.sources[0]]
    nodes = len(step.nodes)
    if isinstance(step.inputs, Stacked):
        rows = source.unflatten(0, (step.inputs.nodes, -1)).index_select(0, step.inputs.index)
        return rows.unflatten(0, (-1, nodes)).flatten(1, 2)
    if not isinstance(step.inputs, Aligned):
        raise TypeError("plan is for indices; expected one for encoded vectors")
    return source.unflatten(0, (nodes, step.arity, -1)).transpose(0, 1).flatten(1, 2)


def _product(factors: Tensor) -> Tensor:
    while len(factors) > FACTORS_IN_RANGE:
        factors = torch.stack([unit_size(product(part)) for part in factors.split(FACTORS_IN_RANGE)])
    return product(factors)
