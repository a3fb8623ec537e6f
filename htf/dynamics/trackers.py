"""Trackers of components, with which rates and phases of learning are measured."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf._checks import positive
from htf.dynamics.components import (
    COMPONENTS,
    END,
    ComponentRates,
    check_unshared,
    component_name,
    component_order,
    component_rates,
)
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.training.tracking import Factorization, Moment, Tracker
from htf.tree import DimensionTree


def singular_values(top: int = 10) -> Tracker:
    """Track the largest singular values of the end matrices of a `MatrixFactorization`, and their alignments.

    Parameters
    ----------
    top : int
        How many; fewer where widths allow no more.

    Returns
    -------
    Tracker
        "singular_values", which records, with k = min(top, widths): "end matrix/values", (runs, k) falling;
        "end matrix/alignments", (runs, k), see `component_rates`; and "end matrix/indices", (runs, k), their
        positions.

    Raises
    ------
    TypeError
        At the start of a fit, for another network.

    Notes
    -----
    An SVD of every run's end matrix in float64, at two steps in succession, so that rates can be compared with theory.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.
    """
    return SingularValues(positive("top", top))


def component_norms(top: int = 10) -> Tracker:
    """Track the norms of the largest components of a `CPNetwork`, and their alignments.

    Parameters
    ----------
    top : int
        How many; fewer where ranks allow no more.

    Returns
    -------
    Tracker
        "component_norms", which records, with k = min(top, ranks): "components/values", (runs, k) falling;
        "components/alignments", (runs, k), see `component_rates`; and "components/indices", (runs, k) int64, which
        components they are, -1 where a run has no more.

    Raises
    ------
    TypeError
        At the start of a fit, for another network.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.
    """
    return ComponentNorms(positive("top", top))


def local_component_norms(top: int = 10, nodes: Sequence[int] | None = None) -> Tracker:
    """Track the norms of the largest local components at the nodes of an `HTNetwork` or `CPNetwork`.

    Parameters
    ----------
    top : int
        How many at each node; fewer where widths allow no more.
    nodes : sequence of int, optional
        Inner nodes of the tree; all by default.  A CPNetwork has one, whose local components are its components.

    Returns
    -------
    Tracker
        "local_component_norms", which records for each node, for example 6, with k = min(top, its widths):
        "node 6/values", (runs, k) falling; "node 6/alignments", (runs, k), see `component_rates`; and
        "node 6/indices", (runs, k) int64, which components they are, -1 where a run has no more.

    Raises
    ------
    TypeError, ValueError
        At the start of a fit, for another network, one whose nodes share matrices, or a node that the tree has not.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, definition 2.
    """
    return LocalComponentNorms(positive("top", top), None if nodes is None else tuple(map(int, nodes)))


@dataclass(frozen=True)
class ComponentTracker(Tracker):
    """The largest components of each group, with what identifies them and the alignments that give their rates."""

    top: int
    consecutive = True

    @abstractmethod
    def groups(self, network: Factorization) -> dict[str, dict[str, Any]]:
        """Order, node and modes of each group, and the components of each run."""

    def rates(self, moment: Moment) -> dict[str, ComponentRates]:
        """All components of the groups, and perhaps of others."""
        return component_rates(moment.network)

    def describe(self, network: Factorization) -> dict[str, Any]:
        """`top`, and for each group the order of its components, its node and modes, and how many each run has."""
        return {"top": self.top, "groups": self.groups(network)}

    def measure(self, moment: Moment) -> dict[str, Tensor]:
        """Values, alignments and indices of each group, (runs, k)."""
        rates = self.rates(moment)
        found: dict[str, Tensor] = {}
        for group in self.groups(moment.network):
            found |= {f"{group}/{name}": tensor for name, tensor in largest(rates[group], self.top).items()}
        return found


class SingularValues(ComponentTracker):
    """See `singular_values`."""

    name = "singular_values"

    def groups(self, network: Factorization) -> dict[str, dict[str, Any]]:
        if not isinstance(network, MatrixFactorization):
            raise wrong_network(self.name, network, "MatrixFactorization")
        count = min(*network.dims, *network.widths)
        about = {"order": network.depth, "node": None, "modes": [0, 1], "components": [count] * network.runs}
        return {END: about}

    def rates(self, moment: Moment) -> dict[str, ComponentRates]:
        return component_rates(moment.network, moment.end_gradient())


class ComponentNorms(ComponentTracker):
    """See `component_norms`."""

    name = "component_norms"

    def groups(self, network: Factorization) -> dict[str, dict[str, Any]]:
        if not isinstance(network, CPNetwork):
            raise wrong_network(self.name, network, "CPNetwork")
        return {COMPONENTS: _about_components(network)}


@dataclass(frozen=True)
class LocalComponentNorms(ComponentTracker):
    """See `local_component_norms`."""

    name = "local_component_norms"
    nodes: tuple[int, ...] | None = None

    def groups(self, network: Factorization) -> dict[str, dict[str, Any]]:
        if not isinstance(network, HTNetwork | CPNetwork):
            raise wrong_network(self.name, network, "HTNetwork or CPNetwork")
        tree = network.tree
        nodes = tree.inner_nodes if self.nodes is None else self.nodes
        check_nodes(nodes, tree.inner_nodes, "inner nodes")
        if isinstance(network, CPNetwork):
            return {component_name(node): _about_components(network) for node in nodes}
        check_unshared(network)
        widths = network.widths
        return {component_name(node): _about_node(tree, node, [each[node] for each in widths]) for node in nodes}

    def rates(self, moment: Moment) -> dict[str, ComponentRates]:
        rates = component_rates(moment.network)
        if isinstance(moment.network, CPNetwork):
            return {component_name(moment.network.tree.root): rates[COMPONENTS]}
        return rates


def largest(rates: ComponentRates, top: int) -> dict[str, Tensor]:
    """The largest components of each run, falling: values, indices and alignments, (runs, k)."""
    width = rates.values.shape[1]
    there = torch.arange(width, device=rates.values.device) < rates.counts[:, None]
    # What a run has not comes behind what it has at norm 0.
    order = rates.values.masked_fill(~there, -1.0).argsort(dim=1, descending=True, stable=True)[:, : min(top, width)]
    return {
        "values": rates.values.gather(1, order),
        "indices": order.masked_fill(~there.gather(1, order), -1),
        "alignments": rates.alignments.gather(1, order),
    }


def wrong_network(tracker: str, network: Factorization, expected: str) -> TypeError:
    """The error for a network of a kind that a tracker is not for."""
    return TypeError(f"{tracker} are tracked for {expected}; the network is a {type(network).__name__}")


def check_nodes(nodes: Sequence[int], known: range, what: str) -> None:
    """A ValueError for nodes that are not among the known ones."""
    for node in nodes:
        if node not in known:
            raise ValueError(f"nodes holds {node!r}; the tree has the {what} {known[0]} to {known[-1]}")


def _about_components(network: CPNetwork) -> dict[str, Any]:
    about = _about_node(network.tree, network.tree.root, list(network.ranks))
    return {**about, "order": component_order(network)}


def _about_node(tree: DimensionTree, node: int, counts: list[int]) -> dict[str, Any]:
    order = len(tree.children(node)) + 1
    return {"order": order, "node": node, "modes": list(tree.modes(node)), "components": counts}
