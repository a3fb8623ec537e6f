"""The few dense steps that all algorithms on trees are made of.

Two of them are more than a call.  `orthonormal` and `left_singular` work through Gramians, so through matrix products,
where LAPACK's QR and SVD of tall matrices would be several times slower; both repeat the step on what the squaring of
singular values would lose, so that their results are accurate to little more than rounding error, not to its root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import torch

from htf.linalg.backend import Array, Backend, adjoint, conj, constant, eye, needs_gradient, to_numpy, zeros
from htf.linalg.underflow import host_reads, ordinary

T = TypeVar("T")

# Entries of a matrix above which an SVD takes longer than several Gramians and their eigendecompositions.
_LARGE = 1024
# Rows from which that holds of smaller matrices of NumPy too; the calls of PyTorch take longer than its SVD.
_FEW_ROWS = 6


def mode_product(B: Backend, tensor: Array, matrix: Array, axis: int) -> Array:
    """``tensor`` times ``matrix`` (new × old) along `axis`."""
    shape = tensor.shape
    order = len(shape)
    if order == 2:
        return B.matmul(tensor, matrix.T) if axis else B.matmul(matrix, tensor)
    size = matrix.shape[0]
    if axis == order - 1:
        return _shaped(B, B.matmul(_shaped(B, tensor, (-1, shape[axis])), matrix.T), (*shape[:axis], size))
    if axis == 0:
        return _shaped(B, B.matmul(matrix, _shaped(B, tensor, (shape[0], -1))), (size, *shape[1:]))
    before, after = (shape[0], shape[2]) if order == 3 else (prod(shape[:axis]), prod(shape[axis + 1 :]))
    if before == 1 or after == 1:
        new = (*shape[:axis], size, *shape[axis + 1 :])
        if after == 1:
            return _shaped(B, B.matmul(_shaped(B, tensor, (before, shape[axis])), matrix.T), new)
        return _shaped(B, B.matmul(matrix, _shaped(B, tensor, (shape[axis], after))), new)
    whole = tensor if order == 3 else _shaped(B, tensor, (before, shape[axis], after))
    product = B.matmul(matrix, whole)
    return product if order == 3 else _shaped(B, product, (*shape[:axis], size, *shape[axis + 1 :]))


def mode_products(B: Backend, tensors: Array, matrices: Array, axis: int) -> Array:
    """Each tensor of a batch, (batch, ...), times its matrix, (batch, new, old), along one of its own axes."""
    batch, *shape = tensors.shape
    size = matrices.shape[1]
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    new = (batch, *shape[:axis], size, *shape[axis + 1 :])
    if after == 1:
        return B.reshape(B.matmul(B.reshape(tensors, (batch, before, shape[axis])), swapped(matrices)), new)
    if before == 1:
        return B.reshape(B.matmul(matrices, B.reshape(tensors, (batch, shape[axis], after))), new)
    whole = B.reshape(tensors, (batch, before, shape[axis], after))
    return B.reshape(B.matmul(matrices[:, None], whole), new)


def swapped(matrices: Array) -> Array:
    """Transposes of a batch of matrices."""
    return matrices.swapaxes(-1, -2)


def _shaped(B: Backend, array: Array, shape: tuple[int, ...]) -> Array:
    # TensorLy's way to NumPy takes longer than the products of small matrices do.
    return array.reshape(shape) if type(array) is np.ndarray else B.reshape(array, shape)


def matricize(B: Backend, tensor: Array, axis: int) -> Array:
    """(axis, all others)."""
    if axis:
        tensor = B.moveaxis(tensor, axis, 0)
    return tensor if len(tensor.shape) == 2 else _shaped(B, tensor, (tensor.shape[0], -1))


def tall(B: Backend, tensor: Array) -> Array:
    """(all others, last axis)."""
    return tensor if len(tensor.shape) == 2 else _shaped(B, tensor, (-1, tensor.shape[-1]))


def joint_values(B: Backend, transfer: Array, values: Sequence[Array]) -> Array:
    """Rows of a node's frame from rows of its children's: (batch, r_1), ..., (batch, r_k) to (batch, r)."""
    batch = values[0].shape[0]
    product = B.matmul(values[0], B.reshape(transfer, (transfer.shape[0], -1)))
    for value in values[1:]:
        width = value.shape[1]
        product = B.reshape(product, (batch, width, prod(product.shape[1:]) // width))
        product = B.matmul(B.reshape(value, (batch, 1, width)), product)[:, 0]
    return product


def joint_values_each(B: Backend, transfers: Array, values: Sequence[Array]) -> Array:
    """`joint_values` of several nodes: (nodes, r_1, ..., r_k, r) and (nodes, batch, r_1), ... to (nodes, batch, r)."""
    nodes, batch = values[0].shape[:2]
    product = B.matmul(values[0], B.reshape(transfers, (nodes, transfers.shape[1], -1)))
    for value in values[1:]:
        width = value.shape[2]
        product = B.reshape(product, (nodes, batch, width, product.shape[2] // width))
        product = B.matmul(B.reshape(value, (nodes, batch, 1, width)), product)[:, :, 0]
    return product


def products_of_others(first: T, factors: Sequence[T], multiply: Callable[[T, T], T]) -> list[T]:
    """For each of the `factors`, `first` times all the others.

    Each is a product of all before the factor and all behind it, without division: 3 (n - 1) products for n factors.
    For factors a, b, c the results are first (c b), (first a) c and (first a) b.
    """
    behind = list(factors[1:])  # behind[k] becomes the product of the factors from k + 1 on
    for k in range(len(behind) - 1, 0, -1):
        behind[k - 1] = multiply(behind[k], factors[k])
    found, before = [], first
    for factor, rest in zip(factors, behind, strict=False):
        found.append(multiply(before, rest))
        before = multiply(before, factor)
    return [*found, before] if factors else []


def orthonormal(B: Backend, matrix: Array) -> tuple[Array, Array]:
    """``matrix = Q R`` with orthonormal columns of Q, (m, p) and (p, n), p = min(m, n); R is not triangular."""
    Q, correction, R = orthonormal_parts(B, matrix)
    return (Q if correction is None else B.matmul(Q, correction)), R


def orthonormal_parts(B: Backend, matrix: Array) -> tuple[Array, Array | None, Array]:
    """Q, P and R with ``matrix = (Q P) R`` and orthonormal columns of Q P; P is None where it is the identity.

    Large well-conditioned matrices take Q = A R⁻¹ from the Cholesky factor R of their Gramian, corrected by a second
    pass (as CholeskyQR2, Yamamoto et al. 2015, but by a series); others, and those that carry gradients, take LAPACK's
    QR.  Who multiplies by Q later can multiply by the small P first and spare forming their product.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        return eye(B, rows, matrix), None, matrix
    # Below this size LAPACK's QR is as fast as products, and PyTorch's always.
    if columns < 28 or rows < 12 * columns or needs_gradient(matrix) or B.backend_name != "numpy":
        Q, R = quick_qr(B, matrix) if columns >= 8 else B.qr(matrix)
        return Q, None, R
    gramian = B.matmul(adjoint(matrix), matrix)
    epsilon = float(B.eps(matrix.dtype))
    size, condition = float(np.trace(gramian).real), 0.0
    if ordinary(size, matrix.dtype):
        try:
            R = adjoint(np.linalg.cholesky(gramian))
            inverse = np.linalg.inv(R)
            # A lower bound of the least eigenvalue over the largest.
            condition = 1 / (size * float(np.vdot(inverse, inverse).real))
        except np.linalg.LinAlgError:
            pass
    # The first pass leaves an error of epsilon / condition in QᵀQ; what the series below drops is its cube.
    if not condition > (100 * epsilon) ** 0.6:
        Q, R = quick_qr(B, matrix)
        return Q, None, R
    Q = B.matmul(matrix, inverse)
    if condition > 0.01:
        return Q, None, R
    identity = B.eye(columns, dtype=matrix.dtype)
    error = B.matmul(adjoint(Q), Q) - identity
    square = B.matmul(error, error)
    return Q, identity - error / 2 + 0.375 * square, R + B.matmul(error / 2 - 0.125 * square, R)


