"""Gramians on both sides of every edge of a ConvAC's tree, for all runs and all alike nodes at once.

The overlaps of `htf.tensors.overlaps` with diagonal transfer tensors, which go node by node on any backend, as a loss
needs them at every step: one batched product for all nodes of a block and all runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from torch import Tensor

from htf.engine import Layout
from htf.linalg.dense import products_of_others

Positions = slice | list[int]


@dataclass(frozen=True)
class _Siblings:
    """Nodes of a block whose first children lie in one block, second children in one block, and so on.

    Attributes
    ----------
    own : list of int
        Their positions in their block.
    children : list of (int, list of int)
        Blocks of the first, second, ... children, and positions there.
    """

    own: list[int]
    children: list[tuple[int, list[int]]]


def overlaps(layout: Layout, matrices: Sequence[Tensor]) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Gramians of the frames of nodes and of the rest of the tensor, by blocks of nodes below the root.

    Parameters
    ----------
    layout : Layout
    matrices : sequence of Tensor
        Per block, (runs, nodes or 1, rows, columns).

    Yields
    ------
    nodes : tuple of int
    below, above : Tensor, (runs, nodes, width, width)
        In double precision, each node's divided by a constant.
    """
    blocks, families = layout.blocks, _families(layout)
    weights = [
        _scaled(weight.double().expand(-1, len(block.nodes), -1, -1))
        for block, weight in zip(blocks, matrices, strict=True)
    ]
    below: list[Tensor] = []
    for weight, siblings in zip(weights, families, strict=True):
        if siblings:
            joint = _in_order([(s.own, reduce(_times, _of_children(s, below))) for s in siblings])
            below.append(_scaled(weight.mT @ joint @ weight))
        else:
            below.append(_scaled(weight.mT @ weight))
    root = torch.eye(layout.outputs, dtype=torch.float64, device=matrices[0].device)
    seen: list[list[tuple[list[int], Tensor]]] = [[] for _ in blocks]
    seen[-1].append(([0], root.expand(len(matrices[0]), 1, -1, -1)))
    for number in reversed(range(len(blocks))):
        above = _in_order(seen[number])
        if number < len(blocks) - 1:
            yield blocks[number].nodes, below[number], above
        for s in families[number]:
            outside = (weights[number] @ above @ weights[number].mT)[:, _view(s.own)]
            rest = products_of_others(outside, _of_children(s, below), _times)
            for (block, at), overlap in zip(s.children, rest, strict=True):
                seen[block].append((at, overlap))


@lru_cache(maxsize=16)
def _families(layout: Layout) -> list[list[_Siblings]]:
    """For every block, its nodes by where their children lie; none for leaves."""
    families = []
    for block in layout.blocks:
        found: dict[tuple[int, ...], _Siblings] = {}
        for position, node in enumerate(block.nodes):
            places = [layout.place[child] for child in layout.tree.children(node)]
            if places:
                key = tuple(number for number, _ in places)
                s = found.setdefault(key, _Siblings([], [(number, []) for number in key]))
                s.own.append(position)
                for (_, at), (_, place) in zip(s.children, places, strict=True):
                    at.append(place)
        families.append(list(found.values()))
    return families


def _of_children(siblings: _Siblings, overlaps: Sequence[Tensor]) -> list[Tensor]:
    """Overlaps of all first children, all second children, and so on, from those of blocks."""
    return [overlaps[block][:, _view(at)] for block, at in siblings.children]


def _view(positions: list[int]) -> Positions:
    """Positions as a slice where they are evenly spaced, so that nothing is copied."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    even = range(positions[0], positions[-1] + 1, step) if step > 0 else ()
    return slice(positions[0], positions[-1] + 1, step) if list(even) == positions else positions


def _in_order(parts: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """Put parts of a block, given with their positions, together."""
    positions = [p for at, _ in parts for p in at]
    whole = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts], 1)
    if positions == sorted(positions):
        return whole
    return whole[:, sorted(range(len(positions)), key=positions.__getitem__)]


def _times(first: Tensor, second: Tensor) -> Tensor:
    # Scaled at every factor, as a node may have hundreds of children.
    return _scaled(first * second)


def _scaled(matrices: Tensor) -> Tensor:
    """Divided by their largest entries, as constants; by 1 where they are zero."""
    largest = matrices.detach().abs().amax((-2, -1), keepdim=True)
    return matrices / torch.where(largest == 0, 1.0, largest)
