"""What is computed for given inputs: distinct rows of every node, where they are gathered from, at what cost.

A plan is made once per batch of a data set and serves every step on it, for every network with the same
tree, dimensions and pattern of equal widths.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from htf.engine.layout import Layout
from htf.engine.meeting import Group, meeting_groups
from htf.engine.patterns import share_patterns
from htf.engine.sharing import Distinct, buckets, distinct_tuples
from htf.engine.steps import FACTORS_IN_RANGE, Aligned, Gather, Meeting, Outer, Patterns, Stacked, Step

# A node with this many leaves and no inner children is summed in the log domain.
LOG_DOMAIN_ARITY = 12


@dataclass
class _Table:
    """Where the rows of each node lie in one table of activations."""

    nodes: tuple[int, ...]
    rows: int
    shared: bool
    position: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.position = {node: k for k, node in enumerate(self.nodes)}


class Plan:
    """The computation of a network's outputs on one batch of inputs, decided before anything runs.

    Parameters
    ----------
    layout : Layout
        Shapes of the network's matrices.
    indices : Tensor, optional
        (batch, order) integers, the discrete inputs.  Without them the plan is for encoded vectors and
        nothing is shared.
    batch : int, optional
        Samples of an encoded batch.
    runs : int
        Independent fits, for the printed costs.
    dtype : torch.dtype
        Of the network, for the printed costs.
    device : torch.device, optional
        Of an encoded batch.
    components : (int, int), optional
        Where each of `runs` is a component that is added to others after the engine, as in CP: how many fits the
        components belong to, and the most of one fit.  In a plan that `meets` the root adds them.

    Notes
    -----
    Print a plan to see its steps, multiplications and peak memory.  O(batch N) integer operations to make for indices,
    O(N) for encoded vectors: these steps serve a batch of any size.
    """

    def __init__(
        self,
        layout: Layout,
        indices: Tensor | None = None,
        *,
        batch: int | None = None,
        runs: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        components: tuple[int, int] | None = None,
    ) -> None:
        self.layout, self.runs, self.dtype = layout, runs, dtype
        self._added = (runs, layout.widths[-1]) if components is None else components
        self.discrete = indices is not None
        if indices is not None:
            self.batch, device = indices.shape[0], indices.device
        elif batch is not None:
            self.batch, device = batch, torch.device("cpu") if device is None else device
        else:
            raise ValueError("neither indices nor batch is given; a plan needs one of them")
        self.device = device
        leaf_blocks = [block for block in layout.blocks if block.level == 0]
        self._tables = [
            _Table(block.nodes, block.rows if self.discrete else self.batch, self.discrete) for block in leaf_blocks
        ]
        self._table_of = {n: t for t, table in enumerate(self._tables) for n in table.nodes}
        self.steps = self._with_releases(self._reading_together(self._make_steps(indices)))

    # -- making ---------------------------------------------------------------------------------------

    def _make_steps(self, indices: Tensor | None) -> list[Step]:
        tree, order = self.layout.tree, self.layout.tree.order
        ids: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        if indices is not None:
            by_mode = indices.long().T.contiguous()
            ids = {mode: by_mode[mode] for mode in range(order)}
            counts = {mode: self.layout.dims[mode] for mode in range(order)}
        steps: list[Step] = []
        for b, block in enumerate(self.layout.blocks):
            by_arity: dict[int, list[int]] = {}
            for node in block.nodes:
                if node >= order:
                    by_arity.setdefault(len(tree.children(node)), []).append(node)
            for arity, nodes in by_arity.items():
                if nodes == [tree.root] and (met := self._meeting(ids, counts)) is not None:
                    steps.append(Step((tree.root,), arity, self.batch, False, met, b, None))
                    continue
                children = [[tree.children(node)[k] for node in nodes] for k in range(arity)]
                if not self.discrete:
                    parts, found = [(list(range(len(nodes))), self.batch)], None
                elif nodes == [tree.root]:
                    # The output is wanted for every sample, repeated or not.
                    parts, found = [([0], self.batch)], None
                else:
                    found = distinct_tuples(
                        [torch.stack([ids[c] for c in slot]) for slot in children],
                        [torch.tensor([counts[c] for c in slot], device=self.device) for slot in children],
                    )
                    parts = buckets(found.counts.tolist(), self.batch)
                for positions, rows in parts:
                    some = [nodes[k] for k in positions]
                    shared = rows != self.batch
                    steps.append(self._step(b, some, positions, rows, found if shared else None, ids, counts))
                    for k, node in zip(positions, some, strict=True):
                        if not self.discrete:
                            continue
                        if shared and found is not None:
                            ids[node], counts[node] = found.ids[k], int(found.counts[k])
                        else:
                            ids[node] = torch.arange(self.batch, device=self.device)
                            counts[node] = self.batch
                    self._table_of |= dict.fromkeys(some, len(self._tables))
                    self._tables.append(_Table(tuple(some), rows, shared))
        return steps

    def _step(
        self,
        block: int,
        nodes: list[int],
        positions: list[int],
        rows: int,
        found: Distinct | None,
        ids: dict[int, Tensor],
        counts: dict[int, int],
    ) -> Step:
        children = [self.layout.tree.children(node) for node in nodes]
        samples = None if found is None else found.first[positions, :rows]
        inputs: Gather | Outer | Patterns | Aligned | Stacked
        if (source := self._aligned(children, found)) is not None:
            inputs = Aligned(source)
        elif not self.discrete:
            inputs = self._stacked(children)
        elif self._log_domain(children):
            inputs = self._leaf_products(children, rows, samples, ids)
        elif found is not None and (outer := self._outer(children, found.counts[positions].tolist(), counts)):
            inputs = outer
        else:
            inputs = self._gather(children, rows, samples, ids)
        at = None
        if len(nodes) < len(self.layout.blocks[block].nodes):
            at = [self.layout.place[node][1] for node in nodes]
        return Step(
            tuple(nodes),
            len(children[0]),
            rows,
            found is not None,
            inputs,
            block,
            None if at is None else torch.tensor(at, device=self.device),
        )

    def _aligned(self, children: list[tuple[int, ...]], found: Distinct | None) -> int | None:
        """The one table that holds just these children, per sample and in this order, if there is one."""
        flat = tuple(c for group in children for c in group)
        source = self._table_of[flat[0]]
        table = self._tables[source]
        return source if found is None and not table.shared and table.nodes == flat else None

    def _outer(self, children: list[tuple[int, ...]], distinct: list[int], counts: dict[int, int]) -> Outer | None:
        """All combinations of the children's rows, if every one occurs and the children lie in order in one table."""
        flat = tuple(c for group in children for c in group)
        source, arity, rows = self._table_of[flat[0]], len(children[0]), counts[flat[0]]
        table = self._tables[source]
        start = table.position[flat[0]]
        in_order = table.nodes[start : start + len(flat)] == flat and (rows == table.rows or len(flat) == 1)
        # No child has more values than the table has rows, so none can have fewer.
        full = all(found == rows**arity for found in distinct)
        if not in_order or not full or arity > FACTORS_IN_RANGE:
            return None
        return Outer(source, start * table.rows, len(children), arity, rows)

    def _log_domain(self, children: list[tuple[int, ...]]) -> bool:
        leaves_only = all(c < self.layout.tree.order for group in children for c in group)
        return self.discrete and leaves_only and len(children[0]) >= LOG_DOMAIN_ARITY

    def _row(self, nodes: list[int]) -> tuple[tuple[int, ...], Tensor]:
        """The tables that hold `nodes`, and the first row of each node in them end to end."""
        sources = tuple(sorted({self._table_of[n] for n in nodes}))
        start, offset = {}, 0
        for s in sources:
            start[s] = offset
            offset += len(self._tables[s].nodes) * self._tables[s].rows
        first = [
            start[self._table_of[n]]
            + self._tables[self._table_of[n]].position[n] * self._tables[self._table_of[n]].rows
            for n in nodes
        ]
        return sources, torch.tensor(first, device=self.device)

    def _stacked(self, children: list[tuple[int, ...]]) -> Stacked:
        slots = [child for slot in zip(*children, strict=True) for child in slot]
        sources = tuple(sorted({self._table_of[n] for n in slots}))
        nodes = [node for source in sources for node in self._tables[source].nodes]
        place = {node: k for k, node in enumerate(nodes)}
        return Stacked(torch.tensor([place[n] for n in slots], device=self.device), len(nodes), sources)

    def _gather(
        self, children: list[tuple[int, ...]], rows: int, samples: Tensor | None, ids: dict[int, Tensor]
    ) -> Gather:
        slots = [child for slot in zip(*children, strict=True) for child in slot]
        sources, first = self._row(slots)
        value = torch.stack([ids[n] for n in slots])
        if samples is not None:
            value = value.gather(1, samples.repeat(len(children[0]), 1))
        return self._taken(sources, (first[:, None] + value).view(len(children[0]), -1))

    def _taken(self, sources: tuple[int, ...], index: Tensor, portions: tuple[int, ...] = ()) -> Gather:
        counts = torch.bincount(index.flatten(), minlength=self._rows_of(sources))
        starts = counts.cumsum(0) - counts
        order = index.flatten().argsort(stable=True)
        return Gather(sources, index.int(), order.int(), starts.int(), None, portions)

    def _rows_of(self, sources: tuple[int, ...]) -> int:
        return sum(len(self._tables[s].nodes) * self._tables[s].rows for s in sources)

    def _reading_together(self, steps: list[Step]) -> list[Step]:
        """Let steps that read few of the rows of the same tables read them together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, step in enumerate(steps):
            if isinstance(step.inputs, Gather):
                groups.setdefault(step.sources, []).append(k)
        for sources, group in groups.items():
            parts = [step.inputs for step in (steps[k] for k in group) if isinstance(step.inputs, Gather)]
            taken = tuple(part.index.numel() for part in parts)
            if (len(group) - 1) * self._rows_of(sources) < max(sum(taken), 1):
                continue
            index = torch.cat([part.index.flatten() for part in parts])
            whole = self._taken(sources, index.unsqueeze(0), taken)
            for k, part, own in zip(group, parts, whole.index[0].split(taken), strict=True):
                shared = replace(
                    part, index=own.view_as(part.index), order=whole.order, starts=whole.starts, whole=whole
                )
                steps[k] = replace(steps[k], inputs=shared)
        return steps

    def _meeting(self, ids: dict[int, Tensor], counts: dict[int, int]) -> Meeting | None:
        """The root's children in two groups, if they meet at less cost than sample by sample."""
        children = self.layout.tree.children(self.layout.tree.root)
        if not self.discrete or len(children) >= LOG_DOMAIN_ARITY:
            return None
        fits, width = self._added
        gathered = self.batch * self.runs * self.layout.widths[-1] * len(children) / fits
        single = [Group(1, ids[child], counts[child]) for child in children]
        found = meeting_groups(single, width, self.layout.outputs, gathered)
        if found is None:
            return None
        (front, back), cut = found
        sides = [(front, children[:cut]), (back, children[cut:])]
        (left, of_left), (right, of_right) = sorted(sides, key=lambda side: side[0].rows)
        return Meeting(
            self._side(left, of_left, ids, counts),
            self._side(right, of_right, ids, counts),
            # Not narrowed: the gradient of reading the grid adds by int64 fast, and by int32 one entry at a time.
            left.ids * right.rows + right.ids,
            left.ids.int(),
            right.ids.int(),
        )

    def _side(
        self, group: Group, children: tuple[int, ...], ids: dict[int, Tensor], counts: dict[int, int]
    ) -> Gather | Outer:
        outer = self._outer([children], [group.rows], counts)
        return self._gather([children], group.rows, group.first, ids) if outer is None else outer

    def _leaf_products(
        self,
        children: list[tuple[int, ...]],
        rows: int,
        samples: Tensor | None,
        ids: dict[int, Tensor],
    ) -> Patterns:
        flat = [c for group in children for c in group]
        sources, first = self._row(flat)
        nodes, arity = len(children), len(children[0])
        value = torch.stack([ids[c] for c in flat])
        if samples is not None:
            value = value.gather(1, samples.repeat_interleave(arity, 0))
        table_rows = sum(len(self._tables[s].nodes) * self._tables[s].rows for s in sources)
        block = self.layout.blocks[self.layout.place[flat[0]][0]]
        row_bytes = self.runs * block.columns * self.dtype.itemsize
        value, first = value.view(nodes, arity, rows), first.view(nodes, arity)
        return share_patterns(value, first, table_rows, row_bytes, sources)

    def _with_releases(self, steps: list[Step]) -> tuple[Step, ...]:
        last: dict[int, int] = {}
        for k, step in enumerate(steps):
            for source in step.sources:
                last[source] = k
        done: list[list[int]] = [[] for _ in steps]
        for source, k in last.items():
            done[k].append(source)
        return tuple(
            Step(s.nodes, s.arity, s.rows, s.shared, s.inputs, s.block, s.positions, tuple(r))
            for s, r in zip(steps, done, strict=True)
        )

    # -- telling --------------------------------------------------------------------------------------

    def serves(self, layout: Layout) -> bool:
        """Whether a network of this layout can run the plan: same tree, dims and blocks of equal shapes."""
        return (
            self.layout.tree == layout.tree
            and self.layout.dims == layout.dims
            and [b.nodes for b in self.layout.blocks] == [b.nodes for b in layout.blocks]
        )

    @property
    def meets(self) -> bool:
        """Whether the root multiplies groups of distinct rows and adds, rather than sample by sample."""
        return isinstance(self.steps[-1].inputs, Meeting)

    @property
    def n_bytes(self) -> int:
        """Memory that the plan itself holds."""
        return sum(step.n_bytes for step in self.steps)

    @property
    def multiplications(self) -> int:
        """Scalar multiplications of one forward pass over all runs."""
        leaves = [block for block in self.layout.blocks if block.level == 0 and not self.discrete]
        encoding = sum(len(b.nodes) * b.rows * b.columns for b in leaves) * self.batch * self.runs
        return encoding + sum(self._cost(step)[0] for step in self.steps)

    @property
    def peak_bytes(self) -> int:
        """Memory at the peak of a forward and backward pass: the plan, and all that the pass keeps."""
        return self.n_bytes + sum(self._cost(step)[1] for step in self.steps)

    def _cost(self, step: Step) -> tuple[int, int]:
        """Multiplications forward, and bytes kept, over all runs."""
        block = self.layout.blocks[step.block]
        if isinstance(step.inputs, Meeting):
            return self._cost_of_meeting(step.inputs)
        rows = len(step.nodes) * step.rows * self.runs
        mix = block.rows * block.columns
        if isinstance(step.inputs, Patterns):
            product, kept = step.inputs.additions * self.runs, 3 * rows
        elif isinstance(step.inputs, Aligned):
            product, kept = rows * (step.arity - 1), rows
        elif isinstance(step.inputs, Stacked):
            product, kept = rows * (step.arity - 1), rows * (step.arity + 1)
        else:
            product, kept = (self.runs * count for count in _joining(step.inputs))
        entries = kept * block.rows + rows * 2 * block.columns
        return product * block.rows + rows * mix, entries * self.dtype.itemsize

    def _cost_of_meeting(self, inputs: Meeting) -> tuple[int, int]:
        (fits, width), outputs = self._added, self.layout.outputs
        products, kept = zip(_joining(inputs.left), _joining(inputs.right), strict=True)
        cells = inputs.left.rows * inputs.right.rows * outputs
        weighted = 0 if self.layout.root_adds else inputs.left.rows * width * outputs
        # The grid and its gradient come and go; the samples' outputs and their scales stay.
        entries = sum(kept) * width + weighted + 2 * cells + 2 * self.batch * outputs
        return fits * (sum(products) * width + weighted + cells * width), fits * entries * self.dtype.itemsize

    def __str__(self) -> str:
        tree = self.layout.tree
        lines = [
            f"Plan for {self.batch:,} samples of order {tree.order}, {self.runs} runs, "
            + ("discrete inputs" if self.discrete else "encoded inputs"),
            f"{'level':>5} {'nodes':>6} {'arity':>5} {'rows a node':>12} {'of samples':>10}  inputs",
        ]
        for step in self.steps:
            name = type(step.inputs).__name__.lower()
            if isinstance(step.inputs, Meeting):
                name += f" of {step.inputs.left.rows:,} x {step.inputs.right.rows:,} rows"
            lines.append(
                f"{tree.level(step.nodes[0]):>5} {len(step.nodes):>6} {step.arity:>5} {step.rows:>12,} "
                f"{step.rows / max(self.batch, 1):>10.1%}  {name}"
            )
        lines.append(
            f"{self.multiplications:,} multiplications forward, "
            f"{self.peak_bytes / 2**20:,.1f} MiB at the peak of a training step"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Plan(batch={self.batch}, steps={len(self.steps)}, multiplications={self.multiplications})"

    def __len__(self) -> int:
        return self.batch


def _joining(inputs: Gather | Outer) -> tuple[int, int]:
    """Rows multiplied to join children, and rows kept for gradients."""
    if isinstance(inputs, Outer):
        return inputs.products, inputs.products
    arity, rows = inputs.index.shape
    return (arity - 1) * rows, (arity + 1) * rows
