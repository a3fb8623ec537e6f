"""The few dense steps that all algorithms on trees are made of.

Two of them are more than a call.  `orthonormal` and `left_singular` work through Gramians, so through matrix products,
where LAPACK's QR and SVD of tall matrices would be several times slower; both repeat the step on what the squaring of
singular values would lose, so that their results are accurate to little more than rounding error, not to its root.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from htf.tensors._backend import Array, Backend, constant, eye, needs_gradient
from htf.tensors._certificate import certificate, ordinary


def prod(numbers: tuple[int, ...] | list[int]) -> int:
    """Product of integers, exact at any size."""
    return math.prod(numbers)


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


def gram(B: Backend, tensor: Array, axis: int) -> Array:
    """Gramian of the matricization by `axis`: sums over all other axes."""
    shape = tuple(tensor.shape)
    if axis == len(shape) - 1:
        matrix = tall(B, tensor)
        return B.matmul(matrix.T, matrix)
    matrix = matricize(B, tensor, axis)
    return B.matmul(matrix, matrix.T)


def orthonormal(B: Backend, matrix: Array) -> tuple[Array, Array]:
    """``matrix = Q R`` with orthonormal columns of Q, (m, p) and (p, n), p = min(m, n); R is not triangular."""
    Q, correction, R = orthonormal_parts(B, matrix)
    return (Q if correction is None else B.matmul(Q, correction)), R


def orthonormal_parts(B: Backend, matrix: Array) -> tuple[Array, Array | None, Array]:
    """Q, P and R with ``matrix = (Q P) R`` and orthonormal columns of Q P; P is None where it is the identity.

    Large well-conditioned matrices take Q = A V Λ^(-1/2) from the eigendecomposition of their Gramian (Stathopoulos &
    Wu 2002), corrected by a second pass; others, and those that carry gradients, take LAPACK's QR.  Who multiplies by Q
    later can multiply by the small P first and spare forming their product.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        return eye(B, rows, matrix), None, matrix
    # Below this size LAPACK's overhead is that of an eigendecomposition.  PyTorch brings a QR that is as fast.
    if columns < 16 or rows < 4 * columns or needs_gradient(matrix) or B.backend_name != "numpy":
        Q, R = B.qr(matrix)
        return Q, None, R
    values, vectors = B.eigh(B.matmul(matrix.T, matrix))
    epsilon = float(B.eps(matrix.dtype))
    largest = float(values[-1])
    condition = float(values[0]) / largest if largest > 0 else 0.0
    # The first pass leaves an error of epsilon / condition in QᵀQ; what the series below drops is its cube.
    if not condition > (100 * epsilon) ** 0.6 or not ordinary(largest, matrix.dtype):
        Q, R = B.qr(matrix)
        return Q, None, R
    roots = B.sqrt(values)
    Q = B.matmul(matrix, vectors / roots)
    R = (vectors * roots).T
    if condition > 0.01:
        return Q, None, R
    identity = B.eye(columns, dtype=matrix.dtype)
    error = B.matmul(Q.T, Q) - identity
    square = B.matmul(error, error)
    return Q, identity - error / 2 + 0.375 * square, R + B.matmul(error / 2 - 0.125 * square, R)