def quick_qr(B: Backend, matrices: Array) -> tuple[Array, Array]:
    """QR decompositions of a matrix or a batch of them; of NumPy arrays by PyTorch, whose way to LAPACK is shorter."""
    if B.backend_name == "numpy":
        Q, R = torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(matrices)))
        return Q.numpy(), R.numpy()
    Q, R = B.qr(matrices)
    return Q, R


def left_singular(B: Backend, matrix: Array, count: int | None = None, fewest: int = _LARGE) -> tuple[Array, Array]:
    """Left singular vectors (m, p) and descending singular values (p,) of an (m, n) matrix, p = min(m, n).

    With gradients, where the matrix is not wide or has less than `fewest` entries (less than 1,024 in PyTorch, or of
    few rows): LAPACK's SVD.  Otherwise the eigendecomposition of the m × m Gramian, taken again for the rows below
    ``epsilon^(1/5)`` of the largest singular value, and so on: each Gramian loses only what is below the square root of
    the rounding error relative to its own largest value, so the result is accurate to some ``epsilon^(4/5)`` of the
    largest singular value, at the cost of one matrix product or little more.  A small matrix that one Gramian does not
    serve takes the SVD after all.

    Where only the first `count` have to be, the others may be off by up to the square root of the rounding error, or be
    left out; the Gramian may then be that of the columns of a tall matrix.
    """
    rows, columns = matrix.shape
    size = rows * columns
    if count is not None and count < columns < rows and size >= _LARGE and not needs_gradient(matrix):
        leading = _leading_of_tall(B, matrix, count)
        if leading is not None:
            return leading
    if B.backend_name != "numpy" or rows < _FEW_ROWS:
        fewest = _LARGE
    if columns < 2 * rows or size < fewest or needs_gradient(matrix):
        U, S, _ = B.svd(matrix, full_matrices=False)
        return U, S
    cut = float(B.eps(matrix.dtype)) ** 0.2
    vectors: list[Array] = []
    values: list[Array] = []
    basis = None  # of what is left
    found = 0
    rest = matrix
    while True:
        squares, own = _descending(B, *B.eigh(B.matmul(rest, adjoint(rest))))
        largest, least = float(squares[0]), cut**2 * float(squares[0])
        total = own if basis is None else B.matmul(basis, own)
        left = int(squares.shape[0])
        whole = not largest > 0 or float(squares[-1]) > least
        head = left if whole else max(int((squares > least).sum()), 1)
        found += head
        if count is not None and found >= count:
            head = left
        elif head < left and size < _LARGE:
            U, S, _ = B.svd(matrix, full_matrices=False)
            return U, S
        # Rounding leaves zeros a little negative.
        roots = B.sqrt(B.abs(squares[:head]))
        vectors.append(total[:, :head])
        values.append(roots)
        if head == left:
            break
        basis = total[:, head:]
        rest = B.matmul(adjoint(own[:, head:]), rest)
    if len(vectors) == 1:
        return vectors[0], values[0]
    return _sorted(B, B.concatenate(vectors, 1), B.concatenate(values, 0))


