"""Inner products, norms and distances of HT tensors, without leaving the format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from htf.linalg.backend import (
    Array,
    Backend,
    asarray,
    backend_of,
    conj,
    constant,
    is_complex,
    needs_gradient,
    real_part,
)
from htf.linalg.dense import mode_product, mode_products, swapped
from htf.linalg.scaling import all_divided, divided, each_divided, each_ordinary, exponents, frobenius, root, with_scale
from htf.linalg.threads import small_rank, views
from htf.linalg.underflow import certificate
from htf.tensors._blocks import Schedule, schedule_of, stacked, unscaled_first
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht, pair
from htf.tensors.orthogonal import orthogonal_sum
from htf.tensors.overlaps import frame_overlap


def ht_inner(first: HTTensor | RawHT, second: HTTensor | RawHT) -> Array:
    """Inner product: the sum of the products of all entries, the first tensor's conjugated.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        Tensors of one tree and shape.

    Returns
    -------
    0-dimensional array
        Complex where one of the tensors is.  Gradients flow to both.

    Raises
    ------
    ValueError, TypeError
        Where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_norm : the root of the inner product with itself.
    htf.tensors.ht_tensordot : over some modes.
    htf.tensors.ht_distance : accurate for nearly equal tensors.

    Notes
    -----
    O(N n r² + N r⁴) multiplications: overlaps of the two tensors' frames, from the leaves to the root.  A power of two
    is divided out at every node, so that only the result itself can leave the range of its dtype: it is ±inf beyond it
    and 0 below.

    A difference of two nearly equal tensors loses half of the digits here; `ht_distance` does not.

    Conjugation is that of ``numpy.vdot`` and of TensorLy's norms and least squares, so that ``ht_inner(x, x)`` is the
    square of the norm.  ``tensorly.tenalg.inner`` conjugates nothing: that is ``ht_inner(x.conj(), y)``, or
    `ht_tensordot` over all modes.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.random_ht((4, 5, 6), rank=3, random_state=1)
    >>> np.allclose(htf.tensors.ht_inner(x, y), (x.to_tensor() * y.to_tensor()).sum())
    True
    """
    x, y = pair(first, second)
    plain = _plain_inner(x, y)
    return with_scale(backend_of(x.factors[0]), *_inner(x, y)) if plain is None else plain


def _plain_inner(x: HTTensor, y: HTTensor) -> Array | None:
    """Inner product without any scaling; None where that may have gone out of range on the way."""
    B, tree = backend_of(x.factors[0]), x.tree
    first: Sequence[Array] = x.factors
    second: Sequence[Array] = y.factors
    if not unscaled_first(tree) and _schedule_of_pair(x, y) is not None:
        return None
    bound = certificate(B, first if x is y else [*first, *second])
    if bound is None:
        return None
    rank = max(*x.rank, *y.rank)
    small = B.backend_name == "pytorch" and rank <= small_rank() and not bound.recorded
    if small:
        second = views(second)
        first = second if x is y else views(first)
        C = backend_of(second[0])
    else:
        C = B
    overlaps: list[Array] = []
    with np.errstate(all="ignore"):
        for node in range(tree.root):
            a, b = first[node], second[node]
            overlap = frame_overlap(C, tree, node, a, b, overlaps)
            overlaps.append(overlap)
            # How much leaves can enlarge errors elsewhere is in their overlaps, smaller than the frames.
            if node < tree.order:
                bound.add((overlap,))
            elif x is y:
                bound.add((a,), 2)
            else:
                bound.add((a, b))
            if node % 8 == 7 and bound.hopeless():
                return None
        a, b = first[-1], second[-1]
        bound.add((a, b))
        for axis, child in enumerate(tree.children(tree.root)):
            b = mode_product(C, b, overlaps[child], axis)
        value = C.sum(conj(a) * b)
    widest = max([f.ndim for f in first])
    multiplications = tree.n_nodes * (widest * float(rank) ** (widest + 1) + max(x.dims) * rank**2)
    if not bound.holds(abs(complex(constant(value)) if is_complex(value) else float(constant(value))), multiplications):
        return None
    return asarray(B, value, x.factors[0]) if small else value


def _inner(x: HTTensor, y: HTTensor) -> tuple[Array, Array]:
    """Inner product without the powers of two that are divided out, and the sum of their exponents."""
    B, tree = backend_of(x.factors[0]), x.tree
    schedule = _schedule_of_pair(x, y)
    if schedule is not None:
        return _inner_by_blocks(B, schedule, x, y)
    factors, powers = all_divided(B, x.factors if x is y else [*x.factors, *y.factors])
    exponent = B.sum(exponents(B, powers)) * (2 if x is y else 1)
    pairs = list(zip(factors[: tree.n_nodes], factors[-tree.n_nodes :], strict=True))
    overlaps: list[Array] = []
    scales: list[Array] = []
    for node in range(tree.root):
        overlap, scale = divided(B, frame_overlap(B, tree, node, *pairs[node], overlaps))
        overlaps.append(overlap)
        scales.append(scale)
    a, b = pairs[-1]
    for axis, child in enumerate(tree.children(tree.root)):
        b = mode_product(B, b, overlaps[child], axis)
    return B.sum(conj(a) * b), exponent + (B.sum(exponents(B, B.stack(scales))) if scales else 0)


def _schedule_of_pair(x: HTTensor, y: HTTensor) -> Schedule | None:
    return schedule_of([x] if x is y else [x, y])


def _inner_by_blocks(B: Backend, schedule: Schedule, x: HTTensor, y: HTTensor) -> tuple[Array, Array]:
    overlaps: list[Array] = []
    powers: list[Array] = []
    value: Array = None
    for block in schedule:
        (a,), power = each_ordinary(B, [stacked(B, x.factors, block)])
        (b,), other = ([a], power) if x is y else each_ordinary(B, [stacked(B, y.factors, block)])
        powers += [each for each in (power, other) if each is not None]
        left = conj(a)
        for axis, below in enumerate(block.below):
            b = mode_products(B, b, below.take(B, overlaps), axis)
        if block.above is None:
            value = B.sum(left * b)
            break
        rank, other_rank = a.shape[-1], b.shape[-1]
        # (nodes, rank of x, rank of y)
        overlap = B.matmul(
            swapped(B.reshape(left, (len(block.nodes), -1, rank))), B.reshape(b, (len(block.nodes), -1, other_rank))
        )
        overlap, power = each_divided(B, overlap)
        overlaps.append(overlap)
        powers.append(power)
    return value, B.sum(exponents(B, B.concatenate(powers, 0)))


def ht_norm(ht_tensor: HTTensor | RawHT) -> Array:
    """Frobenius norm.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    0-dimensional array

    See Also
    --------
    htf.tensors.ht_inner, htf.tensors.ht_distance
    htf.ranks.log_norm : its logarithm, at any order.

    Notes
    -----
    The root of `ht_inner` of the tensor with itself, as costly and as differentiable; at zero the derivative is zero,
    as that of `torch.linalg.vector_norm`.  Right to rounding at every scale, as the square itself is not formed.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> np.allclose(htf.tensors.ht_norm(x), np.linalg.norm(x.to_tensor()))
    True
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    plain = _plain_inner(x, x)
    plain = None if plain is None else real_part(plain)
    if plain is not None and plain > 0:
        return B.sqrt(plain)
    square, exponent = _inner(x, x)
    square = real_part(square)
    half = exponent // 2
    return with_scale(B, root(B, square * B.where(exponent > 2 * half, half * 0 + 2, half * 0 + 1)), half)


