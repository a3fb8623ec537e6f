"""Gramians on both sides of the edges of a ConvAC's tree, for all runs and all alike nodes at once, with their scales.

The overlaps of `htf.tensors.overlaps` with diagonal transfer tensors, which go node by node on any backend, as a loss
needs them at every step: one batched product for all nodes of a block and all runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from htf.engine.layout import Layout
from htf.linalg.dense import products_of_others
from htf.nn.networks.ht import HTNetwork

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


def gramians(layout: Layout, matrices: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    r"""Gramians of the frames of all nodes, by blocks; gradients flow.

    The frame of a node is the matrix of its tensors :math:`\mathcal{W}^{(\nu, r)}`, one a column.  O(dim R²)
    multiplications at a leaf and O(R³) at an inner node.

    Parameters
    ----------
    layout : Layout
    matrices : sequence of Tensor
        Per block, (runs, nodes or 1, rows, columns).

    Returns
    -------
    below : list of Tensor, (runs, nodes, columns, columns)
        In double precision, the largest entry of each of size 1.
    logs : list of Tensor, (runs, nodes)
        Natural logarithms of what they are to be multiplied by.
    """
    below: list[Tensor] = []
    logs: list[Tensor] = []
    for block, matrix, siblings in zip(layout.blocks, matrices, _families(layout), strict=True):
        weight = matrix.double().expand(-1, len(block.nodes), -1, -1)
        if siblings:
            joints = [(s.own, *_product(_of_children(s, below), _of_children(s, logs))) for s in siblings]
            log = _in_order([(own, log) for own, _, log in joints])
            values, more = _scaled(weight.mT @ _in_order([(own, joint) for own, joint, _ in joints]) @ weight)
            log = log + more
        else:
            values, log = _scaled(weight.mT @ weight)
        below.append(values)
        logs.append(log)
    return below, logs


def log_norm(network: HTNetwork) -> Tensor:
    """Natural logarithm of the sum of the squares of all outputs of a network of one run and output; gradients flow."""
    below, logs = gramians(network._layout, list(network.weights))
    return (below[-1][0, 0].diagonal().sum().log() + logs[-1][0, 0]).to(network.dtype)


def overlaps(layout: Layout, matrices: Sequence[Tensor]) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Gramians of the frames of nodes and of the rest of the tensor, by blocks of nodes below the root.

    Parameters
    ----------
    layout, matrices
        As of `gramians`.

    Yields
    ------
    nodes : tuple of int
    below, above : Tensor, (runs, nodes, width, width)
        In double precision, each node's divided by a constant.
    """
    blocks, families = layout.blocks, _families(layout)
    weights = [_rescaled(weight.double()) for weight in matrices]
    below, _ = gramians(layout, weights)
    root = torch.eye(layout.outputs, dtype=torch.float64, device=matrices[0].device)
    seen: list[list[tuple[list[int], Tensor]]] = [[] for _ in blocks]
    seen[-1].append(([0], root.expand(len(matrices[0]), 1, -1, -1)))
    for number in reversed(range(len(blocks))):
        above = _in_order(seen[number])
        if number < len(blocks) - 1:
            yield blocks[number].nodes, below[number], above
        weight = weights[number].expand(-1, len(blocks[number].nodes), -1, -1)
        for s in families[number]:
            outside = (weight @ above @ weight.mT)[:, _view(s.own)]
            # Scaled at every factor, as a node may have hundreds of children.
            rest = products_of_others(outside, _of_children(s, below), _rescaled_product)
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


def _of_children(siblings: _Siblings, values: Sequence[Tensor]) -> list[Tensor]:
    """Values of all first children, all second children, and so on, from those of blocks."""
    return [values[block][:, _view(at)] for block, at in siblings.children]


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


def _product(factors: Sequence[Tensor], logs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Entrywise products of the children's Gramians, scaled at every factor, and their logarithms."""
    value, log = factors[0], logs[0]
    for factor, other in zip(factors[1:], logs[1:], strict=True):
        value, more = _scaled(value * factor)
        log = log + more + other
    return value, log


def _rescaled_product(first: Tensor, second: Tensor) -> Tensor:
    return _rescaled(first * second)


def _rescaled(matrices: Tensor) -> Tensor:
    return _scaled(matrices)[0]


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Divided by their largest entries, as constants, and the logarithms of these; by 1 where they are zero."""
    largest = matrices.detach().abs().amax((-2, -1))
    largest = torch.where(largest == 0, 1.0, largest)
    return matrices / largest[..., None, None], largest.log()