def left_singular(B: Backend, matrix: Array, count: int | None = None) -> tuple[Array, Array]:
    """Left singular vectors (m, p) and descending singular values (p,) of an (m, n) matrix, p = min(m, n).

    With gradients, or where the matrix is not wide: LAPACK's SVD.  Otherwise the eigendecomposition of the m × m
    Gramian, taken again for the rows below ``epsilon^(1/5)`` of the largest singular value, and so on: each Gramian
    loses only what is below the square root of the rounding error relative to its own largest value, so the result is
    accurate to some ``epsilon^(4/5)`` of the largest singular value, at the cost of one matrix product or little more.
    Where only the first `count` have to be, the others may be off by up to the square root of the rounding error.
    """
    rows, columns = matrix.shape
    if needs_gradient(matrix) or columns < 2 * rows or rows * columns < 1024:
        U, S, _ = B.svd(matrix, full_matrices=False)
        return U, S
    cut = float(B.eps(matrix.dtype)) ** 0.2
    vectors: list[Array] = []
    values: list[Array] = []
    basis = None  # of what is left
    found = 0
    rest = matrix
    while True:
        squares, own = B.eigh(B.matmul(rest, rest.T))
        squares, own = B.flip(squares, 0), B.flip(own, 1)
        largest = float(squares[0])
        total = own if basis is None else B.matmul(basis, own)
        size = int(squares.shape[0])
        head = size if not largest > 0 else max(int((squares > cut**2 * largest).sum()), 1)
        found += head
        if count is not None and found >= count:
            head = size
        # Rounding leaves zeros a little negative.
        roots = B.sqrt(B.abs(squares[:head]))
        vectors.append(total[:, :head])
        values.append(roots)
        if head == size:
            break
        basis = total[:, head:]
        rest = B.matmul(own[:, head:].T, rest)
    if len(vectors) == 1:
        return vectors[0], values[0]
    return _sorted(B, B.concatenate(vectors, 1), B.concatenate(values, 0))


def _sorted(B: Backend, vectors: Array, values: Array) -> tuple[Array, Array]:
    """Values of a later Gramian can exceed the last of an earlier one by rounding."""
    order = B.flip(B.argsort(constant(values), 0), 0)
    return vectors[:, order], values[order]


def kept(singular_values: Array, rank: int | None, tail: float) -> int:
    """How many singular values to keep: the fewest whose tail has a norm of at most `tail`, `rank` at most, 1 at
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


def safe_scale(B: Backend, array: Array) -> Array:
    """The power of two that is just below the largest size of an entry, as a constant; 1 for zeros.

    Dividing by it rounds nothing, so it can be divided out and multiplied back at any size of the entries.
    """
    array = constant(array)
    if B.backend_name == "pytorch":
        return _power_below(B, torch.linalg.vector_norm(array, math.inf))
    return _power_below(B, B.max(B.abs(array)))


def divided(B: Backend, array: Array) -> tuple[Array, Array]:
    """The array over a power of two, after which products of a few are in range, and that power."""
    power = safe_scale(B, array)
    # Spares NumPy, which can tell at no cost, a pass over what is in range already.
    if B.backend_name == "numpy" and 2.0**-_MARGIN <= power <= 2.0**_MARGIN:
        return array, power / power
    return array / power, power


_MARGIN = 12


def all_divided(B: Backend, arrays: Sequence[Array]) -> tuple[list[Array], Array]:
    """Each array as by `divided`, and their powers, (n,)."""
    if B.backend_name == "pytorch":
        # The powers of all at once, which takes as many operations as one.
        powers = _power_below(B, torch.stack([torch.linalg.vector_norm(constant(a), math.inf) for a in arrays]))
        return [a / power for a, power in zip(arrays, powers.unbind(), strict=True)], powers
    pairs = [divided(B, a) for a in arrays]
    return [a for a, _ in pairs], B.stack([power for _, power in pairs])


def _power_below(B: Backend, number: Array) -> Array:
    """The largest power of two up to a number, or the smallest that has an inverse; 1 for zero, inf and NaN."""
    least = _smallest_normal(B, number.dtype)
    if B.backend_name == "pytorch":
        # The mantissa is from 1/2 to below 1; without a number the quotient is NaN.
        return torch.nan_to_num(number / (2 * torch.frexp(number)[0]), nan=1.0).clamp_min(least)
    if B.backend_name == "numpy":
        value = float(number)
        power = 2.0 ** (math.frexp(value)[1] - 1) if 0 < value < math.inf else 1.0
        return number.dtype.type(max(power, least))
    frexp = sys.modules["jax.numpy" if B.backend_name == "jax" else B.backend_name].frexp
    positive = (number > 0) & (number < math.inf)
    number = B.where(positive, number, B.zeros_like(number) + 1)
    power = number / (2 * frexp(number)[0])
    return B.where(power < least, power * 0 + least, power)


def exponents(B: Backend, powers: Array) -> Array:
    """Binary logarithms of powers of two, whole numbers in the same dtype."""
    return (B.log(powers) / math.log(2) + 0.5) // 1


def frobenius(B: Backend, array: Array) -> Array:
    """Frobenius norm whose squares stay in range; its gradient at zero is zero."""
    if certificate(B, [array]) is not None:
        with np.errstate(all="ignore"):
            plain = B.norm(B.reshape(array, (-1,)), 2)
        if ordinary(float(constant(plain)), array.dtype):
            return plain
    scale = safe_scale(B, array)
    return root(B, B.sum((array / scale) ** 2)) * scale


def root(B: Backend, square: Array) -> Array:
    """Square root of a number that is not negative but for rounding, with derivative zero at zero, as norms have."""
    positive = square > 0
    return B.where(positive, B.sqrt(B.where(positive, square, B.zeros_like(square) + 1)), B.zeros_like(square))


def with_scale(B: Backend, array: Array, exponent: Array) -> Array:
    """``array`` times two to the power of a whole number, rounded once; beyond the range ±inf, below it zero."""
    if isinstance(exponent, float) and abs(exponent) < _largest_exponent(B, array.dtype):
        with np.errstate(over="ignore", under="ignore"):
            return array * 2.0**exponent
    size = safe_scale(B, array)
    total = exponents(B, size) + exponent
    most = total * 0 + _largest_exponent(B, array.dtype)
    # What is divided out of a zero tensor's factors may be beyond all numbers; its derivatives are as large as can be.
    top = B.where(B.max(B.abs(constant(array))) == 0, most, 2 * most)
    total = B.where(total > top, top, B.where(total < -2 * most, -2 * most, total))
    # In two halves, as there are smaller and larger numbers than powers of two that can be divided by.
    half = total // 2
    with np.errstate(over="ignore", under="ignore"):
        return array / size * _two_to(B, half) * _two_to(B, total - half)


def _two_to(B: Backend, exponent: Array) -> Array:
    """Two to the power of a whole number, exactly, which no backend's exponential promises."""
    return _power_below(B, 1.4 * B.exp(exponent * math.log(2)))


