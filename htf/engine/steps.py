"""The steps of a plan: what is taken from which tables, and by what kind of product.

Inputs of a step are one of four kinds: rows gathered slot by slot, codes for products in the log domain, row numbers
to look up and sum there, or a view of rows that already lie in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gather:
    """Rows taken from the tables of the children, slot by slot, and the way back for gradients.

    `index` holds (arity, nodes * rows) numbers of rows of the sources laid end to end.  `order` sorts the taken
    positions by source row and `starts` says where each source row begins in it, so that the gradient is a sum over
    consecutive runs: no scattered writes.
    """

    sources: tuple[int, ...]
    index: Tensor
    order: Tensor
    starts: Tensor

    @property
    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.index, self.order, self.starts))


@dataclass(frozen=True)
class OneHot:
    """Leaves-only nodes over discrete inputs, by centred one-hot codes.

    `code`, (nodes, rows, columns), multiplies the differences between the rows `values` and `bases`, (nodes, columns),
    of the leaf tables; `mean`, (nodes, table rows), gives what all samples share: the average over each mode's values,
    or the one value of a mode that does not vary.
    """

    code: Tensor
    values: Tensor
    bases: Tensor
    mean: Tensor
    sources: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.code, self.values, self.bases, self.mean))


@dataclass(frozen=True)
class Lookup:
    """Leaves-only nodes with many values a mode: rows of the leaf tables, (nodes * rows, modes)."""

    index: Tensor
    sources: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return self.index.numel() * self.index.element_size()


@dataclass(frozen=True)
class Aligned:
    """Children that lie behind one another, per sample, in one table: a view, nothing to gather."""

    source: int

    n_bytes = 0


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
    inputs : Gather, OneHot, Lookup or Aligned
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
    inputs: Gather | OneHot | Lookup | Aligned
    block: int
    positions: Tensor | None
    release: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        return self.inputs.n_bytes

    @property
    def sources(self) -> tuple[int, ...]:
        """The tables that the step reads."""
        return (self.inputs.source,) if isinstance(self.inputs, Aligned) else self.inputs.sources
