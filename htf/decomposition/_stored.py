"""Hierarchical Tucker decomposition of arrays on disk, of which one block at a time is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from htf.decomposition._projection import SeriesTree
from htf.decomposition.stream import HTStream
from htf.linalg.backend import Array, adjoint, backend_of, check_floating
from htf.linalg.dense import kept
from htf.linalg.stored import blocks, natural_axis
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rounding import spectra_count
from htf.tree import DimensionTree


def decompose_stored(array: Array, tree: DimensionTree, limit: Sequence[int | None], tol: float | None) -> HTTensor:
    """The decomposition of a stored array of at least two modes: read once for a tolerance, level by level for ranks.

    For ranks the Gramians of the matricizations are summed up over the blocks, in double precision, so that the ranks
    are those of the whole array; singular values below 1e-8 of the largest are lost in them.
    """
    axis = natural_axis(array)
    if tol is not None and all(rank is None for rank in limit):
        stream = HTStream(tol=tol, axis=axis, tree=tree)
        for block in blocks(array, axis):
            stream.update(block)
        return stream.tensor
    return _from_gramians(array, SeriesTree(tree, axis), tree, limit, tol)


def _from_gramians(
    array: Array, series: SeriesTree, tree: DimensionTree, limit: Sequence[int | None], tol: float | None
) -> HTTensor:
    turned = series.tree
    # Half of the tolerance, as the error of rounding at the end adds to that of these projections.
    share = 0.0 if tol is None else tol / 2 / math.sqrt(spectra_count(turned, 1))
    frames: dict[int, Array] = {}
    norm: float | None = None
    for height in range(turned.level(series.top) + 1):
        gramians, lengths, found = _gramians(array, series, frames, height)
        norm = found if norm is None else norm
        for node, gramian in gramians.items():
            values, vectors = np.linalg.eigh(gramian)
            # A node of the turned tree stands for one of the other, or for its complement.
            cap = _cap(tree, turned, node, limit)
            count = kept(np.sqrt(np.maximum(values[::-1], 0.0)), cap, share * norm)
            frames[node] = vectors[:, ::-1][:, :count].reshape(*lengths[node], count)
    B = backend_of(next(iter(frames.values())))
    rows = [
        series.project(B, block, lambda node, matrix, _: (frames[node].reshape(matrix.shape[0], -1), None))
        for block in _double_blocks(array, series.axis)
    ]
    x = series.assembled(B, frames, np.concatenate(rows)).change_tree(tree)
    given = {node: rank for node, rank in enumerate(limit) if rank is not None}
    return x.round(rank=given, tol=None if tol is None else tol / 2)


def _gramians(
    array: Array, series: SeriesTree, frames: Mapping[int, Array], height: int
) -> tuple[dict[int, Array], dict[int, tuple[int, ...]], float]:
    """Gramians of the nodes of a level over all blocks, the lengths of the axes that they join, and the norm before."""
    gramians: dict[int, Array] = {}
    lengths: dict[int, tuple[int, ...]] = {}
    squares = 0.0

    def frame(node: int, matrix: Array, below: tuple[int, ...]) -> tuple[Array, None] | None:
        if node in frames:
            return frames[node].reshape(matrix.shape[0], -1), None
        gramian = matrix @ adjoint(matrix)
        gramians[node] = gramians[node] + gramian if node in gramians else gramian
        lengths[node] = below
        return None

    for block in _double_blocks(array, series.axis):
        squares += float(np.vdot(block, block).real)
        series.project(backend_of(block), block, frame, height)
    return gramians, lengths, math.sqrt(squares)


def _double_blocks(array: Array, axis: int) -> Iterator[Array]:
    for block in blocks(array, axis):
        check_floating(block[:0], "tensor")
        if not np.isfinite(block).all():
            raise ValueError("tensor has NaN or infinite entries")
        yield block.astype(np.complex128 if np.iscomplexobj(block) else np.float64)


def _cap(tree: DimensionTree, turned: DimensionTree, node: int, limit: Sequence[int | None]) -> int | None:
    rows, columns = turned.matricization(node)
    same = tree.find(rows)
    if same is None or same == tree.root:
        same = tree.find(columns)
    return limit[same] if same is not None else None
