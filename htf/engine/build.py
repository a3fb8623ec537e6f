"""Making of a plan: level by level from the leaves to the root, the rows that each node computes, and their sources.

A worked example runs through the comments: a balanced tree over 4 modes of dimension 8, and 2,048 samples of which
every pair of modes takes all of its 64 values.  Its leaves 0 to 3 lie in one table, its pair nodes are 4 and 5, and its
root is 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from htf.engine.distinct import Distinct, buckets, distinct_tuples
from htf.engine.pairwise import Group, cheapest_groups
from htf.engine.patterns import share_patterns
from htf.engine.steps import FACTORS_IN_RANGE, Aligned, Gather, Outer, Pairs, Patterns, Stacked, Step

if TYPE_CHECKING:
    from htf.engine.plan import Plan

# A node with this many leaves and no inner children is summed in the log domain.
LOG_DOMAIN_ARITY = 12


@dataclass(frozen=True)
class _Table:
    """Activations of nodes that are computed together: `rows` rows of each node, one node after another."""

    nodes: tuple[int, ...]
    rows: int
    shared: bool  # a row is a distinct value, not a sample


class Builder:
    """Steps of a plan, made from the leaves up for `indices`, (batch, order), or None for encoded vectors."""

    def __init__(self, plan: Plan, indices: Tensor | None) -> None:
        self.plan, self.layout, self.tree = plan, plan.layout, plan.layout.tree
        self.batch, self.device, self.discrete = plan.batch, plan.device, plan.discrete
        self.steps: list[Step] = []
        self.tables: list[_Table] = []
        # For each node that has a table: its number, and the node's position there.
        self.place: dict[int, tuple[int, int]] = {}
        # For discrete inputs: which of the node's rows each sample takes, (batch,), and how many rows there are.
        self.ids: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}
        for block in self.layout.blocks:
            if block.level == 0:
                self._add_table(block.nodes, block.rows if self.discrete else self.batch, self.discrete)
        if indices is not None:
            self.ids = dict(enumerate(indices.T.contiguous().long()))  # four of (2048,), values 0 to 7
            self.counts = dict(enumerate(self.layout.dims))

    def build(self) -> tuple[Step, ...]:
        """The steps in the order in which they are taken, the root's last."""
        for number, block in enumerate(self.layout.blocks):
            by_arity: dict[int, list[int]] = {}
            for node in block.nodes:
                if block.level:
                    by_arity.setdefault(len(self.tree.children(node)), []).append(node)
            for nodes in by_arity.values():
                self._add_nodes(number, nodes)
        self._take_together()
        return _with_releases(self.steps)

    def _add_nodes(self, block: int, nodes: list[int]) -> None:
        """Add the steps of nodes of one block and one arity."""
        if nodes == [self.tree.root] and (pairs := self._pairs()) is not None:
            arity = len(self.tree.children(self.tree.root))
            self.steps.append(Step((self.tree.root,), arity, self.batch, False, pairs, block, None))
        elif not self.discrete or nodes == [self.tree.root]:
            # The output is wanted for every sample, repeated or not.
            self._add_step(block, nodes, list(range(len(nodes))), self.batch, None)
        else:
            slots = list(zip(*(self.tree.children(node) for node in nodes), strict=True))  # [(0, 2), (1, 3)]
            found = distinct_tuples(
                [torch.stack([self.ids[c] for c in slot]) for slot in slots],  # two of (2 nodes, 2048)
                [torch.tensor([self.counts[c] for c in slot], device=self.device) for slot in slots],
            )
            for positions, rows in buckets(found.counts.tolist(), self.batch):  # one bucket: [0, 1], 64 rows
                self._add_step(
                    block, [nodes[k] for k in positions], positions, rows, found if rows != self.batch else None
                )

    def _add_step(self, block: int, nodes: list[int], positions: list[int], rows: int, found: Distinct | None) -> None:
        """Add one step: nodes that compute as many rows each, their `positions` being those in `found`.

        Without `found` the rows are the samples.
        """
        children = [self.tree.children(node) for node in nodes]  # [(0, 1), (2, 3)]
        inputs = self._inputs(children, positions, rows, found)
        at = None
        if len(nodes) < len(self.layout.blocks[block].nodes):
            at = torch.tensor([self.layout.place[node][1] for node in nodes], device=self.device)
        self.steps.append(Step(tuple(nodes), len(children[0]), rows, found is not None, inputs, block, at))
        self._add_table(tuple(nodes), rows, found is not None)
        if not self.discrete:
            return
        for k, node in zip(positions, nodes, strict=True):
            if found is None:
                self.ids[node], self.counts[node] = torch.arange(self.batch, device=self.device), self.batch
            else:
                self.ids[node], self.counts[node] = found.ids[k], int(found.counts[k])

    def _add_table(self, nodes: tuple[int, ...], rows: int, shared: bool) -> None:
        self.place |= {node: (len(self.tables), k) for k, node in enumerate(nodes)}
        self.tables.append(_Table(nodes, rows, shared))

    # -- kinds of inputs ------------------------------------------------------------------------------

    def _inputs(
        self, children: list[tuple[int, ...]], positions: list[int], rows: int, found: Distinct | None
    ) -> Gather | Outer | Patterns | Aligned | Stacked:
        """Inputs of a step for some nodes, of the cheapest kind that fits."""
        if found is None and (aligned := self._aligned(children)) is not None:
            return aligned
        if not self.discrete:
            return self._stacked(children)
        samples = None if found is None else found.first[positions, :rows]  # (2 nodes, 64)
        if self._leaves_only(children) and len(children[0]) >= LOG_DOMAIN_ARITY:
            return self._patterns(children, rows, samples)
        if found is not None and (outer := self._outer(children, found.counts[positions].tolist())):
            return outer
        return self._gather(children, rows, samples)

    def _leaves_only(self, children: list[tuple[int, ...]]) -> bool:
        return all(child < self.tree.order for group in children for child in group)

    def _aligned(self, children: list[tuple[int, ...]]) -> Aligned | None:
        """A view of the one table that holds just these children, per sample and in this order, if there is one."""
        flat = tuple(child for group in children for child in group)
        source, _ = self.place[flat[0]]
        table = self.tables[source]
        return Aligned(source) if not table.shared and table.nodes == flat else None

    def _outer(self, children: list[tuple[int, ...]], distinct: list[int]) -> Outer | None:
        """All combinations of the children's rows, if every one occurs and the children lie in order in one table.

        In the example 64 of 8 x 8 occur at both pair nodes, and (0, 1, 2, 3) is how the leaves lie.
        """
        flat = tuple(child for group in children for child in group)
        arity, rows = len(children[0]), self.counts[flat[0]]
        source, start = self.place[flat[0]]
        table = self.tables[source]
        in_order = table.nodes[start : start + len(flat)] == flat and (rows == table.rows or len(flat) == 1)
        # No child has more values than the table has rows, so none can have fewer.
        full = all(found == rows**arity for found in distinct)
        if not in_order or not full or arity > FACTORS_IN_RANGE:
            return None
        return Outer(source, start * table.rows, len(children), arity, rows)

    def _stacked(self, children: list[tuple[int, ...]]) -> Stacked:
        slots = [child for slot in zip(*children, strict=True) for child in slot]
        sources = tuple(sorted({self.place[child][0] for child in slots}))
        nodes = [node for source in sources for node in self.tables[source].nodes]
        number = {node: k for k, node in enumerate(nodes)}
        return Stacked(torch.tensor([number[child] for child in slots], device=self.device), len(nodes), sources)

    def _gather(self, children: list[tuple[int, ...]], rows: int, samples: Tensor | None) -> Gather:
        """Rows taken slot by slot.

        Were a combination of values missing, the pair nodes would gather: value (4, 2048) at `samples` (2, 63) is
        (4, 63), the index (2, 126), with numbers of 32 rows in all.
        """
        slots = [child for slot in zip(*children, strict=True) for child in slot]  # [0, 2, 1, 3]
        sources, first, total = self._rows_of(slots)
        if samples is None:
            value = torch.stack([self.ids[child] for child in slots])
        else:
            of_nodes = list(samples) * len(children[0])
            value = torch.stack([self.ids[child].take(at) for child, at in zip(slots, of_nodes, strict=True)])
        index = (first[:, None] + value).view(len(children[0]), -1)
        return _taken(sources, index, total)

    def _take_together(self) -> None:
        """Let steps that take few of the rows of the same tables take them together.

        The way back of a gather visits every row of its sources: for 784 leaves of 256 rows, 200,704 of them.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, step in enumerate(self.steps):
            if isinstance(step.inputs, Gather):
                groups.setdefault(step.sources, []).append(k)
        for sources, group in groups.items():
            parts = [step.inputs for step in (self.steps[k] for k in group) if isinstance(step.inputs, Gather)]
            sizes = tuple(part.index.numel() for part in parts)
            total = sum(len(self.tables[source].nodes) * self.tables[source].rows for source in sources)
            if (len(group) - 1) * total < max(sum(sizes), 1):
                continue
            whole = _taken(sources, torch.cat([part.index.flatten() for part in parts]).unsqueeze(0), total, sizes)
            for k, part, own in zip(group, parts, whole.index[0].split(sizes), strict=True):
                shared = replace(
                    part, index=own.view_as(part.index), order=whole.order, starts=whole.starts, whole=whole
                )
                self.steps[k] = replace(self.steps[k], inputs=shared)

    def _patterns(self, children: list[tuple[int, ...]], rows: int, samples: Tensor | None) -> Patterns:
        flat = [child for group in children for child in group]
        sources, first, total = self._rows_of(flat)
        nodes, arity = len(children), len(children[0])
        value = torch.stack([self.ids[child] for child in flat])  # CP of 784 pixels: (784, 60000)
        if samples is not None:
            value = value.gather(1, samples.repeat_interleave(arity, 0))
        block = self.layout.blocks[self.layout.place[flat[0]][0]]
        row_bytes = self.plan.runs * block.columns * self.plan.dtype.itemsize
        return share_patterns(value.view(nodes, arity, rows), first.view(nodes, arity), total, row_bytes, sources)

    def _rows_of(self, nodes: list[int]) -> tuple[tuple[int, ...], Tensor, int]:
        """The tables that hold `nodes`, the first row of each node in them end to end, and their rows in all.

        The leaves 0, 2, 1, 3 of 8 rows each: tables (0,), first rows [0, 16, 8, 24] of 32.
        """
        sources = tuple(sorted({self.place[node][0] for node in nodes}))
        start, total = {}, 0
        for source in sources:
            start[source] = total
            total += len(self.tables[source].nodes) * self.tables[source].rows
        first = [start[source] + k * self.tables[source].rows for source, k in (self.place[node] for node in nodes)]
        return sources, torch.tensor(first, device=self.device), total

    # -- the root -------------------------------------------------------------------------------------

    def _pairs(self) -> Pairs | None:
        """The root's children in two groups, if all pairs of their rows cost less than the samples one by one."""
        children = self.tree.children(self.tree.root)
        if not self.discrete or len(children) >= LOG_DOMAIN_ARITY:
            return None
        fits, width = self.plan.components
        gathered = self.batch * self.plan.runs * self.layout.widths[-1] * len(children) / fits
        single = [Group(1, self.ids[child], self.counts[child]) for child in children]
        found = cheapest_groups(single, width, self.layout.outputs, gathered)
        if found is None:
            return None
        (front, back), cut = found  # one pair node each, of 64 rows: a grid of 64 x 64
        sides = [(front, children[:cut]), (back, children[cut:])]
        (left, of_left), (right, of_right) = sorted(sides, key=lambda side: side[0].rows)
        return Pairs(
            self._side(left, of_left),
            self._side(right, of_right),
            # Not narrowed: the gradient of reading the grid adds by int64 fast, and by int32 one entry at a time.
            left.ids * right.rows + right.ids,
            left.ids.int(),
            right.ids.int(),
        )

    def _side(self, group: Group, children: tuple[int, ...]) -> Gather | Outer:
        outer = self._outer([children], [group.rows])
        return self._gather([children], group.rows, group.first) if outer is None else outer


def _taken(sources: tuple[int, ...], index: Tensor, total: int, portions: tuple[int, ...] = ()) -> Gather:
    """Rows taken by their numbers of `total`, and which of the taken each row became."""
    counts = torch.bincount(index.flatten(), minlength=total)
    starts = counts.cumsum(0) - counts
    order = index.flatten().argsort(stable=True)
    return Gather(sources, index.int(), order.int(), starts.int(), None, portions)


def _with_releases(steps: list[Step]) -> tuple[Step, ...]:
    """The steps, each with the tables that it is the last to read."""
    last = {source: k for k, step in enumerate(steps) for source in step.sources}
    done: list[list[int]] = [[] for _ in steps]
    for source, k in last.items():
        done[k].append(source)
    return tuple(replace(step, release=tuple(sources)) for step, sources in zip(steps, done, strict=True))
