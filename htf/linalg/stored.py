"""Arrays that are read slice by slice: memory-mapped files, and arrays of zarr, dask and HDF5."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

# Bytes of a block, and of the largest memory-mapped array that is taken as one.
BLOCK = 2**25
_PACKAGES = ("zarr", "dask", "h5py")


def is_stored(array: Any) -> bool:
    """Whether an array is better read in blocks: large memory-mapped files, zarr and dask arrays, HDF5 data sets."""
    if type(array) is np.memmap:
        return array.nbytes > BLOCK
    package = type(array).__module__.split(".")[0]
    return package in _PACKAGES and all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__"))


def check_stored(array: Any, name: str) -> tuple[int, ...]:
    """The shape of a stored array, or an error for what cannot be read: unknown dimensions, chunks that are missing."""
    if array.shape is None:
        raise ValueError(f"{name} is a data set without a shape (h5py.Empty); expected an array")
    shape = tuple(array.shape)
    if not all(isinstance(n, int | np.integer) for n in shape):
        raise ValueError(f"{name} has shape {shape}, partly unknown; call its compute_chunk_sizes() before")
    there, chunks = _chunks_there(array)
    # Readers would fill them in silently.
    if there < chunks:
        fill = getattr(array, "fill_value", getattr(array, "fillvalue", None))
        raise ValueError(
            f"{name} misses {chunks - there} of its {chunks} chunks, which would read as {fill}; write them, those of "
            "the fill value too (zarr: write_empty_chunks), or pass array[...] if that is what they hold"
        )
    return tuple(int(n) for n in shape)


def _chunks_there(array: Any) -> tuple[int, int]:
    """How many chunks were ever written, and how many there are; zeros where the array does not tell."""
    there, chunks = getattr(array, "nchunks_initialized", None), getattr(array, "nchunks", None)
    if isinstance(there, int) and isinstance(chunks, int):
        return there, chunks
    if type(array).__module__.split(".")[0] != "h5py" or array.is_virtual or array.external or not array.size:
        return 0, 0
    if array.chunks is None:
        return int(array.id.get_storage_size() > 0), 1
    total = math.prod(-(-int(n) // int(chunk)) for n, chunk in zip(array.shape, array.chunks, strict=True))
    return int(array.id.get_num_chunks()), total


def blocks(array: Any, axis: int, size: int = BLOCK) -> Iterator[np.ndarray]:
    """NumPy arrays that follow each other along an axis, of up to `size` bytes: whole chunks, or one index at least."""
    length = int(array.shape[axis])
    step = max(1, min(length, size * length // max(1, nbytes(array))))
    chunk = _chunk(array, axis)
    if step > chunk:
        step -= step % chunk
    for start in range(0, length, step):
        key = (slice(None),) * axis + (slice(start, start + step),)
        yield _read(array[key])
        if type(array) is np.memmap:
            _forget(array)


def natural_axis(array: Any) -> int:
    """The axis along which blocks are read with the fewest chunks opened twice."""
    if isinstance(array, np.ndarray):
        return len(array.shape) - 1 if array.flags.f_contiguous and not array.flags.c_contiguous else 0
    counts = [-(-int(n) // _chunk(array, axis)) for axis, n in enumerate(array.shape)]
    return counts.index(max(counts))


def loaded(array: Any) -> np.ndarray:
    """The whole array in memory."""
    return _read(array[(slice(None),) * len(array.shape)])


def _read(part: Any) -> np.ndarray:
    if type(part) is np.memmap:
        part = np.array(part)  # a copy, as pages of the file are forgotten
    found = np.asarray(part.compute() if hasattr(part, "compute") else part)
    # Files may have the byte order of another machine.
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _forget(array: np.memmap) -> None:
    """Give back the memory of pages that were read, which would grow to the whole file's; they can be read again."""
    # Where changes are private ("c"), they are in these pages only.
    pages = getattr(array, "_mmap", None)
    if array.mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED") and isinstance(pages, mmap.mmap):
        pages.madvise(mmap.MADV_DONTNEED)


def nbytes(array: Any) -> int:
    """Bytes that the whole array takes in memory."""
    return int(np.prod([int(n) for n in array.shape], dtype=object)) * np.dtype(array.dtype).itemsize


def _chunk(array: Any, axis: int) -> int:
    """Length of a chunk along an axis; of dask's several the first."""
    chunks = getattr(array, "chunks", None)
    if chunks is None:
        return 1
    length = chunks[axis]
    return max(1, int(length[0] if isinstance(length, tuple) else length))
