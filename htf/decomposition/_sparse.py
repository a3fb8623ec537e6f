"""Hierarchical Tucker decomposition of a sparse tensor from random sketches, which reads its entries alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch

from htf._random import check_random_state
from htf.linalg.backend import Array
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import rank_bounds
from htf.tree import DimensionTree

# Outer products of rows that are formed at a time.
_CHUNK = 2**14


def is_sparse(array: Any) -> bool:
    """Whether an array is a sparse one of SciPy's or PyTorch's."""
    return scipy.sparse.issparse(array) or (isinstance(array, torch.Tensor) and array.layout in _LAYOUTS)


_LAYOUTS = {torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}


def decompose_sparse(
    array: Array,
    tree: DimensionTree,
    limit: Sequence[int | None],
    tol: float | None,
    oversampling: int,
    power_iterations: int,
    random_state: Any,
) -> HTTensor:
    r"""The decomposition of a sparse array, in memory for its entries and the factors.

    The frame of node t spans the range of a sketch within its children's frames, by randomized subspace iteration
    (Halko, Martinsson & Tropp 2011) on the matricization of t, whose rows and columns are numbered by the index tuples
    that entries have.  All frames are nested, so that the square of the error is what the square of the norm has lost;
    sketches are doubled until that is within the tolerance.  With nnz entries, order N and sketches of k columns:
    O(N nnz k³) on binary trees.
    """
    entries = _entries(array)
    norm = float(np.linalg.norm(entries.values))
    bounds = rank_bounds(tree, entries.dims)
    highest = max(bounds)
    columns = max((rank for rank in limit if rank is not None), default=8) + oversampling
    rng = check_random_state(random_state)
    while True:
        widths = [min(columns, bound) for bound in bounds]
        factors, whole = _sketched(entries, tree, widths, power_iterations, rng)
        lost = 0.0
        if norm > 0 and not whole:
            lost = max(1.0 - (float(np.linalg.norm(factors[-1])) / norm) ** 2, 0.0)
        # Norms tell an error only above the root of their rounding errors.
        close = whole or tol is None or (tol > 1e-6 and lost <= (0.5 * tol) ** 2)
        # Where ranks are limited, the error is theirs; twice the columns would change little.
        if close or columns >= highest or any(rank is not None for rank in limit):
            break
        columns *= 2
    # Errors of projection and of rounding within the range of it are orthogonal.
    rest = None if tol is None else math.sqrt(max(tol**2 - lost, 0.0))
    ranks = {node: rank for node, rank in enumerate(limit) if rank is not None}
    x = HTTensor._of(tree, factors).round(rank=ranks, tol=rest or None)
    return HTTensor._of(tree, [_like(factor, array) for factor in x.factors])


@dataclass(frozen=True)
class Entries:
    """Indices of the entries per mode, values in double precision, duplicates summed up, and the dimensions."""

    indices: list[np.ndarray]
    values: np.ndarray
    dims: tuple[int, ...]


def _entries(array: Array) -> Entries:
    dims = tuple(int(n) for n in array.shape)
    if isinstance(array, torch.Tensor):
        if array.requires_grad:
            raise ValueError("tensor is sparse and records gradients, which its decomposition would lose; detach() it")
        coo = array.to_sparse_coo().coalesce().cpu()
        if coo.dense_dim():
            raise TypeError(f"tensor is sparse with {coo.dense_dim()} dense axes; expected only sparse ones")
        indices, values = list(coo.indices().numpy()), coo.values().numpy()
    else:
        coo = array.tocoo(copy=True)
        coo.sum_duplicates()
        indices, values = [np.asarray(i) for i in getattr(coo, "coords", (coo.row, coo.col))], coo.data
    if values.dtype.kind not in "fiu" or values.dtype == np.float16:
        raise TypeError(f"tensor is sparse of dtype {values.dtype}; expected float32, float64 or integers")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("tensor has NaN or infinite entries")
    return Entries([index.astype(np.int64) for index in indices], values, dims)


def _sketched(
    entries: Entries, tree: DimensionTree, widths: list[int], power_iterations: int, rng: Any
) -> tuple[list[np.ndarray], bool]:
    """Factors with nested orthonormal frames, and whether the sketches had columns to spare everywhere."""
    values, whole = entries.values, True
    factors: list[np.ndarray] = []
    # Per node that has no parent yet: the number of its index tuple for every entry, and the frame's rows for them.
    tuples: dict[int, np.ndarray] = {}
    rows: dict[int, np.ndarray] = {}
    for node in range(tree.root):
        parts = tree.children(node)
        if parts:
            numbers, own = _joined([tuples[child] for child in parts])
            below = [rows[child][number] for child, number in zip(parts, own, strict=True)]
            lengths = tuple(part.shape[1] for part in below)
        else:
            numbers, below, lengths = entries.indices[node], [], (entries.dims[node],)
        others = [entries.indices[mode] for mode in range(tree.order) if mode not in tree.modes(node)]
        columns, _ = _joined(others)
        count = len(below[0]) if parts else lengths[0]
        matrix = scipy.sparse.csr_array((values, (numbers, columns)), (count, int(columns.max(initial=0)) + 1))
        Q = rng.standard_normal((matrix.shape[1], widths[node]))
        for _ in range(power_iterations):
            Q = matrix.T @ _times(below, np.linalg.qr(_adjoint_times(below, matrix @ Q))[0])
        Q, R = np.linalg.qr(_adjoint_times(below, matrix @ Q))
        sizes = np.linalg.svd(R, compute_uv=False)
        whole = whole and (len(Q) <= widths[node] or float(sizes[-1]) <= 1e-13 * float(sizes[0]))
        tuples[node], rows[node] = numbers, _times(below, Q)
        factors.append(Q.reshape(*lengths, -1))
        for child in parts:
            del tuples[child], rows[child]
    top = tree.children(tree.root)
    numbers, own = _joined([tuples[child] for child in top])
    below = [rows[child][number] for child, number in zip(top, own, strict=True)]
    sums = np.bincount(numbers, values, len(below[0]))
    core = _adjoint_times(below, sums[:, None])
    return [*factors, core.reshape(*(part.shape[1] for part in below), 1)], whole


def _joined(numbers: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Number the distinct tuples of some numbers per entry: the tuple's for each entry, and each tuple's numbers."""
    joint = numbers[0]
    for other in numbers[1:]:
        # Renumbered at every step, products stay within integers.
        _, joint = np.unique(joint, return_inverse=True)
        joint = joint * (int(other.max(initial=0)) + 1) + other
    _, first, joint = np.unique(joint, return_index=True, return_inverse=True)
    return joint, [number[first] for number in numbers]


