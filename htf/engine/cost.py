"""Cost of a plan: multiplications of a forward pass, memory of a training step, and both in print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htf.engine.steps import Aligned, Gather, Outer, Pairs, Patterns, Stacked, Step

if TYPE_CHECKING:
    from htf.engine.plan import Plan


def multiplications(plan: Plan) -> int:
    """Scalar multiplications of one forward pass over all runs."""
    leaves = [block for block in plan.layout.blocks if block.level == 0 and not plan.discrete]
    encoding = sum(len(b.nodes) * b.rows * b.columns for b in leaves) * plan.batch * plan.runs
    return encoding + sum(_cost(plan, step)[0] for step in plan.steps)


def peak_bytes(plan: Plan) -> int:
    """Memory at the peak of a forward and backward pass: the plan, and all that the pass keeps."""
    return plan.n_bytes + sum(_cost(plan, step)[1] for step in plan.steps) * plan.dtype.itemsize


def table(plan: Plan) -> str:
    """The steps of a plan, one a line, and its cost."""
    tree = plan.layout.tree
    lines = [
        f"Plan for {plan.batch:,} samples of order {tree.order}, {plan.runs} runs, "
        + ("discrete inputs" if plan.discrete else "encoded inputs"),
        f"{'level':>5} {'nodes':>6} {'arity':>5} {'rows a node':>12} {'of samples':>10}  inputs",
    ]
    for step in plan.steps:
        name = type(step.inputs).__name__.lower()
        if isinstance(step.inputs, Pairs):
            name += f" of {step.inputs.left.rows:,} x {step.inputs.right.rows:,} rows"
        lines.append(
            f"{tree.level(step.nodes[0]):>5} {len(step.nodes):>6} {step.arity:>5} {step.rows:>12,} "
            f"{step.rows / max(plan.batch, 1):>10.1%}  {name}"
        )
    lines.append(
        f"{multiplications(plan):,} multiplications forward, "
        f"{peak_bytes(plan) / 2**20:,.1f} MiB at the peak of a training step"
    )
    return "\n".join(lines)


def _cost(plan: Plan, step: Step) -> tuple[int, int]:
    """Multiplications forward, and entries kept, over all runs."""
    if isinstance(step.inputs, Pairs):
        return _cost_of_pairs(plan, step.inputs)
    block = plan.layout.blocks[step.block]
    rows = len(step.nodes) * step.rows * plan.runs
    if isinstance(step.inputs, Patterns):
        product, kept = step.inputs.additions * plan.runs, 3 * rows
    elif isinstance(step.inputs, Aligned):
        product, kept = rows * (step.arity - 1), rows
    elif isinstance(step.inputs, Stacked):
        product, kept = rows * (step.arity - 1), rows * (step.arity + 1)
    else:
        product, kept = (plan.runs * count for count in _joining(step.inputs))
    # Two pair nodes of 64 distinct rows, width 5, joined from leaves of 5 columns: 2 * 64 rows multiplied, each then
    # times a 5 x 5 matrix, so 128 * 5 + 128 * 25 multiplications.
    return product * block.rows + rows * block.rows * block.columns, kept * block.rows + rows * 2 * block.columns


def _cost_of_pairs(plan: Plan, inputs: Pairs) -> tuple[int, int]:
    """`_cost` of a root that multiplies all pairs of rows.

    Two groups of 64 rows of width 5 take 64 * 5 multiplications by the root's column and 64 * 64 * 5 for the grid.
    """
    (fits, width), outputs = plan.components, plan.layout.outputs
    products, kept = zip(_joining(inputs.left), _joining(inputs.right), strict=True)
    cells = inputs.left.rows * inputs.right.rows * outputs
    weighted = 0 if plan.layout.root_adds else inputs.left.rows * width * outputs
    # The grid and its gradient come and go; the samples' outputs and their scales stay.
    entries = sum(kept) * width + weighted + 2 * cells + 2 * plan.batch * outputs
    return fits * (sum(products) * width + weighted + cells * width), fits * entries


def _joining(inputs: Gather | Outer) -> tuple[int, int]:
    """Rows multiplied to join children, and rows kept for gradients."""
    if isinstance(inputs, Outer):
        return inputs.products, inputs.products
    arity, rows = inputs.index.shape
    return (arity - 1) * rows, (arity + 1) * rows
