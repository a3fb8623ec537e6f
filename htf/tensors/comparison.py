"""Distance of an HT tensor from an array, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from htf.linalg.backend import Array, all_finite, asarray, backend_of, check_floating, constant, to_numpy
from htf.linalg.scaling import frobenius
from htf.linalg.stored import BLOCK, blocks, check_stored, is_stored, natural_axis
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht


def ht_relative_error(ht_tensor: HTTensor | RawHT, array: Array) -> float:
    """Error of an HT tensor relative to the Frobenius norm of the array that it stands for.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    array : array
        Of the tensor's shape, in memory; where backend, dtype or device are not the tensor's, both are compared in
        double precision on the host.  Or on disk or in chunks (a memory-mapped file, a
        zarr or dask array, an HDF5 data set), which are read block by block.  Integers are compared as float64.

    Returns
    -------
    float
        Zero for two zero tensors, infinite if the array alone is zero.

    Raises
    ------
    ValueError, TypeError
        For another shape, no numbers, NaN or infinite entries, and zarr arrays that miss chunks.

    See Also
    --------
    htf.tensors.ht_distance : of two HT tensors.
    htf.hierarchical_tucker : decomposes the array.

    Notes
    -----
    Neither the dense tensor nor a stored array is ever in memory as a whole: blocks of 32 MiB are compared one after
    the other, along the axis with most chunks, or the first.

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = 1 / (1.0 + np.add.outer(np.arange(8.0), np.add.outer(np.arange(8.0), np.arange(8.0))))
    >>> htf.hierarchical_tucker(dense, tol=1e-3).relative_error(dense) < 1e-3
    True
    """
    x = as_ht(ht_tensor)
    shape = check_stored(array, "array") if is_stored(array) else tuple(int(n) for n in getattr(array, "shape", ()))
    if not is_stored(array):
        _, array = check_floating(array, "array")
        x, array = _alike(x, array)
    if shape != x.shape:
        raise ValueError(f"array has shape {shape}; expected {x.shape}, as of the tensor")
    error = norm = 0.0
    for start, part, block in _pairs(x, array):
        B = backend_of(block)
        if not all_finite(B, block):
            raise ValueError(f"array has NaN or infinite entries, in the block from index {start} on")
        norm = math.hypot(norm, float(constant(frobenius(B, block))))
        error = math.hypot(error, float(constant(frobenius(B, part.to_tensor() - block))))
    return error / norm if norm > 0 else (math.inf if error > 0 else 0.0)


def _alike(x: HTTensor, array: Array) -> tuple[HTTensor, Array]:
    """Both as they are, or, where backend, dtype or device differ, in double precision on the host."""
    like = x.factors[0]
    same = backend_of(like).backend_name == backend_of(array).backend_name and like.dtype == array.dtype
    if same and getattr(like, "device", None) == getattr(array, "device", None):
        return x, array
    factors = [to_numpy(factor) for factor in x.factors]
    return HTTensor._of(x.tree, [_in_doubles(factor) for factor in factors]), _in_doubles(to_numpy(array))


def _in_doubles(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _pairs(x: HTTensor, array: Array) -> Iterator[tuple[int, HTTensor, Array]]:
    """Where a block starts, the part of the tensor that belongs to it, and the block beside the tensor's factors."""
    like = x.factors[0]
    if is_stored(array):
        axis = natural_axis(array)
        found = _beside(array, axis, like)
    else:
        axis, step = 0, max(1, BLOCK // 8 * x.shape[0] // math.prod(x.shape))
        found = (array[start : start + step] for start in range(0, x.shape[0], step))
    start = 0
    for block in found:
        length = int(block.shape[axis])
        factors = list(x.factors)
        if axis == x.order:
            factors[-1] = factors[-1][..., start : start + length]
        else:
            factors[axis] = factors[axis][start : start + length]
        yield start, HTTensor._of(x.tree, factors), block
        start += length


def _beside(array: Array, axis: int, like: Array) -> Iterator[Array]:
    """Blocks of a stored array, of the backend of `like`."""
    B = backend_of(like)
    for block in blocks(array, axis):
        _, block = check_floating(block, "array")
        yield block if B.backend_name == "numpy" else asarray(B, block, like)
