"""Projection of a block, whose last axis is the series', on the frames of a tree over the other axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from htf.linalg.backend import Array, Backend, conj, eye
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.random import random_ht
from htf.tensors.retree import ht_move_root
from htf.tree import DimensionTree


class SeriesTree:
    """A tree turned so that its root joins one mode, the series', with all others.

    No node below the root but the series' leaf then joins that mode, so that frames of nodes say nothing about how long
    the series is, and blocks of it can be projected one after the other.

    Parameters
    ----------
    tree : DimensionTree
        Of at least two modes.
    axis : int
        Mode of the series.
    """

    def __init__(self, tree: DimensionTree, axis: int) -> None:
        self.axis = axis
        turned = ht_move_root(random_ht((1,) * tree.order, 1, tree, random_state=0), axis).tree
        self.tree = turned
        self.top = next(child for child in turned.children(turned.root) if child != axis)
        # Nodes with a frame, children before their parents.
        self.nodes = [node for level in turned.levels for node in level if node not in (axis, turned.root)]
        self.leaves = [mode for mode in turned.modes(turned.root) if mode != axis]

    def project(
        self,
        B: Backend,
        block: Array,
        frame: Callable[[int, Array, tuple[int, ...]], tuple[Array, Array | None] | None],
        height: int | None = None,
    ) -> Array:
        """Coefficients of a block in the frame of the top node, (length of the block, rank).

        Parameters
        ----------
        block : array
            Axes in the order of the modes.
        frame : callable
            Called as ``frame(node, matrix, below)``, with the matricization of what is left of the block and the
            lengths of the axes that the node joins; returns the frame, (product of these, rank), and its adjoint times
            the matrix where that is known, or None to leave these axes as they are.
        height : int, optional
            Level of the tree to stop above, where frames are not known yet; of the root by default.
        """
        axes = [*self.leaves, self.axis]
        tensor = B.transpose(block, tuple(axes))
        for level in self.tree.levels[: None if height is None else height + 1]:
            here = [node for node in level if node in self.nodes]
            for node in sorted(here, key=lambda n: axes.index((*self.tree.children(n), n)[0])):
                parts = self.tree.children(node) or (node,)
                tensor, axes = to_front(B, tensor, axes, parts)
                below, rest = tuple(tensor.shape[: len(parts)]), tuple(tensor.shape[len(parts) :])
                matrix = B.reshape(tensor, (prod(below), -1))
                found = frame(node, matrix, below)
                if found is not None:
                    U, inside = found
                    inside = B.matmul(matrix.T, conj(U)) if inside is None else inside.T
                    tensor = B.reshape(inside, (*rest, U.shape[1]))
                    axes = [*axes[len(parts) :], node]
        return tensor

    def assembled(self, B: Backend, frames: Mapping[int, Array], series: Array) -> HTTensor:
        """The tensor with these frames, (lengths or ranks below, rank), and coefficients (length of series, rank)."""
        rank = int(series.shape[1])
        factors = [series if node == self.axis else frames[node] for node in range(self.tree.root)]
        return HTTensor._of(self.tree, [*factors, B.reshape(eye(B, rank, series), (rank, rank, 1))])


def to_front(B: Backend, tensor: Array, axes: list[int], nodes: Sequence[int]) -> tuple[Array, list[int]]:
    """Axes rotated, or where that is not enough permuted, so that `nodes` come first in their order."""
    start = axes.index(nodes[0])
    rotated = axes[start:] + axes[:start]
    if rotated[: len(nodes)] != list(nodes):
        rotated = [*nodes, *(axis for axis in axes if axis not in nodes)]
    if rotated == axes:
        return tensor, axes
    return B.transpose(tensor, tuple(axes.index(axis) for axis in rotated)), rotated