@cache
def _largest_exponent(B: Backend, dtype: Any) -> int:
    """Of the powers of two that are normal numbers, as their inverses are."""
    return math.frexp(float(B.finfo(dtype).max))[1] - 2


@cache
def _smallest_normal(B: Backend, dtype: Any) -> float:
    return float(B.finfo(dtype).tiny)


def log2_largest(B: Backend, array: Array, exponent: Array) -> float:
    """Binary logarithm of the largest entry of ``array`` times two to a power; -inf for zero."""
    largest = float(B.max(B.abs(constant(array))))
    return math.log2(largest) + float(exponent) if largest > 0 else -math.inf


def in_range(B: Backend, array: Array, exponent: Array) -> bool:
    """Whether the largest entry of ``array`` times two to a power is a normal number, or zero."""
    size, limits = log2_largest(B, array, exponent), B.finfo(array.dtype)
    return size == -math.inf or math.log2(float(limits.tiny)) < size < math.log2(float(limits.max))


def power_of_two(B: Backend, array: Array) -> float:
    """What to divide by, without rounding, where squares of entries would leave the range of the dtype; otherwise 1."""
    largest = float(B.max(B.abs(constant(array))))
    margin = float(B.finfo(array.dtype).max) ** 0.25
    if largest == 0 or not math.isfinite(largest) or 1 / margin < largest < margin:
        return 1.0
    # Its inverse has to be a number too, as dividing may be done by multiplying with it.
    return max(2.0 ** (math.frexp(largest)[1] - 1), float(B.finfo(array.dtype).tiny))
