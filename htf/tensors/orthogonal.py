"""Orthonormal frames, and the singular values of every matricization on the tree."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from htf.linalg.backend import Array, Backend, all_finite, backend_of, constant, needs_gradient, to_numpy
from htf.linalg.dense import (
    left_singular,
    left_singular_each,
    matricize,
    mode_product,
    mode_products,
    orthonormal_each,
    orthonormal_parts,
    swapped,
    tall,
)
from htf.linalg.scaling import divided, each_divided, each_ordinary, exponents, log2_largest, safe_scale, with_scale
from htf.linalg.threads import from_pytorch, in_pytorch, suits_pytorch, views
from htf.linalg.underflow import certificate, ordinary, size_of
from htf.tensors._blocks import Schedule, schedule_of, stacked, unstacked
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tree import DimensionTree

# Below the binary logarithm of any product of factors.
_NO_SIZE = 1e30


def ht_orthogonalize(ht_tensor: HTTensor | RawHT) -> HTTensor:
    """The same tensor with orthonormal frames at every node but the root.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    HTTensor
        Ranks above the bound that the children or the dimension set are lowered to it.  The norm of the tensor is that
        of the root's factor.

    Raises
    ------
    ValueError, OverflowError
        If an entry is NaN or infinite, or the norm of the tensor is beyond the range of its dtype, or below.

    See Also
    --------
    htf.tensors.ht_singular_values, htf.tensors.ht_round : what it is for.

    Notes
    -----
    A QR decomposition per node, its R passed to the parent: O(N n r² + N r⁴) multiplications (Grasedyck 2010, algorithm
    3). Differentiable where the frames have full column rank.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.tensors.ht_orthogonalize(htf.random_ht((4, 5, 6), rank=2, random_state=0))
    >>> frame = x.factors[0]
    >>> np.allclose(frame.T @ frame, np.eye(2)), np.allclose(np.linalg.norm(x.factors[-1]), x.norm())
    (True, True)
    """
    x = as_ht(ht_tensor)
    if suits_pytorch(x.factors, max(x.rank)):
        found = ht_orthogonalize(HTTensor._of(x.tree, in_pytorch(x.factors)))
        return HTTensor._of(x.tree, from_pytorch(found.factors))
    x, exponent = orthogonalized(x)
    B = backend_of(x.factors[0])
    return HTTensor._of(x.tree, [*x.factors[:-1], representable(B, x.factors[-1], exponent)])


def orthogonalized(x: HTTensor) -> tuple[HTTensor, Array]:
    """A tensor with orthonormal frames that x is a multiple of, by two to the power of the second."""
    B = backend_of(x.factors[0])
    factors, corrections, exponent = orthogonal_sum([x])
    factors = [f if P is None else B.matmul(f, P) for f, P in zip(factors, corrections, strict=True)]
    return HTTensor._of(x.tree, factors), exponent


def representable(B: Backend, array: Array, exponent: Array) -> Array:
    """The array times a power of two, or an OverflowError if that is beyond all numbers of its dtype.

    So it is below: a zero must not stand for what is none.
    """
    size, limits = log2_largest(B, array, exponent), B.finfo(array.dtype)
    name = str(array.dtype).removeprefix("torch.")
    if size > math.log2(float(limits.max)):
        raise OverflowError(f"the norm of the tensor is beyond the range of {name}")
    if -math.inf < size < math.log2(float(limits.tiny)) + math.log2(float(limits.eps)):
        raise OverflowError(f"the norm of the tensor is below the smallest number of {name}")
    return with_scale(B, array, exponent)


Orthogonal = tuple[list[Array], list[Array | None], Array]  # the exponent a float where values are at hand


def orthogonal_sum(summands: Sequence[HTTensor]) -> Orthogonal:
    """Factors of the orthogonalized sum of HT tensors of one tree, without forming the sum.

    The orthonormal frames are those of the factors times small corrections (None for the identity), which are left to
    the caller to apply where it is cheapest.  The root's factor has entries below 2; the exponent of the power of
    two that it is to be multiplied by comes third, so that only who needs the norm has to be able to write it.

    The transfer tensors of a sum are block diagonal; they are multiplied by the blocks of the children's R factors one
    by one, so that of R = Σ r columns only r enter each product.
    """
    schedule = schedule_of(summands)
    if schedule is not None:
        stacks, exponent = orthogonal_blocks(schedule, summands)
        factors = unstacked(backend_of(stacks[0]), schedule, stacks)
        return factors, [None] * len(factors), exponent
    plain = _plain_orthogonal_sum(summands)
    if plain is not None:
        return plain
    factors, corrections, exponent = _refused(summands, lambda: _orthogonal_sum(summands), lambda found: found[0][-1])
    return factors, corrections, exponent


def _refused(summands: Sequence[HTTensor], compute: Callable[[], Any], root: Callable[[Any], Array]) -> Any:
    """Compute from the summands; where that fails, raise an error that says which of their factors is not finite."""
    try:
        found = compute()
        failed = not all_finite(backend_of(root(found)), root(found))
    except Exception:  # LinAlgError of NumPy, of PyTorch, or what another backend raises
        for x in summands:
            check_finite(x.factors)
        raise
    if failed:
        # What is not finite anywhere reaches the root, so the factors are looked through only now.
        for x in summands:
            check_finite(x.factors)
        raise OverflowError("products of the factors are beyond the range of their dtype")
    return found


def orthogonal_blocks(schedule: Schedule, summands: Sequence[HTTensor]) -> tuple[list[Array], Array]:
    """`orthogonal_sum` with one array per block, whose frames need no corrections, and the exponent."""
    found: tuple[list[Array], Array] = _refused(
        summands, lambda: _orthogonal_blocks(schedule, summands), lambda found: found[0][-1]
    )
    return found


def _orthogonal_blocks(schedule: Schedule, summands: Sequence[HTTensor]) -> tuple[list[Array], Array]:
    B = backend_of(summands[0].factors[0])
    stacks: list[Array] = []
    triangles: list[list[Array]] = [[] for _ in summands]  # per summand and block, its columns of R
    powers: list[Array] = []
    sizes: list[list[Array]] = [[] for _ in summands]  # divided out of the factors of one summand
    for block in schedule:
        ends = [0, *itertools.accumulate(x.rank[block.nodes[0]] for x in summands)]
        parts = [stacked(B, x.factors, block) for x in summands]
        if len(parts) == 1:
            parts, power = each_ordinary(B, parts)
            powers += [] if power is None else [power]
        else:
            pairs = [each_divided(B, part) for part in parts]
            parts = [part for part, _ in pairs]
            for own, (_, power) in zip(sizes, pairs, strict=True):
                own.append(power)
        for axis, below in enumerate(block.below):
            parts = [
                mode_products(B, part, below.take(B, own), axis) for part, own in zip(parts, triangles, strict=True)
            ]
        if block.above is None:
            joint, exponent = _joined(B, parts, [B.concatenate(own, 0) for own in sizes] if len(parts) > 1 else None)
            root, power = each_divided(B, joint)
            stacks.append(root)
            powers.append(power)
            break
        whole = parts[0] if len(parts) == 1 else B.concatenate(parts, len(parts[0].shape) - 1)
        Q, R = orthonormal_each(B, B.reshape(whole, (len(block.nodes), -1, whole.shape[-1])))
        R, power = each_divided(B, R)
        powers.append(power)
        stacks.append(B.reshape(Q, (*whole.shape[:-1], Q.shape[-1])))
        for own, (a, b) in zip(triangles, itertools.pairwise(ends), strict=True):
            own.append(R[..., a:b])
    return stacks, B.sum(exponents(B, B.concatenate(powers, 0))) + exponent


def _joined(B: Backend, parts: Sequence[Array], sizes: Sequence[Array] | None) -> tuple[Array, Array | float]:
    """The sum of the summands' roots, over a power of two whose exponent comes second.

    Each is over powers of two of its own, `sizes`, divided out of the factors of its nodes: over one power for all, the
    factors of one summand would be lost at some nodes where the others' are much larger, and these at others.
    """
    if sizes is None:
        return parts[0], 0.0
    scaled = [divided(B, part) for part in parts]
    totals = [B.sum(exponents(B, own)) + exponents(B, power) for own, (_, power) in zip(sizes, scaled, strict=True)]
    # What is zero has no size, whatever was divided out on the way.
    empty = [B.max(B.abs(constant(part))) == 0 for part in parts]
    none = totals[0] * 0 - _NO_SIZE
    totals = [B.where(zero, none, total) for zero, total in zip(empty, totals, strict=True)]
    largest = functools.reduce(lambda a, b: B.where(a > b, a, b), totals)
    terms = [with_scale(B, part, total - largest) for (part, _), total in zip(scaled, totals, strict=True)]
    return sum(terms[1:], terms[0]), B.where(largest > none, largest, none * 0)


def _plain_orthogonal_sum(summands: Sequence[HTTensor]) -> Orthogonal | None:
    """The same without any scaling but at the root; None where that may have gone out of range on the way."""
    x = summands[0]
    B = backend_of(x.factors[0])
    everything = x.factors if len(summands) == 1 else [f for y in summands for f in y.factors]
    bound = certificate(B, everything)
    if bound is None:
        return None
    with np.errstate(all="ignore"):
        bound.add(everything)
        if bound.hopeless():
            return None
        try:
            factors, corrections, _ = _orthogonal_sum(summands, scaled=False)
        except Exception:  # of infinities in a decomposition
            return None
        size = size_of(factors[-1])
        rank = sum(max(y.rank) for y in summands)
        widest = max([f.ndim for f in x.factors])
        # Ten is more than the decompositions take.
        multiplications = 10 * x.tree.n_nodes * (widest * float(rank) ** (widest + 1) + max(x.dims) * rank**2)
        if not ordinary(size, factors[-1].dtype) or not bound.holds(size, multiplications):
            return None
        exponent = math.frexp(size)[1] - 1
        factors[-1] = factors[-1] * 2.0**-exponent
    return factors, corrections, float(exponent)


def _orthogonal_sum(summands: Sequence[HTTensor], scaled: bool = True) -> Orthogonal:
    tree = summands[0].tree
    B = backend_of(summands[0].factors[0])
    triangles: list[list[Array | None]] = []  # per node, the blocks of R of each summand; None for the identity
    factors: list[Array] = []
    corrections: list[Array | None] = []
    powers: list[Array] = []  # divided out
    sizes: list[list[Array]] = [[] for _ in summands]  # divided out of the factors of one summand
    for node in range(tree.root):
        parts = _times_triangles(B, tree, node, summands, triangles, sizes if scaled else None)
        whole = parts[0] if len(parts) == 1 else B.concatenate(parts, len(parts[0].shape) - 1)
        Q, P, R = orthonormal_parts(B, tall(B, whole))
        if scaled:
            R, power = divided(B, R)
            powers.append(power)
        corrections.append(P)
        factors.append(Q if node < tree.order else B.reshape(Q, (*whole.shape[:-1], Q.shape[1])))
        if len(parts) == 1:
            # Leaves of full rank often have the identity for their frame, as those of a tensor train.
            triangles.append([None if not scaled and node < tree.order and _is_identity(R) else R])
            continue
        ends = [0]
        for p in parts:
            ends.append(ends[-1] + p.shape[-1])
        triangles.append([R[:, a:b] for a, b in itertools.pairwise(ends)])
    parts = _times_triangles(B, tree, tree.root, summands, triangles, sizes if scaled else None)
    if not scaled:
        return [*factors, sum(parts[1:], parts[0])], [*corrections, None], 0.0
    if len(parts) == 1:
        powers += sizes[0]
    root, exponent = _joined(B, parts, [B.stack(own) for own in sizes] if len(parts) > 1 else None)
    powers.append(safe_scale(B, root))
    return [*factors, root / powers[-1]], [*corrections, None], B.sum(exponents(B, B.stack(powers))) + exponent


def _times_triangles(
    B: Backend,
    tree: DimensionTree,
    node: int,
    summands: Sequence[HTTensor],
    triangles: Sequence[Sequence[Array | None]],
    sizes: Sequence[list[Array]] | None,
) -> list[Array]:
    """The summands' factors of a node, over powers of two (added to `sizes`, if any), times their children's R."""
    parts = [x.factors[node] for x in summands]
    if sizes is not None:
        pairs = [divided(B, part) for part in parts]
        parts = [part for part, _ in pairs]
        for own, (_, power) in zip(sizes, pairs, strict=True):
            own.append(power)
    for axis, child in enumerate(tree.children(node)):
        parts = [p if R is None else mode_product(B, p, R, axis) for p, R in zip(parts, triangles[child], strict=True)]
    return parts


def _is_identity(matrix: Array) -> bool:
    """Whether a matrix without gradient is the identity; of arrays that a certificate may be made for."""
    if matrix.shape[0] != matrix.shape[1]:
        return False
    if type(matrix) is not np.ndarray:
        if needs_gradient(matrix):
            return False
        matrix = views([matrix])[0]
    return bool(matrix[0, 0] == 1) and bool((matrix == np.eye(len(matrix))).all())


def check_finite(factors: Sequence[Array]) -> None:
    """A ValueError that names the first node whose factor has a NaN or infinite entry."""
    for node, factor in enumerate(factors):
        if not all_finite(backend_of(factor), factor):
            raise ValueError(f"factor of node {node} has NaN or infinite entries")


def ht_singular_values(ht_tensor: HTTensor | RawHT) -> dict[int, Array]:
    """Singular values of the matricizations of every node against the rest.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    dict
        From each node but the root to its singular values, descending, as many as its rank (or the bound on it, where
        that is lower).  The hierarchical rank is how many of them are not zero.

    Raises
    ------
    ValueError, OverflowError
        If an entry is NaN or infinite, or the largest singular value is beyond the range of the dtype, or below.

    See Also
    --------
    htf.ranks.spectra : relative to the norm, also of networks and CP tensors.
    htf.tensors.ht_round : drops the small ones.

    Notes
    -----
    O(N n r² + N r⁴) multiplications; accurate to some ``epsilon^(4/5)`` of the largest, as no Gramian's small
    eigenvalues are used. Where there are several outputs, their axis belongs to the rest.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> values = htf.tensors.ht_singular_values(x)
    >>> np.allclose(values[0], np.linalg.svd(x.to_unfolded(0), compute_uv=False)[:2])
    True
    """
    x = as_ht(ht_tensor)
    if suits_pytorch(x.factors, max(x.rank)):
        spectra = ht_singular_values(HTTensor._of(x.tree, in_pytorch(x.factors)))
        return dict(zip(spectra, from_pytorch(list(spectra.values())), strict=True))
    B = backend_of(x.factors[0])
    schedule = schedule_of([x])
    if schedule is not None:
        stacks, exponent = orthogonal_blocks(schedule, [x])
        _, _, found = edge_blocks(B, schedule, stacks)
        return dict(
            sorted(
                (node, values)
                for (b, axis), S in found.items()
                for node, values in zip(schedule[b].children[axis], _representable_each(B, S, exponent), strict=True)
            )
        )
    factors, corrections, exponent = orthogonal_sum([x])
    return {
        node: representable(B, S, exponent) for node, _, _, S in edge_decompositions(B, x.tree, factors, corrections)
    }


def edge_decompositions(
    B: Backend,
    tree: DimensionTree,
    factors: Sequence[Array],
    corrections: Sequence[Array | None],
    skipped: Container[int] = (),
    counts: Sequence[int | None] | None = None,
    keep: Callable[[int, Array], int] | None = None,
) -> list[tuple[int, Array, Array, Array]]:
    """(node, left singular vectors U, the same times the correction, singular values), from the root's children down.

    `factors` and `corrections` are those of `orthogonal_sum`.  What the rest of the tensor looks like from a node is an
    orthonormal matrix times a small one; that small one is carried down, and never its Gramian.  Leaves in `skipped`
    are left out; of the others, only the first of `counts` singular values need be accurate.

    With `keep`, which maps a node and its singular values to how many of them are kept, only those are carried down:
    the spectra further down are those of a tensor that is truncated above already.  They are smaller, and so is the
    work.  That is for linear trees alone.  There the errors of the steps are orthogonal to each other, as a tensor
    train's are: what an edge drops is a projection of the modes outside of its node, and lower nodes only change those
    inside.  Where two subtrees are truncated beside each other, their errors need not be.
    """
    found: list[tuple[int, Array, Array, Array]] = []
    carried: dict[int, Array] = {tree.root: factors[-1]}
    for node in range(tree.root, tree.order - 1, -1):
        seen = carried.pop(node)
        for axis, child in enumerate(tree.children(node)):
            if child in skipped:
                continue
            matrix, count = matricize(B, seen, axis), None if counts is None else counts[child]
            U, S = left_singular(B, matrix, count, fewest=128)
            P = corrections[child]
            corrected = U if P is None else B.matmul(P, U)
            found.append((child, U, corrected, S))
            if child >= tree.order:
                down = corrected * S
                if keep is not None:
                    down = down[:, : keep(child, S)]
                carried[child] = mode_product(B, factors[child], down.T, len(factors[child].shape) - 1)
    return found


def _representable_each(B: Backend, rows: Array, exponent: Array) -> list[Array]:
    """`representable` of the rows of an array."""
    limits, largest = B.finfo(rows.dtype), to_numpy(rows)[:, 0]
    if largest.min() > 0:
        sizes = np.log2(largest) + float(exponent)
        low, high = sizes.min() - 1, sizes.max() + 1
        # One scale for all, which no row may be far from.
        if math.log2(float(limits.tiny)) < low and high < math.log2(float(limits.max)) and high - low < 32:
            return list(with_scale(B, rows, exponent))
    return [representable(B, row, exponent) for row in rows]


def edge_blocks(
    B: Backend,
    schedule: Schedule,
    stacks: Sequence[Array],
    leaves: bool = True,
    counts: Sequence[int | None] | None = None,
    floor: float = 0.0,
) -> tuple[dict[int, Array], dict[tuple[int, int], Array], dict[tuple[int, int], Array]]:
    """`edge_decompositions` of what `orthogonal_blocks` returns.

    Returns
    -------
    rotated : dict
        From the number of each inner block to its frames, with their own singular vectors as columns.
    vectors, values : dict
        Left singular vectors and singular values of children, by block and axis, the leaves' only if they are asked
        for.  Nothing below `floor` is accurate.
    """
    rotated: dict[int, Array] = {}
    vectors: dict[tuple[int, int], Array] = {}
    values: dict[tuple[int, int], Array] = {}
    for b in range(len(schedule) - 1, -1, -1):
        block = schedule[b]
        if not block.children:
            continue
        seen = rotated[b] = stacks[b]
        if block.above is not None:
            U, S = block.above.take(B, vectors), block.above.take(B, values)
            rotated[b] = mode_products(B, seen, swapped(U), len(block.children))
            seen = rotated[b] * B.reshape(S, (len(block.nodes), *[1] * len(block.children), -1))
        for axis, children in enumerate(block.children):
            if not leaves and all(not schedule[key].children for key, _ in block.below[axis].parts):
                continue
            most = None if counts is None else max(counts[child] or seen.shape[axis + 1] for child in children)
            turned = B.moveaxis(seen, axis + 1, 1) if axis else seen
            matrices = B.reshape(turned, (len(block.nodes), seen.shape[axis + 1], -1))
            vectors[b, axis], values[b, axis] = left_singular_each(B, matrices, most, floor)
    return rotated, vectors, values
