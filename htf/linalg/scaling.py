"""Powers of two that are divided out of arrays, so that products and squares stay in range without rounding."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from htf.linalg.backend import Array, Backend, backend_of, constant, square
from htf.linalg.underflow import certificate, ordinary


def safe_scale(B: Backend, array: Array) -> Array:
    """The power of two that is just below the largest size of an entry, as a constant; 1 for zeros.

    Dividing by it rounds nothing, so it can be divided out and multiplied back at any size of the entries.
    """
    array = constant(array)
    if B.backend_name == "pytorch":
        return _power_below(B, torch.linalg.vector_norm(array, math.inf))
    return _power_below(B, B.max(B.abs(array)))


def over_largest(array: Array) -> tuple[Array, float]:
    """The array divided by its largest entry, as a constant, and the logarithm of that; by 1 if it is zero."""
    B = backend_of(array)
    largest = float(B.max(B.abs(constant(array)))) or 1.0
    return array / largest, math.log(largest)


def divided(B: Backend, array: Array) -> tuple[Array, Array]:
    """The array over a power of two, so that products of as many as a node has axes are in range, and that power."""
    power = safe_scale(B, array)
    return array / power, power


def all_divided(B: Backend, arrays: Sequence[Array]) -> tuple[list[Array], Array]:
    """Each array as by `divided`, and their powers, (n,)."""
    if B.backend_name == "pytorch":
        # The powers of all at once, which takes as many operations as one.
        powers = _power_below(B, torch.stack([torch.linalg.vector_norm(constant(a), math.inf) for a in arrays]))
        return [a / power for a, power in zip(arrays, powers.unbind(), strict=True)], powers
    pairs = [divided(B, a) for a in arrays]
    return [a for a, _ in pairs], B.stack([power for _, power in pairs])


def each_scale(B: Backend, arrays: Array) -> Array:
    """`safe_scale` of each slice of a batch, (batch, ...): (batch,)."""
    flat = B.reshape(constant(arrays), (arrays.shape[0], -1))
    if B.backend_name == "pytorch":
        return _power_below(B, torch.linalg.vector_norm(flat, math.inf, 1))
    return _power_below(B, B.max(B.abs(flat), 1))


def each_divided(B: Backend, arrays: Array, powers: Array | None = None) -> tuple[Array, Array]:
    """Each slice of a batch, (batch, ...), over a power of two, its own by default, as by `divided`; and the powers."""
    powers = each_scale(B, arrays) if powers is None else powers
    return arrays / B.reshape(powers, (-1, *[1] * (len(arrays.shape) - 1))), powers


def each_ordinary(B: Backend, batches: Sequence[Array]) -> tuple[list[Array], Array | None]:
    """Arrays (batch, ...), divided slice by slice by one power of two for all, where any is far from one.

    The powers are (batch,), or None where nothing was divided.
    """
    scales = [each_scale(B, arrays) for arrays in batches]
    powers = functools.reduce(lambda a, b: B.where(a > b, a, b), scales)
    limit = 2.0 ** (_largest_exponent(B, powers.dtype) // 8)
    # Where values may not be looked at for free, all are divided.
    if certificate(B, batches) is not None and all(bool(((s > 1 / limit) & (s < limit)).all()) for s in scales):
        return list(batches), None
    return [each_divided(B, arrays, powers)[0] for arrays in batches], powers


def _power_below(B: Backend, number: Array) -> Array:
    """The largest power of two up to a number, or the smallest that has an inverse; 1 for zero, inf and NaN."""
    least = _smallest_normal(B, number.dtype)
    if B.backend_name == "pytorch":
        # The mantissa is from 1/2 to below 1; without a number the quotient is NaN.
        return torch.nan_to_num(number / (2 * torch.frexp(number)[0]), nan=1.0).clamp_min(least)
    if B.backend_name == "numpy" and number.ndim:
        found = np.ldexp(np.ones_like(number), np.frexp(number)[1] - 1)
        return np.maximum(np.where((number > 0) & (number < math.inf), found, 1), least).astype(number.dtype)
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
    return root(B, B.sum(square(array / scale))) * scale


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
    # Powers divided out of a zero tensor's factors may be beyond all numbers; its derivatives are as large as can be.
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
    """The largest exponent of two whose power and its inverse are normal numbers."""
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
    """A power of two to divide by where squares of entries would leave the range of the dtype; otherwise 1."""
    largest = float(B.max(B.abs(constant(array))))
    margin = float(B.finfo(array.dtype).max) ** 0.25
    if largest == 0 or not math.isfinite(largest) or 1 / margin < largest < margin:
        return 1.0
    # Its inverse has to be a number too, as dividing may be done by multiplying with it.
    return max(2.0 ** (math.frexp(largest)[1] - 1), float(B.finfo(array.dtype).tiny))
