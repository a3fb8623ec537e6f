"""Products along the tree without scales, forward and back in one autograd function, for small plans that meet.

A training step on a completion problem is some two hundred operations of microseconds each.  Most of them carry scales,
which none of such a problem's products need: where the sizes of rows and matrices show that nothing can leave the range
of floats, outputs and gradients are computed as they are written.  Scales are powers of two, so the products are the
same to the bit.

Tables have the shape (runs, nodes, rows, width), and lie in memory as the network stores its matrices: nothing is
brought into another order on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from htf.engine.contract import contract
from htf.engine.gather import fold, times_others
from htf.engine.plan import Plan
from htf.engine.steps import Gather, Outer, Pairs, Step
from htf.engine.tracing import values_at_hand

# Bounds on products of rows.  What underflows is below 2^-126, and at most 2^-96 where it arrives: too small to change
# the last bit of what is at least 2^-64.
LEAST = 2.0**-64
LARGEST = 2.0**30
# Entries of the tables of runs that are computed together.
TOGETHER = 2**17
# Entries of a run's inner matrices.  Of larger ones the products take most of a step, and many runs are quicker in the
# products of all of them that `contract` makes: ten of width 512 by a quarter.
LARGEST_INNER = 2**16
# Matrices are not larger than this by their Frobenius norm, for the same reason.
LARGEST_MATRIX = 2.0**30


def contract_unscaled(plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor | None:
    """Outputs of a plan that meets, or None where products might leave the range, or cannot be looked at.

    Parameters
    ----------
    plan, leaves, weights
        As for `htf.engine.contract`.

    Returns
    -------
    Tensor or None
        (batch, runs, outputs).

    Notes
    -----
    As many multiplications as `contract`, in a third of its operations.  Gradients can be differentiated once more;
    then they are those of `contract`.
    """
    inner = sum(weight[0].numel() for weight in weights if weight is not None)
    if not plan.stepwise or inner > LARGEST_INNER or not _can_look(leaves[0]):
        return None
    portions = []
    with torch.no_grad():
        for own in _portions(plan, leaves[0].shape[2]):
            some = _Products(plan, [leaf[:, :, own] for leaf in leaves], [w if w is None else w[own] for w in weights])
            if not some.in_range:
                return None
            portions.append((own, some))
    given = [weight for weight in weights if weight is not None]
    outputs: Tensor = _Unscaled.apply(portions, plan, [w is not None for w in weights], *leaves, *given)  # type: ignore[no-untyped-call]
    # A plan serves networks of other numbers of outputs too.
    return outputs.T.unflatten(1, (leaves[0].shape[2], -1))


def _portions(plan: Plan, runs: int) -> list[slice]:
    """Runs whose largest table stays in a processor's cache from one operation to the next."""
    together = max(TOGETHER // plan.largest_table, 1)
    return [slice(start, start + together) for start in range(0, runs, together)]


def _can_look(leaf: Tensor) -> bool:
    return (
        leaf.dtype in (torch.float32, torch.float64)
        and values_at_hand(leaf)
        and not torch._C._functorch.is_functorch_wrapped_tensor(leaf)
        and not torch.is_autocast_enabled("cpu")
    )


class _Products:
    """A pass from the leaves to the root for some runs, with what the way back needs.

    Attributes
    ----------
    outputs : Tensor
        (runs * outputs, batch).
    in_range : bool
        Whether it is right; if not, it may have ended early.
    """

    outputs: Tensor

    def __init__(self, plan: Plan, leaves: Sequence[Tensor], weights: Sequence[Tensor | None]) -> None:
        self.plan = plan
        self.tables = {number: leaf.permute(2, 0, 1, 3) for number, leaf in enumerate(leaves)}
        self.weights = dict(enumerate(weights, len(leaves)))
        self.bounds = {number: _bounds(leaf) for number, leaf in enumerate(leaves)}
        # Per step or side of the root: the rows that are multiplied; of an outer product, the first child's rows, then
        # in turns those of a further child and the products with it.
        self.factors: list[list[Tensor]] = []
        self.in_range = all(w is None or float(torch.linalg.vector_norm(w)) <= LARGEST_MATRIX for w in weights)
        *steps, root = plan.steps
        for number, step in enumerate(steps, len(leaves)):
            if not self.in_range:
                return
            assert isinstance(step.inputs, Gather | Outer)
            joint = self._joint(step.inputs, len(step.nodes))
            weight = self._weight(step)
            table = joint if weight is None else _mixed(joint, weight)
            self.tables[number], self.bounds[number] = table, _bounds(table)
        if self.in_range:
            self._meet(root)

    def _weight(self, step: Step) -> Tensor | None:
        weight = self.weights[step.block]
        if weight is None or step.positions is None or weight.shape[1] == 1:
            return weight
        return weight.index_select(1, step.positions)

    def _joint(self, inputs: Gather | Outer, nodes: int) -> Tensor:
        """Products of the children's rows, (runs, nodes, rows, width)."""
        arity = inputs.arity if isinstance(inputs, Outer) else len(inputs.index)
        self._bound([self.bounds[source] for source in inputs.sources], arity)
        if isinstance(inputs, Gather):
            # (arity, nodes * rows, runs, width), laid out as the table is
            rows = self._joined(inputs).index_select(0, inputs.index.flatten()).unflatten(0, inputs.index.shape)
            self.factors.append([rows])
            return fold(rows).unflatten(0, (nodes, -1)).permute(2, 0, 1, 3)
        children = _children(self.tables[inputs.source], inputs)
        value = children[0]
        factors = [value]
        for child in children[1:]:
            # (runs, nodes, rows, 1, width) times (runs, nodes, 1, rows of the child, width)
            value = (value.unsqueeze(3) * child.unsqueeze(2)).flatten(2, 3)
            factors += [child, value]
        self.factors.append(factors)
        return value

    def _joined(self, inputs: Gather) -> Tensor:
        """The tables of a gather end to end, (rows, runs, width)."""
        tables = [_by_rows(self.tables[source]) for source in inputs.sources]
        return tables[0] if len(tables) == 1 else torch.cat(tables)

    def _bound(self, tables: list[tuple[float, float]], arity: int) -> None:
        least, largest = min(low for low, _ in tables), max(high for _, high in tables)
        self.in_range &= least**arity >= LEAST and largest**arity <= LARGEST

    def _meet(self, step: Step) -> None:
        """Read the outputs from the products of all pairs of rows of the root's two groups."""
        inputs = step.inputs
        assert isinstance(inputs, Pairs)
        self.left, self.right = (self._joint(side, 1).squeeze(1) for side in (inputs.left, inputs.right))
        self._bound([self.bounds[source] for source in inputs.sources], step.arity)
        if not self.in_range:
            return
        weight = self.weights[step.block]
        self.rows, n_outputs = self.left, 1
        if weight is not None:
            # (runs, 1, m, width) times (runs, outputs, 1, width), then (runs, outputs * m, width)
            self.rows = (self.left.unsqueeze(1) * weight.permute(0, 3, 1, 2)).flatten(1, 2)
            n_outputs = weight.shape[3]
        grid = torch.bmm(self.rows, self.right.mT).view(len(self.rows) * n_outputs, -1)
        self.outputs = grid.index_select(1, inputs.cell)

    # -- the way back -----------------------------------------------------------------------------------

    def differentiate(self, grad: Tensor, of_leaves: list[Tensor], of_weights: list[Tensor]) -> None:
        """Add gradients of leaves and weights, from that of the outputs, to zeros of their shapes.

        Those of blocks that a single step reads are written.
        """
        *steps, root = self.plan.steps
        n_leaves = len(of_leaves)
        of_tables = {number: leaf.permute(2, 0, 1, 3) for number, leaf in enumerate(of_leaves)}
        blocks = [block for block, weight in self.weights.items() if weight is not None]
        self.of_weights = dict(zip(blocks, of_weights, strict=True))
        self._back_from_root(root, grad, of_tables)
        for number in reversed(range(len(steps))):
            step, weight = steps[number], self._weight(steps[number])
            assert isinstance(step.inputs, Gather | Outer)
            of_joint = of_tables.pop(n_leaves + number)
            if weight is not None:
                of_joint = self._back_through(number, step, weight, of_joint)
            self._back_to_children(step.inputs, self.factors[number], of_joint, of_tables)

    def _back_from_root(self, step: Step, grad: Tensor, of_tables: dict[int, Tensor]) -> None:
        inputs, weight = step.inputs, self.weights[step.block]
        assert isinstance(inputs, Pairs)
        m, n = self.left.shape[1], self.right.shape[1]
        of_grid = grad.new_zeros(len(grad), m * n).index_add_(1, inputs.cell, grad).view(len(self.rows), -1, n)
        of_left = torch.bmm(of_grid, self.right)
        of_right = torch.bmm(of_grid.mT, self.rows)
        if weight is not None:
            of_products = of_left.unflatten(1, (-1, m))  # (runs, outputs, m, width)
            of_weight = (of_products * self.left.unsqueeze(1)).sum(2)  # (runs, outputs, width)
            self.of_weights[step.block].copy_(of_weight.mT.unsqueeze(1))
            of_left = (of_products * weight.permute(0, 3, 1, 2)).sum(1)
        for side, factors, of_side in zip(
            (inputs.left, inputs.right), self.factors[-2:], (of_left, of_right), strict=True
        ):
            self._back_to_children(side, factors, of_side.unsqueeze(1), of_tables)

    def _back_through(self, number: int, step: Step, weight: Tensor, of_mixed: Tensor) -> Tensor:
        """Gradient of the products of a step; that of its matrices is added to theirs."""
        runs, nodes, width, columns = weight.shape
        rows = of_mixed.reshape(runs * nodes, -1, columns)
        joint = self.factors[number][-1]
        if isinstance(step.inputs, Gather):
            joint = fold(joint).unflatten(0, (len(step.nodes), -1)).permute(2, 0, 1, 3)
        factors = joint.reshape(runs * nodes, -1, width).mT
        whole = self.of_weights[step.block]
        if step.positions is None:
            torch.bmm(factors, rows, out=whole.view(runs * nodes, width, columns))
        elif whole.shape[1] == 1:  # one matrix for all nodes
            whole += torch.bmm(factors, rows).view_as(whole)
        else:
            whole.index_copy_(1, step.positions, torch.bmm(factors, rows).view_as(weight))
        return torch.bmm(rows, weight.flatten(0, 1).mT).view(joint.shape)

    def _back_to_children(
        self, inputs: Gather | Outer, factors: list[Tensor], grad: Tensor, of_tables: dict[int, Tensor]
    ) -> None:
        """Add the gradients of the children's rows to those of their tables."""
        if isinstance(inputs, Gather):
            self._back_to_gathered(inputs, factors[0], grad, of_tables)
            return
        if inputs.source not in of_tables:
            of_tables[inputs.source] = torch.zeros_like(self.tables[inputs.source])
        # Every child has one parent: what is written here is written once.
        places = _children(of_tables[inputs.source], inputs)
        for k in range(inputs.arity - 1, 0, -1):
            before, child = factors[2 * k - 2], factors[2 * k - 1]
            grad = grad.unflatten(2, (before.shape[2], child.shape[2]))
            torch.sum(grad * before.unsqueeze(3), 2, out=places[k])
            grad = (grad * child.unsqueeze(2)).sum(3)
        places[0].copy_(grad)

    def _back_to_gathered(self, inputs: Gather, rows: Tensor, grad: Tensor, of_tables: dict[int, Tensor]) -> None:
        of_rows = times_others(rows, _by_rows(grad)).flatten(0, 1)  # (taken rows, runs, width)
        sums = embedding_bag(inputs.order, of_rows.flatten(1), inputs.starts, mode="sum").unflatten(1, rows.shape[2:])
        ends = [0]
        for source in inputs.sources:
            ends.append(ends[-1] + self.tables[source].shape[1] * self.tables[source].shape[2])
        for source, (start, end) in zip(inputs.sources, pairwise(ends), strict=True):
            table = self.tables[source]
            part = sums[start:end].unflatten(0, table.shape[1:3]).permute(2, 0, 1, 3)
            # In the layout of the table, which is that of the parameters.
            of_tables[source] = of_tables.get(source, torch.zeros_like(table)).add_(part)


class _Unscaled(torch.autograd.Function):
    """Outputs found by a pass, and gradients from what it kept."""

    @staticmethod
    def forward(ctx, portions, plan: Plan, given: list[bool], *matrices: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.portions, ctx.plan, ctx.given = portions, plan, given
        ctx.save_for_backward(*matrices)
        # Not kept there: they will hold this function, which holds the products.
        outputs = [some.__dict__.pop("outputs") for _, some in portions]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        matrices = ctx.saved_tensors  # or an error, where they were changed since
        n_leaves = len(matrices) - sum(ctx.given)
        if not torch.is_grad_enabled():
            of_matrices = _empty(ctx.plan, matrices, n_leaves, ctx.given)
            rows = len(grad) // matrices[0].shape[2]
            for own, some in ctx.portions:
                of_leaves = [of[:, :, own] for of in of_matrices[:n_leaves]]
                of_weights = [of[own] for of in of_matrices[n_leaves:]]
                some.differentiate(grad[own.start * rows : own.stop * rows], of_leaves, of_weights)
            return None, None, None, *of_matrices
        # To be differentiated once more, as a function of the matrices.
        rest = iter(matrices[n_leaves:])
        weights = [next(rest) if there else None for there in ctx.given]
        outputs = contract(ctx.plan, matrices[:n_leaves], weights).flatten(1).T
        wanted = [m for m, needed in zip(matrices, ctx.needs_input_grad[3:], strict=True) if needed]
        found = iter(torch.autograd.grad(outputs, wanted, grad, create_graph=True))
        return None, None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[3:])


def _empty(plan: Plan, matrices: Sequence[Tensor], n_leaves: int, given: list[bool]) -> list[Tensor]:
    """Tensors for the gradients, of zeros where those of several rows or nodes are added."""
    several = {step.block for step in plan.steps if step.positions is not None}
    blocks = [block for block, there in enumerate(given, n_leaves) if there]
    of_leaves = [torch.zeros_like(matrix) for matrix in matrices[:n_leaves]]
    return of_leaves + [
        (matrix.new_zeros if block in several else matrix.new_empty)(matrix.shape)
        for block, matrix in zip(blocks, matrices[n_leaves:], strict=True)
    ]


def _bounds(table: Tensor) -> tuple[float, float]:
    """Smallest and largest size of a row, (..., width); NaN if there is one."""
    sizes = torch.linalg.vector_norm(table, dim=-1)
    low, high = sizes.aminmax()
    return low.item(), high.item()


def _children(table: Tensor, inputs: Outer) -> list[Tensor]:
    """The rows of each child, (runs, nodes, rows, width)."""
    start = inputs.first // table.shape[2]
    end = start + inputs.nodes * inputs.arity
    if inputs.rows_of_child < table.shape[2]:
        table = table[:, :, : inputs.rows_of_child]
    return [table[:, start + k : end : inputs.arity] for k in range(inputs.arity)]


def _by_rows(table: Tensor) -> Tensor:
    """From (runs, nodes, rows, width) to (nodes * rows, runs, width)."""
    return table.permute(1, 2, 0, 3).flatten(0, 1)


def _mixed(joint: Tensor, weight: Tensor) -> Tensor:
    """Rows times the matrices of their nodes."""
    runs, nodes, width, columns = weight.shape
    # Nodes that share a matrix are more rows of one.
    mixed = torch.bmm(joint.reshape(runs * nodes, -1, width), weight.flatten(0, 1))
    return mixed.view(*joint.shape[:3], columns)
