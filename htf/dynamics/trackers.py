"""Trackers of components, with which rates and phases of learning are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf._checks import positive
from htf.dynamics.components import component_rates
from htf.nn import ComponentGroup, ComponentRates, Factorization
from htf.nn.networks.components import node_group
from htf.training.tracking import Moment, Tracker

# The library's own factorizations that each tracker is for, as errors name them.
TRACKED_FOR = {
    "singular_values": "MatrixFactorization",
    "component_norms": "CPNetwork",
    "local_component_norms": "HTNetwork or CPNetwork",
}


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
        At the start of a fit, for another network; see `Factorization.component_kinds`.

    See Also
    --------
    htf.dynamics.component_norms, htf.dynamics.local_component_norms : of tensors.
    htf.dynamics.phases, htf.dynamics.compare_rates : what can be told from the record.

    Notes
    -----
    An SVD of every run's end matrix in float64, at two steps in succession, so that rates can be compared with theory.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, init="balanced", runs=3, seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.05, steps=100, track=htf.dynamics.singular_values(top=4))
    >>> values = history["singular_values"]["end matrix/values"]
    >>> values.shape, bool((values[-1, :, 1] < 0.01 * values[-1, :, 0]).all())  # moments, runs, values: one rises
    (torch.Size([9, 3, 4]), True)
    """
    return ComponentTracker("singular_values", positive("top", top))


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
        At the start of a fit, for another network; see `Factorization.component_kinds`.

    See Also
    --------
    htf.dynamics.singular_values, htf.dynamics.local_component_norms : of matrices and trees.
    htf.dynamics.phases, htf.dynamics.compare_rates : what can be told from the record.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=1, observed=150, norm=15)
    >>> net = htf.nn.CPNetwork((6, 6, 6), rank=8, init=htf.nn.init.gaussian(0.01), seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.03, steps=200, track=htf.dynamics.component_norms(top=3))
    >>> values = history["component_norms"]["components/values"]
    >>> values.shape, bool(values[-1, 0, 1] < 0.05 * values[-1, 0, 0])  # moments, runs, components: one rises
    (torch.Size([17, 1, 3]), True)
    """
    return ComponentTracker("component_norms", positive("top", top))


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

    See Also
    --------
    htf.dynamics.singular_values, htf.dynamics.component_norms : of matrices and CP.
    htf.dynamics.phases, htf.dynamics.compare_rates : what can be told from the record.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, definition 2.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((4, 4, 4, 4), "ht", rank=1, observed=150, norm=16)
    >>> net = htf.nn.HTNetwork(problem.tree, 4, 6, init=htf.nn.init.gaussian(0.1), seed=0)
    >>> history = htf.training.fit(net, problem, steps=50, track=htf.dynamics.local_component_norms(top=3, nodes=[6]))
    >>> history["local_component_norms"]["node 6/values"].shape  # moments, runs, components
    torch.Size([5, 1, 3])
    """
    chosen = None if nodes is None else tuple(map(int, nodes))
    return ComponentTracker("local_component_norms", positive("top", top), chosen)


@dataclass(frozen=True)
class ComponentTracker(Tracker):
    """The largest components of each group, with what identifies them and the alignments that give their rates.

    Attributes
    ----------
    name : str
        One of the `component_kinds` of the factorizations that it can record.
    top : int
        How many of each group.
    nodes : tuple of int, optional
        Nodes of the tree whose groups are recorded; all by default.
    """

    name: str
    top: int
    nodes: tuple[int, ...] | None = None
    consecutive = True

    def describe(self, network: Factorization) -> dict[str, Any]:
        """`top`, and for each group the order of its components, its node and modes, and how many each run has."""
        groups = {self._called(group, own): own.describe() for group, own in self._groups(network).items()}
        return {"top": self.top, "groups": groups}

    def measure(self, moment: Moment) -> dict[str, Tensor]:
        """Values, alignments and indices of each group, (runs, k)."""
        groups = self._groups(moment.network)
        rates = component_rates(moment.network, moment.end_gradient() if self.name == "singular_values" else None)
        if not groups.keys() <= rates.keys():
            kind = type(moment.network).__name__
            raise ValueError(f"component_rates of {kind} gave {list(rates)}; component_groups has {list(groups)}")
        return {
            f"{self._called(group, own)}/{name}": tensor
            for group, own in groups.items()
            for name, tensor in largest(rates[group], self.top).items()
        }

    def _groups(self, network: Factorization) -> dict[str, ComponentGroup]:
        """The recorded groups by name, in their order.

        Raises
        ------
        TypeError, ValueError
            For a network without components of this kind, or without the nodes.
        """
        kinds = network.component_kinds if isinstance(network, Factorization) else ()
        if self.name not in kinds:
            raise wrong_network(self.name, network, TRACKED_FOR[self.name])
        groups = network.component_groups()
        if self.nodes is None:
            return groups
        at = {own.node: name for name, own in groups.items() if own.node is not None}
        if not at:
            raise TypeError(f"nodes is given; the components of a {type(network).__name__} are not at nodes of a tree")
        check_nodes(self.nodes, list(at), "inner nodes")
        return {at[node]: groups[at[node]] for node in self.nodes}

    def _called(self, name: str, group: ComponentGroup) -> str:
        """The name of a group in the record: by its node, if it is recorded as that of a node."""
        if self.name == "local_component_norms" and group.node is not None:
            return node_group(group.node)
        return name


def largest(rates: ComponentRates, top: int) -> dict[str, Tensor]:
    """The largest components of each run, falling: values, indices and alignments, (runs, k)."""
    width = rates.values.shape[1]
    there = torch.arange(width, device=rates.values.device) < rates.counts[:, None]
    # Components that a run does not have come behind those of norm 0.
    order = rates.values.masked_fill(~there, -1.0).argsort(dim=1, descending=True, stable=True)[:, : min(top, width)]
    return {
        "values": rates.values.gather(1, order),
        "indices": order.masked_fill(~there.gather(1, order), -1),
        "alignments": rates.alignments.gather(1, order),
    }


def wrong_network(tracker: str, network: object, expected: str) -> TypeError:
    """The error for a network of a kind that a tracker is not for."""
    found = type(network).__name__
    if isinstance(network, Factorization):
        found += f", whose components are recorded by {' or '.join(network.component_kinds) or 'none of the trackers'}"
    return TypeError(f"{tracker} are tracked for {expected}; the network is a {found}")


def check_factorization(tracker: str, network: object) -> None:
    """Raise a TypeError for a model that is no factorization, of which nothing can be tracked."""
    if not isinstance(network, Factorization):
        raise wrong_network(tracker, network, "MatrixFactorization, CPNetwork, HTNetwork or another Factorization")


def check_nodes(nodes: Sequence[int], known: Sequence[int], what: str) -> None:
    """Raise a ValueError for nodes that are not among the known ones."""
    for node in nodes:
        if node not in known:
            raise ValueError(f"nodes holds {node!r}; the tree has the {what} {known[0]} to {known[-1]}")