def _adjoint_times(below: list[np.ndarray], right: np.ndarray) -> np.ndarray:
    """The outer products of rows below, (tuples, product of ranks), transposed times (tuples, k); without any, it."""
    if not below:
        return right
    total = np.zeros((math.prod(part.shape[1] for part in below), right.shape[1]))
    for start in range(0, len(right), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        total += _outer([part[chunk] for part in below]).T @ right[chunk]
    return total


def _times(below: list[np.ndarray], right: np.ndarray) -> np.ndarray:
    """The outer products of rows below, (tuples, product of ranks), times (product of ranks, k); without any, it."""
    if not below:
        return right
    starts = range(0, len(below[0]), _CHUNK)
    return np.concatenate([_outer([part[s : s + _CHUNK] for part in below]) @ right for s in starts])


def _outer(rows: list[np.ndarray]) -> np.ndarray:
    """Outer products of rows, (entries, product of ranks)."""
    found = rows[0]
    for row in rows[1:]:
        found = (found[:, :, None] * row[:, None, :]).reshape(len(row), -1)
    return found


def _like(factor: np.ndarray, array: Array) -> Array:
    """A factor of the kind and dtype of the sparse array; float64 for integers."""
    if isinstance(array, torch.Tensor):
        dtype = array.dtype if array.dtype.is_floating_point else torch.float64
        return torch.tensor(factor, dtype=dtype, device=array.device)
    return factor.astype(array.dtype if array.dtype.kind == "f" else np.float64)
