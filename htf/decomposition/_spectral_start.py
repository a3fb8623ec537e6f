"""Directions to start a completion from: leading eigenvectors of Gramians of the zero-filled matricizations."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from htf.decomposition._groups import numbered
from htf.linalg.backend import is_complex, square

# Up to this dimension a Gramian is formed and decomposed whole; above it, only multiplied with vectors.
_LARGEST_DENSE = 512
# Values beyond this many times the root mean square are clipped: few large entries would make the largest eigenvalues.
_CLIPPED = 2.0


class Directions:
    """Leading eigenvectors per mode of a debiased Gramian, and random vectors in their span.

    With A the matricization of one mode in which entries that are not known are 0, each known with probability p, the
    entries of A Aᵀ off the diagonal have the expectation p² times those of the whole tensor, those on the diagonal p
    times.  The diagonal, which is nearly all of it where p is small, is multiplied by p; what is left shows the
    directions of the mode from some r · √(product of all dimensions) entries on (Montanari & Sun 2018; Cai, Li, Poor &
    Chen 2019).
    """

    def __init__(self, rows: np.ndarray, values: np.ndarray, dims: tuple[int, ...], count: int, rng: Any) -> None:
        size = np.sqrt(np.mean(square(values)))
        clipped = _clipped(values / (size or 1.0))
        share = min(len(values) / float(np.prod([float(dim) for dim in dims])), 1.0)
        self.bases = [_leading(rows, clipped, mode, dims[mode], share, count, rng) for mode in range(len(dims))]
        self.dims, self.complex = dims, is_complex(values)

    @property
    def known(self) -> bool:
        """Whether there is a mode whose entries met often enough to show anything."""
        return any(basis is not None for basis in self.bases)

    def first(self, rng: Any) -> list[np.ndarray]:
        """One vector (dim,) per mode: the leading one where there is one, Gaussian elsewhere."""
        return [self._gaussian(mode, rng) if b is None else b[:, 0] for mode, b in enumerate(self.bases)]

    def draw(self, rng: Any) -> list[np.ndarray]:
        """One vector (dim,) per mode, at random in the span of the leading ones."""
        return [
            self._gaussian(mode, rng) if b is None else b @ self._drawn(b.shape[1], rng) / np.sqrt(b.shape[1])
            for mode, b in enumerate(self.bases)
        ]

    def _gaussian(self, mode: int, rng: Any) -> np.ndarray:
        return self._drawn(self.dims[mode], rng) / np.sqrt(self.dims[mode])

    def _drawn(self, count: int, rng: Any) -> np.ndarray:
        real: np.ndarray = rng.standard_normal(count)
        return (real + 1j * rng.standard_normal(count)) / np.sqrt(2) if self.complex else real


def _clipped(values: np.ndarray) -> np.ndarray:
    if not is_complex(values):
        return np.clip(values, -_CLIPPED, _CLIPPED)
    return values / np.maximum(np.abs(values) / _CLIPPED, 1)


def _leading(
    rows: np.ndarray, values: np.ndarray, mode: int, dim: int, share: float, count: int, rng: Any
) -> np.ndarray | None:
    column = numbered(np.delete(rows, mode, axis=1))
    meetings = np.bincount(column)
    if dim < 2 or int((meetings * (meetings - 1)).sum()) < dim:
        return None
    A = csr_matrix((values, (rows[:, mode], column)), shape=(dim, len(meetings)))
    diagonal = np.asarray(A.multiply(A.conj()).sum(1)).ravel().real * (1 - share)
    count = min(count, dim)
    if dim <= _LARGEST_DENSE:
        gramian = (A @ A.conj().T).toarray()
        gramian[np.arange(dim), np.arange(dim)] -= diagonal
        leading: np.ndarray = np.linalg.eigh(gramian)[1][:, ::-1][:, :count]
        return leading

    def times(vector: np.ndarray) -> np.ndarray:
        vector = vector.ravel()
        product: np.ndarray = A @ (A.conj().T @ vector) - diagonal * vector
        return product

    try:
        operator = LinearOperator((dim, dim), matvec=times, dtype=A.dtype)
        start = rng.standard_normal(dim).astype(A.dtype)
        found, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=1e-3)
    except ArpackNoConvergence as error:
        found, vectors = error.eigenvalues, error.eigenvectors
        if not len(found):
            return None
    chosen: np.ndarray = vectors[:, np.argsort(-found)]
    return chosen
