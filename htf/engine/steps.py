"""The steps of a plan: which rows are taken from which tables, and how they are multiplied.

Inputs of a step are one of six kinds: rows gathered slot by slot, all combinations of rows, patterns of leaf rows for
products in the log domain, a view of rows that already lie in order, samples' rows taken node by node, or, at the root,
two groups of rows whose products are all computed and read from.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Normalized factors multiplied before the product is normalized again.
FACTORS_IN_RANGE = 8


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Gather:
    """Rows taken from the tables of the children, slot by slot, and the way back for gradients.

    `index` holds (arity, nodes * rows) numbers of rows of the sources laid end to end.  `order` sorts the taken
    positions by source row and `starts` says where each source row begins in it, so that the gradient is a sum over
    consecutive runs: no scattered writes.  Index [[0, 2, 0]] of 3 rows has order [0, 2, 1] and starts [0, 2, 2].

    Steps that read the same large tables take their rows together, as the way back visits every row of the sources:
    then `whole` is what they take, one after another, `index` a part of its, and `portions` of the whole are the sizes
    of the parts.
    """

    sources: tuple[int, ...]
    index: Tensor
    order: Tensor
    starts: Tensor
    whole: Gather | None = None
    portions: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return self.index.shape[1]

    @property
    def n_bytes(self) -> int:
        if self.whole is not None:
            # A share of what belongs to all.
            return self.whole.n_bytes * self.index.numel() // self.whole.index.numel()
        return _bytes(self.index, self.order, self.starts)


@dataclass(frozen=True)
class Bags:
    """Rows to be summed: bag b holds the numbers `index` from `starts[b]` up to where the next bag starts."""

    index: Tensor
    starts: Tensor

    @property
    def n_bytes(self) -> int:
        return _bytes(self.index, self.starts)


@dataclass(frozen=True)
class Codes:
    """Sums of leaf rows as products with matrices of zeros and ones.

    `code`, (nodes, rows, columns) in bfloat16, multiplies the leaf rows `leaves`, (nodes, columns).  Columns past a
    node's leaf rows are zero.  There are `table_rows` leaf rows in all.
    """

    code: Tensor
    leaves: Tensor
    table_rows: int

    @property
    def rows(self) -> int:
        """Rows of all nodes."""
        return self.code.shape[0] * self.code.shape[1]

    @property
    def n_bytes(self) -> int:
        return _bytes(self.code, self.leaves)


@dataclass(frozen=True)
class Patterns:
    """Leaves-only nodes over discrete inputs: sums over the leaf rows that each row meets, and the way back.

    Neighbouring leaves are read in groups.  `patterns` holds the leaf rows of each pattern of a group's values, and
    `rows`, in parts that are added, the patterns of each of the (nodes * rows) results.  Back, `pieces` holds results
    that show one pattern, and `leaves` the pieces in which each leaf row is met: short sums of long ones.

    `common` holds the leaf row of the most frequent value of each child, (nodes, arity), and `base` that of the same
    mode for each leaf row, (table rows,).

    Where matrix products are cheaper than reads in any order, as on a GPU, `dense` holds the same sums as codes.
    """

    rows: tuple[Bags, ...]
    patterns: Bags
    pieces: Bags
    leaves: Bags
    base: Tensor
    common: Tensor
    sources: tuple[int, ...]
    dense: Codes | None = None

    @property
    def nodes(self) -> int:
        return self.common.shape[0]

    @property
    def arity(self) -> int:
        return self.common.shape[1]

    @property
    def additions(self) -> int:
        """Rows added by a forward pass."""
        return len(self.patterns.index) + sum(len(part.index) for part in self.rows)

    @property
    def n_bytes(self) -> int:
        bags = sum(each.n_bytes for each in (*self.rows, self.patterns, self.pieces, self.leaves))
        return _bytes(self.base, self.common) + bags + (0 if self.dense is None else self.dense.n_bytes)


@dataclass(frozen=True)
class Aligned:
    """Children that lie one after another in one table, a row for each sample: a view, nothing to gather.

    Two nodes with children (0, 1) and (2, 3) read the table of (0, 1, 2, 3), (4 * batch, runs, width), as
    (2, 2, batch, runs, width).
    """

    source: int

    n_bytes = 0

    @property
    def sources(self) -> tuple[int, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Stacked:
    """Children that have a row for each sample, but in another order: taken node by node, for any number of samples.

    `index` numbers the children, slot by slot, among the `nodes` of the sources end to end.
    """

    index: Tensor
    nodes: int
    sources: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return _bytes(self.index)


@dataclass(frozen=True)
class Outer:
    """All combinations of the rows of each node's children, the last child's changing fastest: nothing to gather.

    The children lie one after another in one table, from row `first` on, each with `rows_of_child` rows.  Of binary
    children 0 and 1 these are the rows (0, 0), (0, 1), (1, 0), (1, 1).
    """

    source: int
    first: int
    nodes: int
    arity: int
    rows_of_child: int

    n_bytes = 0

    @property
    def sources(self) -> tuple[int, ...]:
        return (self.source,)

    @property
    def taken(self) -> int:
        """Rows of the table that are read."""
        return self.nodes * self.arity * self.rows_of_child

    @property
    def rows(self) -> int:
        """Combinations of each node."""
        return self.rows_of_child**self.arity

    @property
    def products(self) -> int:
        """Rows multiplied on the way, child after child."""
        return self.nodes * sum(self.rows_of_child**k for k in range(2, self.arity + 1))


@dataclass(frozen=True)
class Pairs:
    """All pairs of distinct rows of two groups of the root's children, and the pair of each sample.

    `left`, the group of fewer rows, and `right` span a grid of products, of which `cell` numbers each sample's, row by
    row; `left_of` and `right_of` number its rows in the groups.  All three have shape (batch,).
    """

    left: Gather | Outer
    right: Gather | Outer
    cell: Tensor
    left_of: Tensor
    right_of: Tensor

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(sorted({*self.left.sources, *self.right.sources}))

    @property
    def n_bytes(self) -> int:
        return _bytes(self.cell, self.left_of, self.right_of) + self.left.n_bytes + self.right.n_bytes


@dataclass(frozen=True)
class Step:
    """Nodes of one level that are computed together.

    Attributes
    ----------
    nodes : tuple of int
    arity : int
    rows : int
        Rows computed for each node.
    shared : bool
        Whether a row is a distinct value (gathered by the parents) or a sample.
    inputs : Gather, Outer, Patterns, Aligned, Stacked or Pairs
    block : int
        Block of the layout that holds the nodes' matrices.
    positions : Tensor or None
        The nodes' positions in that block; None for all of them in order.
    release : tuple of int
        Tables that no later step reads.
    """

    nodes: tuple[int, ...]
    arity: int
    rows: int
    shared: bool
    inputs: Gather | Outer | Patterns | Aligned | Stacked | Pairs
    block: int
    positions: Tensor | None
    release: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        return self.inputs.n_bytes

    @property
    def sources(self) -> tuple[int, ...]:
        """The tables that the step reads."""
        return self.inputs.sources
