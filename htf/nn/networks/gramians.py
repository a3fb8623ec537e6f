"""Gramians of the frames of a network's nodes, and the norm of its tensor, with scales carried beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htf.engine.layout import Layout
from htf.nn.networks.ht import HTNetwork


@dataclass(frozen=True)
class Gramians:
    """Gramians of the frames of all nodes.

    Attributes
    ----------
    matrices : dict
        From each node to a symmetric matrix (columns, columns) whose largest entry is of size 1.
    logs : dict
        From each node to the natural logarithm of what its matrix is to be multiplied by.
    """

    matrices: dict[int, Tensor]
    logs: dict[int, Tensor]


def gramians(network: HTNetwork) -> Gramians:
    r"""Gramians of all nodes of a network of one run, in double precision.

    The frame of a node is the matrix of its tensors :math:`\mathcal{W}^{(\nu, r)}`, one a column.  Gradients flow.
    O(dim R²) multiplications at a leaf and O(R³) at an inner node.
    """
    layout = network._layout
    found: dict[int, Tensor] = {}
    logs: dict[int, Tensor] = {}
    for block, parameter in zip(layout.blocks, network.weights, strict=True):
        weights = parameter[0].double().expand(len(block.nodes), -1, -1)
        if block.level == 0:
            values = weights.mT @ weights
            log = values.new_zeros(len(values))
        else:
            joint, log = _joint(layout, block.nodes, found, logs)
            values = weights.mT @ joint @ weights
        values, more = _scaled(values)
        found |= zip(block.nodes, values.unbind(), strict=True)
        logs |= zip(block.nodes, (log + more).unbind(), strict=True)
    return Gramians(found, logs)


def log_norm(network: HTNetwork) -> Tensor:
    """Natural logarithm of the sum of the squares of all outputs of a network of one run and output; gradients flow."""
    found = gramians(network)
    root = network.tree.root
    return (found.matrices[root].diagonal().sum().log() + found.logs[root]).to(network.dtype)


def _joint(
    layout: Layout, nodes: tuple[int, ...], found: dict[int, Tensor], logs: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Entrywise products of the children's Gramians, (nodes, R, R), and their logarithms, (nodes,)."""
    groups = [layout.tree.children(node) for node in nodes]
    if len({len(group) for group in groups}) > 1:
        parts = [_joint(layout, (node,), found, logs) for node in nodes]
        return torch.cat([value for value, _ in parts]), torch.cat([log for _, log in parts])
    value = torch.stack([found[group[0]] for group in groups])
    log = torch.stack([logs[group[0]] for group in groups])
    for others in list(zip(*groups, strict=True))[1:]:
        value, more = _scaled(value * torch.stack([found[node] for node in others]))
        log = log + more + torch.stack([logs[node] for node in others])
    return value, log


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    largest = matrices.detach().abs().amax((-2, -1))
    largest = torch.where(largest == 0, 1.0, largest)
    return matrices / largest[:, None, None], largest.log()