def _descending(B: Backend, values: Array, vectors: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, columns, from the largest value down."""
    if type(values) is np.ndarray:
        return values[::-1], vectors[:, ::-1]  # a fraction of what numpy.flip takes
    return B.flip(values, 0), B.flip(vectors, 1)


def _leading_of_tall(B: Backend, matrix: Array, count: int) -> tuple[Array, Array] | None:
    """The first `count` left singular vectors and values, by the columns' Gramian; None where that is not accurate."""
    squares, V = _descending(B, *B.eigh(B.matmul(adjoint(matrix), matrix)))
    values = constant(squares).tolist()
    if not values[count - 1] > float(B.eps(matrix.dtype)) ** 0.4 * values[0]:
        return None
    # Columns of M V are orthogonal but for what the Gramian lost.
    U, R = quick_qr(B, B.matmul(matrix, V[:, :count]))
    sizes = B.diag(R)
    return U * (sizes / B.abs(sizes)), B.abs(sizes)


def orthonormal_each(B: Backend, matrices: Array) -> tuple[Array, Array]:
    """`orthonormal` of a batch of matrices, (batch, m, n)."""
    batch, rows, columns = matrices.shape
    if rows <= columns:
        return zeros(B, (batch, rows, rows), matrices) + eye(B, rows, matrices), matrices
    return quick_qr(B, matrices)


def left_singular_each(
    B: Backend, matrices: Array, count: int | None = None, floor: float = 0.0
) -> tuple[Array, Array]:
    """`left_singular` of a batch of matrices, (batch, m, n): (batch, m, p) and (batch, p).

    One eigendecomposition of each Gramian, and an SVD of those matrices for which that would not be accurate.  As
    there, only the first `count` values have to be, if that is given; nor has anything below `floor`.  What the vectors
    of values above σ leave of the matrix exceeds what it should be by some ε σ₁² / σ, so that a floor σ above
    ``epsilon^(1/3) σ₁`` is exceeded by a share of at most ``epsilon^(1/3)``.
    """
    rows, columns = matrices.shape[1:]
    if needs_gradient(matrices) or columns < rows or not host_reads():
        U, S, _ = B.svd(matrices, full_matrices=False)
        return U, S
    squares, U = B.eigh(B.matmul(matrices, conj(swapped(matrices))))
    # Rounding leaves zeros a little negative.
    S, U = B.sqrt(B.abs(B.flip(squares, 1))), B.flip(U, 2)
    epsilon = float(B.eps(matrices.dtype))
    values = to_numpy(S)
    least = values[:, (rows if count is None else min(count, rows)) - 1]
    rough = (least < epsilon**0.2 * values[:, 0]) & (floor < epsilon ** (1 / 3) * values[:, 0])
    if not rough.any():
        return U, S
    if rough.all():
        U, S, _ = B.svd(matrices, full_matrices=False)
        return U, S
    again, kept = np.flatnonzero(rough), np.flatnonzero(~rough)
    V, T, _ = B.svd(matrices[again], full_matrices=False)
    order = np.argsort(np.concatenate([kept, again]))
    return B.concatenate([U[kept], V], 0)[order], B.concatenate([S[kept], T], 0)[order]


def _sorted(B: Backend, vectors: Array, values: Array) -> tuple[Array, Array]:
    """Values of a later Gramian can exceed the last of an earlier one by rounding."""
    order = B.flip(B.argsort(constant(values), 0), 0)
    return vectors[:, order], values[order]


def kept_each(singular_values: Array, tail: float) -> np.ndarray:
    """`kept` for a batch of singular values, (batch, p), without a limit."""
    values = to_numpy(singular_values).astype(np.float64)
    largest = np.where(values[:, :1] > 0, values[:, :1], 1.0)
    squares = np.cumsum((values / largest)[:, ::-1] ** 2, 1)[:, ::-1]
    return np.maximum((np.sqrt(squares) > tail / largest).sum(1), 1)


def kept(singular_values: Array, rank: int | None, tail: float) -> int:
    """Number of singular values to keep: the fewest whose tail has a norm of at most `tail`, `rank` at most, 1 at
    least.
    """
    values = constant(singular_values).tolist()
    largest = max(values, default=0.0)
    if largest > 0:
        # Relative to the largest, or squares would leave the range of doubles long before the values do.
        values, tail = [s / largest for s in values], tail / largest
    count, dropped = len(values), 0.0
    while count > 1 and math.sqrt(dropped + values[count - 1] ** 2) <= tail:
        count -= 1
        dropped += values[count] ** 2
    return count if rank is None else max(1, min(count, rank))
