"""Nodes of one level whose factors have equal shapes, as one batched product each.

At high orders, steps per node are thousands of calls of a few microseconds of arithmetic and many times that of
overhead.  A `Schedule` groups the nodes, once for a tree and ranks; sweeps then hold one array per block, (nodes, ...),
whose slices belong to its nodes.  Where the groups are few nodes each, as on a linear tree or with ranks all different,
and where factors are so large that arithmetic outweighs the overhead, steps per node are as fast, and `schedule_of`
says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from htf.linalg.backend import Array, Backend
from htf.tensors.ht_tensor import HTTensor
from htf.tree import DimensionTree

# Below so many nodes, or so many nodes a block, grouping gains little.
_FEWEST_NODES = 120
_NODES_A_BLOCK = 4
# Up to so many nodes, products without any scaling are as fast and often within range.
_UNSCALED_NODES = 384
# Entries of a factor beyond which a node's own arithmetic outweighs the overhead of its steps.
_LARGEST_FACTOR = 2**12


@dataclass(frozen=True)
class Pieces:
    """Where the slices of a batched array lie in others: (which array, which slices) each, and how to sort them."""

    parts: tuple[tuple[Any, slice | np.ndarray], ...]
    order: np.ndarray | None

    def take(self, B: Backend, found: Sequence[Array] | Mapping[Any, Array]) -> Array:
        """The slices, in one array."""
        parts = [found[key][where] for key, where in self.parts]
        whole = parts[0] if len(parts) == 1 else B.concatenate(parts, 0)
        return whole if self.order is None else whole[self.order]


@dataclass(frozen=True)
class Block:
    """Nodes of one level and shape.

    Attributes
    ----------
    nodes : tuple of int
    children : tuple of tuple of int
        Per axis of the transfer tensors, the child of each node; none for leaves.
    below : tuple of Pieces
        Per axis, where the children lie in the blocks before this one.
    above : Pieces or None
        Where the nodes lie among the children of blocks behind this one, by (block, axis); None for the root.
    """

    nodes: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]
    below: tuple[Pieces, ...]
    above: Pieces | None


Schedule = tuple[Block, ...]


def schedule_of(tensors: Sequence[HTTensor]) -> Schedule | None:
    """Blocks of HT tensors of one tree and shape, the root's last; None where steps per node serve as well."""
    x = tensors[0]
    # Calls of other devices have many times the overhead.  For the smallest tensors, even asking for it costs.
    nodes = x.tree.n_nodes
    if nodes < _FEWEST_NODES // 8 or (nodes < _FEWEST_NODES and _on_host(x.factors[0])):
        return None
    on_host = _on_host(x.factors[0])
    # Every level has a block at least; a linear tree has hardly more nodes than levels.
    if x.tree.depth * _NODES_A_BLOCK > x.tree.n_nodes:
        return None
    # A node some levels above the leaves, where ranks are no longer bounded by dimensions, stands for all.
    typical = x.tree.n_nodes * 7 // 8
    largest = max(prod(tuple(y.factors[typical].shape)) for y in tensors)
    if on_host and largest > _LARGEST_FACTOR:
        return None
    blocks = _schedule(x.tree, x.dims, tuple(y.rank for y in tensors))
    return blocks if len(blocks) * _NODES_A_BLOCK <= x.tree.n_nodes else None


def _on_host(array: Array) -> bool:
    return type(array) is np.ndarray or getattr(array.device, "type", "cpu") == "cpu"


def unscaled_first(tree: DimensionTree) -> bool:
    """Whether a product is to be tried without any scaling before it is taken by blocks."""
    return tree.n_nodes < _UNSCALED_NODES


@lru_cache(maxsize=32)
def _schedule(tree: DimensionTree, dims: tuple[int, ...], ranks: tuple[tuple[int, ...], ...]) -> Schedule:
    kinds = [node < tree.order for node in range(tree.n_nodes)]
    orthogonal = _orthogonal_ranks(tree, dims, [sum(each) for each in zip(*ranks, strict=True)])
    labels = list(zip(kinds, *ranks, *orthogonal, strict=True))
    groups: dict[Hashable, list[int]] = {}
    # Leaves in the order of the tree's walk, as inner nodes are numbered: siblings lie together.
    for node in (*tree.modes(tree.root), *tree.inner_nodes):
        group = tree.children(node)
        below = tuple(labels[child] for child in group) if group else dims[node]
        groups.setdefault((tree.level(node), below, labels[node]), []).append(node)
    place = {node: (b, k) for b, nodes in enumerate(groups.values()) for k, node in enumerate(nodes)}
    slots: dict[int, tuple[tuple[int, int], int]] = {}  # from a child to (block, axis) of its parent and position there
    for node in tree.inner_nodes:
        block, position = place[node]
        slots |= {child: ((block, axis), position) for axis, child in enumerate(tree.children(node))}
    blocks = []
    for nodes in groups.values():
        children: tuple[tuple[int, ...], ...] = tuple(zip(*(tree.children(node) for node in nodes), strict=True))
        sources = tuple(_pieces([place[child] for child in axis]) for axis in children)
        above = None if tree.root in nodes else _pieces([slots[node] for node in nodes])
        blocks.append(Block(tuple(nodes), children, sources, above))
    return tuple(blocks)


def _orthogonal_ranks(tree: DimensionTree, dims: Sequence[int], ranks: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ranks of the orthogonalized tensor, and the numbers of singular values that each node's spectrum has."""
    below: list[int] = []
    for node, rank in enumerate(ranks):
        group = tree.children(node)
        below.append(min(rank, prod([below[child] for child in group]) if group else dims[node]))
    below[-1] = ranks[-1]
    seen = list(below)
    for node in reversed(tree.inner_nodes):
        group = tree.children(node)
        for child in group:
            seen[child] = min(below[child], prod([below[c] for c in group if c != child]) * seen[node])
    return below, seen


def _pieces(places: Sequence[tuple[Any, int]]) -> Pieces:
    """Slices listed as (which array, which slice), in runs of one array."""
    runs: dict[Any, tuple[list[int], list[int]]] = {}  # from an array to slices of it, and their positions in the list
    for k, (key, position) in enumerate(places):
        own = runs.setdefault(key, ([], []))
        own[0].append(position)
        own[1].append(k)
    listed = [k for _, own in runs.values() for k in own]
    order = None if listed == sorted(listed) else np.argsort(listed)
    return Pieces(tuple((key, _positions(positions)) for key, (positions, _) in runs.items()), order)


def _positions(positions: Sequence[int]) -> slice | np.ndarray:
    """A slice, which copies nothing, where positions are equally far apart."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and list(positions) == list(range(positions[0], positions[-1] + 1, step)):
        return slice(positions[0], positions[-1] + 1, step)
    return np.array(positions)


def stacked(B: Backend, factors: Sequence[Array], block: Block) -> Array:
    """The factors of a block's nodes as one array, (nodes, ...)."""
    if B.backend_name == "numpy":
        chosen = [factors[node] for node in block.nodes]
        return np.concatenate(chosen).reshape(len(chosen), *chosen[0].shape)
    return B.stack([factors[node] for node in block.nodes])


def unstacked(B: Backend, schedule: Schedule, arrays: Sequence[Array]) -> list[Array]:
    """One array per node, from one per block."""
    found: list[Array] = [None] * sum(len(block.nodes) for block in schedule)
    for block, array in zip(schedule, arrays, strict=True):
        for node, part in zip(block.nodes, array.unbind() if B.backend_name == "pytorch" else array, strict=True):
            found[node] = part
    return found
