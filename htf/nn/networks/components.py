"""Components of factorizations: how they are grouped, their sizes, and their rates under gradient flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf._repr import brief


@dataclass(frozen=True)
class ComponentGroup:
    """Components of one kind: those of a whole factorization, or of one node of its tree.

    Attributes
    ----------
    order : int
        Number of matrices or vectors that are multiplied in a component.
    counts : tuple of int
        Components of each run.
    modes : tuple of int
        Modes of the tensor that the components have.
    node : int or None
        Node of the tree, if they are at one.
    """

    order: int
    counts: tuple[int, ...]
    modes: tuple[int, ...]
    node: int | None = None

    __repr__ = brief

    def describe(self) -> dict[str, Any]:
        """The attributes as JSON can hold them, for the record of a tracker."""
        return {"order": self.order, "node": self.node, "modes": list(self.modes), "components": list(self.counts)}


@dataclass(frozen=True, eq=False)
class ComponentRates:
    r"""Components of one kind in all runs, and their rates under gradient flow.

    Attributes
    ----------
    values : Tensor
        (runs, k) float64, singular values or norms of components.  Runs with fewer than k components have zeros behind.
    alignments : Tensor
        (runs, k) float64; the inner product :math:`\gamma` of the negative gradient of the loss at the end tensor with
        the component at norm 1.  0 for components of norm 0.
    order : int
        Number of matrices or vectors that are multiplied in a component.
    counts : Tensor
        (runs,) int64, the components that each run has.
    """

    values: Tensor
    alignments: Tensor
    order: int
    counts: Tensor

    __repr__ = brief

    @property
    def predicted(self) -> Tensor:
        r"""Rates of change :math:`K \gamma \sigma^{2 - 2/K}` that theory gives, (runs, k), K being the order."""
        return flow_rate(self.values, self.alignments, self.order)


def flow_rate(values: Tensor, alignments: Tensor, order: int) -> Tensor:
    """The rate of change of components under gradient flow from a balanced start, in any shape."""
    return order * alignments * values ** (2 - 2 / order)


def node_group(node: int) -> str:
    """The group of the local components of an inner node."""
    return f"node {node}"


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in float64, or a ValueError if it has none."""
    if parameter.grad is None:
        raise ValueError("network has no gradients; call backward() on the sum of all runs' losses first")
    return parameter.grad.double()


def alignments_from(scaled: Tensor, values: Tensor) -> Tensor:
    r"""Alignments :math:`\gamma` from :math:`\gamma \sigma` and :math:`\sigma`; 0 where :math:`\sigma` is 0."""
    return torch.where(values > 0, scaled / values, 0.0)
