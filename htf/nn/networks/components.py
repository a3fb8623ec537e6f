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

    See Also
    --------
    htf.dynamics.ComponentRates : their sizes and rates.
    htf.nn.Factorization : its method ``component_groups`` gives them.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), dims=3, width=2, seed=0)
    >>> {name: (group.order, group.modes) for name, group in net.component_groups().items()}
    {'node 4': (3, (0, 1)), 'node 5': (3, (2, 3)), 'node 6': (3, (0, 1, 2, 3))}
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

    See Also
    --------
    htf.dynamics.component_rates : makes them.
    htf.dynamics.compare_rates : over a whole fit.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.CPNetwork((4, 5, 6), rank=2, init=htf.nn.init.balanced(0.1), seed=0, dtype=torch.float64)
    >>> (net(torch.tensor([[0, 1, 2]])) - 1).square().sum().backward()
    >>> rates = htf.dynamics.component_rates(net)["components"]
    >>> torch.allclose(rates.predicted, 3 * rates.alignments * rates.values ** (2 - 2 / 3))
    True
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
