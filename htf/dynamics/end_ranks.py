"""A tracker of effective ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf.dynamics.components import END, component_name
from htf.dynamics.trackers import check_nodes, wrong_network
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.ranks import effective_rank, spectra
from htf.ranks.spectrum import effective_ranks_of
from htf.tensors import HTTensor
from htf.tensors.convac import convac_to_ht
from htf.training.tracking import Factorization, Moment, Tracker
from htf.tree import DimensionTree

# Entries of the largest tensors that are written out: ten runs of (8, 8, 8, 8) then take 8 ms on one core, where their
# factors, taken apart run by run and node by node in small operations, take 23 ms.
_LARGEST_DENSE = 2**14


def effective_ranks(nodes: Sequence[int] | None = None, tree: DimensionTree | None = None) -> Tracker:
    """Track effective ranks: of the end matrices, or of matricizations at the nodes of a tree against the rest.

    The effective rank is the exponential of the entropy of the normalized singular values, see
    `htf.ranks.effective_rank`.

    Parameters
    ----------
    nodes : sequence of int, optional
        Nodes of the tree but the root; all by default.  Not for matrices.
    tree : DimensionTree, optional
        For a CPNetwork, whose own tree has the single modes only.

    Returns
    -------
    Tracker
        "effective_ranks", which records (runs,) float64 under "end matrix", or under "node 4" and so on for each node.

    Raises
    ------
    TypeError, ValueError
        At the start of a fit, for a node that the tree has not, a tree of another number of modes, nodes or a tree for
        a network that takes none.

    Notes
    -----
    Tensors of at most 2¹⁴ entries are written out for all runs at once in float64, larger ones go through
    `htf.ranks.spectra` run by run, which never forms them.

    References
    ----------
    .. [1] O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return EffectiveRanks(None if nodes is None else tuple(nodes), tree)


@dataclass(frozen=True)
class EffectiveRanks(Tracker):
    """See `effective_ranks`."""

    nodes: tuple[int, ...] | None = None
    tree: DimensionTree | None = None
    name = "effective_ranks"

    def describe(self, network: Factorization) -> dict[str, Any]:
        if isinstance(network, MatrixFactorization):
            if self.nodes is not None or self.tree is not None:
                what = "nodes" if self.nodes is not None else "tree"
                raise TypeError(f"{what} is given; the network is a MatrixFactorization, which has one effective rank")
            return {"groups": {END: {"node": None, "modes": [0, 1]}}}
        if not isinstance(network, CPNetwork | HTNetwork):
            raise wrong_network(self.name, network, "MatrixFactorization, CPNetwork or HTNetwork")
        tree = self._tree(network)
        check_nodes(self._nodes(tree), range(tree.root), "nodes below the root,")
        groups = {component_name(node): {"node": node, "modes": list(tree.modes(node))} for node in self._nodes(tree)}
        return {"groups": groups}

    @torch.no_grad()
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        network = moment.network
        if isinstance(network, MatrixFactorization):
            return {END: effective_ranks_of(network.singular_values().double())}
        assert isinstance(network, CPNetwork | HTNetwork)
        tree = self._tree(network)
        nodes = self._nodes(tree)
        small = math.prod((*network.dims, network.outputs)) <= _LARGEST_DENSE
        ranks = (_dense if small else _factored)(network, tree, nodes)
        return {component_name(node): rank for node, rank in zip(nodes, ranks, strict=True)}

    def _nodes(self, tree: DimensionTree) -> tuple[int, ...]:
        return tuple(tree.edges) if self.nodes is None else self.nodes

    def _tree(self, network: CPNetwork | HTNetwork) -> DimensionTree:
        if self.tree is None or self.tree == network.tree:
            return network.tree
        if isinstance(network, HTNetwork):
            raise ValueError(f"tree is {self.tree!r}; an HTNetwork is measured on its own, {network.tree!r}")
        if self.tree.order != network.order:
            raise ValueError(f"tree has {self.tree.order} modes; the network has {network.order}")
        return self.tree


def _dense(network: CPNetwork | HTNetwork, tree: DimensionTree, nodes: Sequence[int]) -> list[Tensor]:
    indices = torch.cartesian_prod(*(torch.arange(dim, device=network.device) for dim in network.dims))
    double = {name: parameter.double() for name, parameter in network.named_parameters()}
    values = torch.func.functional_call(network, double, (indices,)).view(*network.dims, network.runs, -1).cpu()
    ranks: dict[object, Tensor] = {}
    found = []
    for node in nodes:
        rows, columns = tree.matricization(node)
        # With one output the two sides of an edge at a binary root are one matrix and its transpose.
        key = frozenset((rows, columns)) if network.outputs == 1 else rows
        if key not in ranks:
            matrices = values.permute(network.order, *rows, *columns, network.order + 1)
            matrices = matrices.reshape(network.runs, math.prod(network.dims[mode] for mode in rows), -1)
            ranks[key] = effective_ranks_of(torch.linalg.svdvals(matrices))
        found.append(ranks[key])
    return found


def _factored(network: CPNetwork | HTNetwork, tree: DimensionTree, nodes: Sequence[int]) -> list[Tensor]:
    by_run = []
    for run in range(network.runs):
        values = spectra(network, run) if tree == network.tree else spectra(_on_tree(network, tree, run))
        by_run.append(torch.stack([effective_rank(values[node]) for node in nodes]))
    return list(torch.stack(by_run, 1))


def _on_tree(network: CPNetwork | HTNetwork, tree: DimensionTree, run: int) -> HTTensor:
    """The tensor of a CPNetwork in HT format: nodes hold the identity, the root adds."""
    own = network.parameters_for(run)
    rank = own[0].shape[1]
    matrices = {mode: own[mode] for mode in tree.leaves}
    matrices |= {node: torch.eye(rank, dtype=own[0].dtype, device=own[0].device) for node in tree.inner_nodes}
    matrices[tree.root] = own[network.order].T if network.outputs > 1 else own[0].new_ones(rank, 1)
    return convac_to_ht(tree, matrices)
