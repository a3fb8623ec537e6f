"""The error of an HT tensor as an approximation of an array that need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from htf.linalg.backend import to_numpy
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht

# Entries of a block that are read and written out at once: 32 MB in doubles.
_BLOCK_ENTRIES = 2**22


def ht_relative_error(ht_tensor: HTTensor | RawHT, array: Any) -> float:
    """Relative error of an HT tensor in the Frobenius norm, as an approximation of an array.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    array : array
        Of the tensor's shape: of any backend, a ``numpy.memmap``, a zarr or dask array, or whatever else has a shape
        and gives blocks when it is indexed with slices.  It is read block by block.

    Returns
    -------
    float
        Norm of the difference over that of the array; infinite for an array of zeros, unless the tensor is zero too.

    Raises
    ------
    ValueError, TypeError
        If shapes differ, `array` has none, or the array or the tensor has NaN or infinite entries.

    Notes
    -----
    Differences are taken entry by entry, so it is right down to rounding error.  Takes the time to write the tensor out
    once, and the memory of a few blocks of 4 million entries.

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = 1 / (1.0 + np.add.outer(np.arange(8.0), np.add.outer(np.arange(8.0), np.arange(8.0))))
    >>> htf.hierarchical_tucker(dense, tol=1e-3).relative_error(dense) < 1e-3
    True
    """
    x = as_ht(ht_tensor)
    shape = getattr(array, "shape", None)
    if shape is None:
        raise TypeError(f"array is a {type(array).__name__}; expected an array")
    if tuple(shape) != x.shape:
        raise ValueError(f"array has shape {tuple(shape)}; the tensor has {x.shape}")
    on_host = HTTensor._of(x.tree, [to_numpy(factor) for factor in x.factors])
    missed, whole = _Norm(), _Norm()
    for block in _blocks(x.shape):
        wanted = _read(array, block)
        found = on_host[block]
        values = found.to_tensor() if isinstance(found, HTTensor) else found
        # One of several outputs has no axis for them.
        values = np.reshape(values, wanted.shape)
        if not np.isfinite(wanted).all():
            raise ValueError("array has NaN or infinite entries")
        if not np.isfinite(values).all():
            raise ValueError("the tensor has NaN or infinite entries")
        missed.add(values - wanted)
        whole.add(wanted)
    if whole.value == 0:
        return 0.0 if missed.value == 0 else math.inf
    return missed.value / whole.value


class _Norm:
    """Frobenius norm of blocks that come one after the other, at any scale."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, block: np.ndarray) -> None:
        largest = float(np.abs(block).max(initial=0))
        if largest > 0:
            self.value = math.hypot(self.value, largest * float(np.linalg.norm((block / largest).reshape(-1))))


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices along all axes that cover a shape once, of a bounded number of entries, in the order of memory."""
    steps: list[int] = []
    room = _BLOCK_ENTRIES
    # Axes from the last: whole as long as there is room, then some of one, then one by one.
    for axis in range(len(shape) - 1, -1, -1):
        step = max(1, min(shape[axis], room))
        steps.insert(0, step)
        room = room // step if step == shape[axis] else 0
    counts = [-(-n // step) for n, step in zip(shape, steps, strict=True)]
    for number in range(prod(counts)):
        block = []
        for k, step, n in zip(np.unravel_index(number, counts), steps, shape, strict=True):
            block.append(slice(int(k) * step, min((int(k) + 1) * step, n)))
        yield tuple(block)


def _read(array: Any, block: tuple[slice, ...]) -> np.ndarray:
    part = array[block]
    part = part.compute() if hasattr(part, "compute") else part
    values = to_numpy(part) if not isinstance(part, np.ndarray) else np.asarray(part)
    if values.dtype.kind not in "biufc":
        raise TypeError(f"array has dtype {values.dtype}; expected numbers")
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
