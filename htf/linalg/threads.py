"""Which library computes with small and large arrays: NumPy's products or PyTorch's, never both by turns.

A step takes less overhead in NumPy, and a decomposition less time in PyTorch.  But after a product that NumPy's BLAS
shares among threads, these go on spinning for a while and keep PyTorch's from the cores: on two threads a QR
decomposition of a (25, 5) matrix takes 4 ms after it instead of 14 µs.  So a computation on the host is given to one of
the two, whichever its arrays belong to; both see the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from htf.linalg.backend import Array, to_numpy

# Products of fewer multiplications are not shared among threads by NumPy's BLAS (OpenBLAS).
_SHARED_PRODUCT = 2**18
# Nor are inner products of vectors of fewer entries.
LARGE_VECTOR = 8_192
# From it on one thread of PyTorch is as fast as one of NumPy.
_LARGE_RANK = 32


def small_rank() -> int:
    """Largest rank r whose steps are NumPy's: where r⁴ multiplications are not shared among threads, if there are."""
    return _LARGE_RANK if torch.get_num_threads() == 1 else int(_SHARED_PRODUCT**0.25)


def views(arrays: Sequence[Array]) -> list[np.ndarray]:
    """PyTorch's tensors on the host as NumPy arrays on the same memory; NumPy arrays as they are."""
    if type(arrays[0]) is np.ndarray:
        return list(arrays)
    # What is a flag on the memory of another tensor is written out.
    return [
        to_numpy(f) if f.is_complex() or f.is_neg() else (f.detach() if f.requires_grad else f).numpy() for f in arrays
    ]


def in_pytorch(arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """NumPy arrays as PyTorch's tensors on the same memory, or on a copy where PyTorch has no such layout."""
    return [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays]


def suits_pytorch(arrays: Sequence[Array], rank: int) -> bool:
    """Whether decompositions of these NumPy arrays are better all left to PyTorch."""
    return (
        type(arrays[0]) is np.ndarray
        and arrays[0].dtype.char in "fdFD"
        and arrays[0].dtype.isnative
        and rank > small_rank()
        and torch.get_num_threads() > 1
    )


def from_pytorch(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """PyTorch's tensors as NumPy arrays on the same memory."""
    return [tensor.resolve_conj().resolve_neg().numpy() for tensor in tensors]
