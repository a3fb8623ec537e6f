"""A tracker of effective ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf.dynamics.end_tensors import check_written_out, is_small, written_out
from htf.dynamics.trackers import check_factorization, check_nodes
from htf.nn import Factorization
from htf.nn.networks.components import node_group
from htf.nn.networks.matrix import END
from htf.ranks import effective_rank, spectra
from htf.ranks.spectrum import effective_ranks_of
from htf.tensors.convac import convac_to_ht
from htf.training.tracking import Moment, Tracker
from htf.tree import DimensionTree


def effective_ranks(nodes: Sequence[int] | None = None, tree: DimensionTree | None = None) -> Tracker:
    """Track effective ranks: of the end matrices, or of matricizations at the nodes of a tree against the rest.

    The effective rank is the exponential of the entropy of the normalized singular values, see
    `htf.ranks.effective_rank`.

    Parameters
    ----------
    nodes : sequence of int, optional
        Nodes of the tree but the root; all by default.  Not for matrices.
    tree : DimensionTree, optional
        For a CPNetwork, or another factorization whose tree has the single modes only.

    Returns
    -------
    Tracker
        "effective_ranks", which records (runs,) float64 under "end matrix", or under "node 4" and so on for each node.

    Raises
    ------
    TypeError, ValueError
        At the start of a fit, for a node that the tree has not, a tree of another number of modes, nodes or a tree for
        a network that takes none, or a large tensor of a factorization that is on no tree.

    See Also
    --------
    htf.dynamics.norms : norms.
    htf.ranks.effective_rank : of singular values.
    htf.dynamics.singular_values : the singular values themselves.

    Notes
    -----
    Tensors of at most 2¹⁴ entries are written out for all runs at once in float64, larger ones go through
    `htf.ranks.spectra` run by run, which never forms them; a factorization on no tree has only the first way.

    References
    ----------
    .. [1] O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, init="identity", seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.05, steps=125, track=htf.dynamics.effective_ranks())
    >>> ranks = history["effective_ranks"]["end matrix"][:, 0]
    >>> round(ranks[0].item()), round(ranks[-1].item())
    (8, 1)
    """
    return EffectiveRanks(None if nodes is None else tuple(nodes), tree)


@dataclass(frozen=True)
class EffectiveRanks(Tracker):
    """See `effective_ranks`."""

    nodes: tuple[int, ...] | None = None
    tree: DimensionTree | None = None
    name = "effective_ranks"

    def describe(self, network: Factorization) -> dict[str, Any]:
        check_factorization(self.name, network)
        if network.has_end_matrices:
            if self.nodes is not None or self.tree is not None:
                given, found = "nodes" if self.nodes is not None else "tree", type(network).__name__
                raise TypeError(f"{given} is given; the network is a {found}, which has one effective rank")
            return {"groups": {END: {"node": None, "modes": [0, 1]}}}
        tree = self._tree(network)
        if tree.order != network.order:
            raise ValueError(f"tree has {tree.order} modes; the network has {network.order}")
        if network.tree is None:
            check_written_out(self.name, network)
        else:
            # Refuses a tree that the factorization is not on.
            network.node_matrices(0, tree)
        check_nodes(self._nodes(tree), range(tree.root), "nodes below the root,")
        groups = {node_group(node): {"node": node, "modes": list(tree.modes(node))} for node in self._nodes(tree)}
        return {"groups": groups}

    @torch.no_grad()
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        network = moment.network
        if network.has_end_matrices:
            return {END: effective_ranks_of(network.singular_values().double())}
        tree = self._tree(network)
        nodes = self._nodes(tree)
        ranks = (_dense if is_small(network) else _factored)(network, tree, nodes)
        return {node_group(node): rank for node, rank in zip(nodes, ranks, strict=True)}

    def _nodes(self, tree: DimensionTree) -> tuple[int, ...]:
        return tuple(tree.edges) if self.nodes is None else self.nodes

    def _tree(self, network: Factorization) -> DimensionTree:
        if self.tree is not None:
            return self.tree
        return DimensionTree.balanced(network.order, arity=network.order) if network.tree is None else network.tree


def _dense(network: Factorization, tree: DimensionTree, nodes: Sequence[int]) -> list[Tensor]:
    values = written_out(network)
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


def _factored(network: Factorization, tree: DimensionTree, nodes: Sequence[int]) -> list[Tensor]:
    by_run = []
    for run in range(network.runs):
        on_own = tree == network.tree
        values = spectra(network, run) if on_own else spectra(convac_to_ht(tree, network.node_matrices(run, tree)))
        by_run.append(torch.stack([effective_rank(values[node]) for node in nodes]))
    return list(torch.stack(by_run, 1))
