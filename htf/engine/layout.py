"""Shapes of the matrices that a network on a tree holds, and blocks of those that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from htf._checks import check_dims, positive
from htf._repr import brief
from htf.tree import DimensionTree


@dataclass(frozen=True)
class Block:
    """Nodes of one level whose matrices have equal shapes, stored and applied together.

    Attributes
    ----------
    nodes : tuple of int
        The nodes, in the order of a walk of the tree.
    level : int
        Their level.
    rows, columns : int
        Shape of each node's matrix W: (mode dimension or own width) x (width of the parent).

    See Also
    --------
    htf.engine.Layout : whose blocks they are.

    Examples
    --------
    >>> import htf
    >>> layout = htf.engine.Layout.build(htf.DimensionTree.balanced(4), dims=3, width=2)
    >>> [(block.nodes, block.level, block.rows, block.columns) for block in layout.blocks]
    [((0, 1, 2, 3), 0, 3, 2), ((4, 5), 1, 2, 2), ((6,), 2, 2, 1)]
    """

    nodes: tuple[int, ...]
    level: int
    rows: int
    columns: int

    __repr__ = brief


@dataclass(frozen=True)
class Layout:
    """Shapes of the matrices W of a ConvAC on a tree.

    Attributes
    ----------
    tree : DimensionTree
    dims : tuple of int
        Dimension of each mode.
    widths : tuple of int
        Width R of each inner node, in the tree's order.
    outputs : int
        Columns of the root's matrix.
    root_adds : bool
        Whether the root, without a matrix of its own, adds its components, as in CP.

    See Also
    --------
    htf.engine.Plan : what is computed on it.
    htf.nn.HTNetwork : a network of such matrices.

    Examples
    --------
    >>> import htf
    >>> layout = htf.engine.Layout.build(htf.DimensionTree.balanced(4), dims=3, width=2)
    >>> layout.shape(0), layout.shape(4), layout.shape(6)  # a leaf, a pair, the root
    ((3, 2), (2, 2), (2, 1))
    >>> layout.n_parameters
    34
    """

    tree: DimensionTree
    dims: tuple[int, ...]
    widths: tuple[int, ...]
    outputs: int = 1
    root_adds: bool = False

    __repr__ = brief

    @classmethod
    def build(
        cls,
        tree: DimensionTree,
        dims: int | Sequence[int],
        width: int | Mapping[int, int],
        outputs: int = 1,
        root_adds: bool = False,
    ) -> Layout:
        """Check and spread the arguments of a network's constructor."""
        if tree.order < 2:
            raise ValueError(f"tree has order {tree.order}; a factorization needs at least 2 modes")
        if isinstance(width, Mapping):
            missing = [node for node in tree.inner_nodes if node not in width]
            if missing:
                raise ValueError(f"width names no value for inner node {missing[0]} ({len(missing)} missing)")
            widths = tuple(positive(f"width of node {node}", width[node]) for node in tree.inner_nodes)
        else:
            widths = (positive("width", width),) * len(tree.inner_nodes)
        return cls(tree, check_dims(dims, tree.order), widths, positive("outputs", outputs), root_adds)

    def shape(self, node: int) -> tuple[int, int]:
        """Shape of the matrix of `node`."""
        order = self.tree.order
        rows = self.dims[node] if node < order else self.widths[node - order]
        parent = self.tree.parent(node)
        return rows, self.outputs if parent is None else self.widths[parent - order]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All nodes, grouped by level and shape; leaves first, the root last."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for level, nodes in enumerate(self.tree):
            # Leaves in the order of the tree's walk, as inner nodes are numbered anyway: siblings lie together.
            for node in self.tree.modes(self.tree.root) if level == 0 else nodes:
                groups.setdefault((level, *self.shape(node)), []).append(node)
        return tuple(Block(tuple(nodes), *key) for key, nodes in groups.items())

    @cached_property
    def place(self) -> dict[int, tuple[int, int]]:
        """From each node to its block and its position in it."""
        return {node: (b, k) for b, block in enumerate(self.blocks) for k, node in enumerate(block.nodes)}

    @property
    def n_parameters(self) -> int:
        """Entries of all matrices of one run, without sharing."""
        return sum(len(block.nodes) * block.rows * block.columns for block in self.blocks)