def ht_distance(first: HTTensor | RawHT, second: HTTensor | RawHT) -> Array:
    """Frobenius norm of the difference, accurate to rounding error of the larger tensor.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        Tensors of one tree and shape.

    Returns
    -------
    0-dimensional array

    Raises
    ------
    ValueError, TypeError
        Where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_relative_error : from a dense array.
    htf.tensors.ht_norm, htf.tensors.ht_inner

    Notes
    -----
    The difference is orthogonalized, so that its norm is that of the root: nothing is subtracted that is nearly equal
    but entries.  The norm by inner products would be off by the square root of the rounding error.

    Derivatives are those of inner products, Re ⟨x - y, dx - dy⟩ over the distance: with an error of some
    ε ‖x‖ / ‖x - y‖, and zero where the distance is.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = x + 1e-12 * htf.random_ht((4, 5, 6), rank=1, random_state=1)
    >>> bool(1e-13 < htf.tensors.ht_distance(x, y) / x.norm() < 1e-11)
    True
    """
    x, y = pair(first, second)
    B = backend_of(x.factors[0])
    recorded = B.backend_name == "pytorch" and any(map(needs_gradient, [*x.factors, *y.factors]))
    factors, _, exponent = orthogonal_sum([x.detach(), -y.detach()] if recorded else [x, -y])
    value = with_scale(B, frobenius(B, factors[-1]), exponent)
    if not recorded:
        return value
    # Derivatives of the decomposition would not exist where frames of the two together lack full column rank.
    unit = B.where(value > 0, value, B.zeros_like(value) + 1)
    x, y = x / unit, y / unit
    square = real_part(ht_inner(x, x)) - 2 * real_part(ht_inner(x, y)) + real_part(ht_inner(y, y))
    return value * B.sqrt(1 + square - constant(square))
