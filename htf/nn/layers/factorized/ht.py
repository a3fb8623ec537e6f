"""Hierarchical Tucker format."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Labels
from htf.nn.layers.factorized._stages import IN, OUT, Chain, Stage
from htf.tree import DimensionTree


@dataclass(frozen=True)
class HTFormat(Format):
    """Leaf frames and transfer tensors on a tree, in the order of its nodes; the rank is per node, 1 at the root.

    Parameters
    ----------
    dims : tuple of int
    tree : DimensionTree
    """

    tree: DimensionTree

    name: ClassVar[str] = "ht"

    @cached_property
    def labels(self) -> tuple[Labels, ...]:
        """As the axes of `HTTensor.factors`."""
        nodes = range(self.tree.n_nodes)
        parts = [tuple(self.order + child for child in self.tree.children(node)) or (node,) for node in nodes]
        return tuple((*part, self.order + node) for node, part in enumerate(parts))

    @cached_property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """The modes below each node; none for the root."""
        return *(self.tree.modes(node) for node in range(self.tree.root)), ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        """1×1, all other factors as a convolution between few channels, 1×1."""
        before, after = self.order + IN, self.order + OUT
        rest = tuple(node for node in range(self.tree.n_nodes) if node not in (IN, OUT))
        return ((Stage((IN,), before, IN), Stage(rest, after, before, True, True), Stage((OUT,), OUT, after)),)

    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        factors: list[Tensor] = hierarchical_tucker(tensor, rank=rank, tree=self.tree).factors
        return factors


def paired_tree(tensorized_shape: Sequence[int | Sequence[int]]) -> DimensionTree:
    """The default tree of a tensorized matrix: out_i with in_i, the pairs balanced, batch modes at the root.

    Matrices that are Kronecker products, or short sums of them, have low ranks on it, as in the block tensor train.  A
    tree with all of out against all of in would have the rank of the matrix at its root.

    Parameters
    ----------
    tensorized_shape : sequence of int or of sequences of int
        ((out_1, ..., out_k), (in_1, ..., in_k)); an integer is a batch mode.

    Returns
    -------
    DimensionTree
        Over the modes (out, in), batch modes in front.

    See Also
    --------
    htf.nn.FactorizedLinear : its default tree for the format "ht".
    htf.DimensionTree : other trees.

    References
    ----------
    .. [1] A. Novikov et al., "Tensorizing neural networks", NeurIPS 2015.

    Examples
    --------
    >>> from htf.nn.layers.factorized.ht import paired_tree  # also htf.tltorch.paired_tree
    >>> paired_tree(((4, 4, 8), (7, 8, 14))).nested
    (((0, 3), (1, 4)), (2, 5))
    """
    batch: list[Any] = []
    groups: list[list[int]] = []
    start = 0
    for shape in tensorized_shape:
        if isinstance(shape, int):
            batch.append(start)
            start += 1
        else:
            groups.append(list(range(start, start + len(shape))))
            start += len(shape)
    nodes: list[Any] = [pair if len(pair) > 1 else pair[0] for pair in pairs(groups)]
    while len(nodes) > 1:
        nodes = [tuple(nodes[k : k + 2]) if k + 1 < len(nodes) else nodes[k] for k in range(0, len(nodes), 2)]
    tops = batch + nodes
    return DimensionTree.from_nested(tuple(tops) if len(tops) > 1 else tops[0])


def pairs(groups: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The i-th modes of all groups together; the longer ones' last modes are alone."""
    joined = itertools.zip_longest(*groups)
    return [tuple(mode for mode in modes if mode is not None) for modes in joined]
