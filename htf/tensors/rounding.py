"""Truncation to lower ranks: of one HT tensor, of a sum, deterministic or from random sketches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from htf._checks import listed, natural, positive
from htf._random import check_random_state
from htf.linalg.backend import Array, Backend, adjoint, backend_of, conj, constant
from htf.linalg.dense import kept, kept_each, mode_product, mode_products, orthonormal, swapped, tall
from htf.linalg.scaling import frobenius, in_range, with_scale
from htf.linalg.threads import from_pytorch, in_pytorch, small_rank, suits_pytorch, views
from htf.linalg.underflow import certificate
from htf.tensors._blocks import Schedule, schedule_of
from htf.tensors.arithmetic import addable, ht_scale
from htf.tensors.ht_tensor import HTTensor, RawHT, alike
from htf.tensors.orthogonal import (
    check_finite,
    edge_blocks,
    edge_decompositions,
    orthogonal_blocks,
    orthogonal_sum,
)
from htf.tensors.overlaps import frame_overlap, overlaps_from_above
from htf.tensors.random import random_ht
from htf.tensors.rank import RankLike, check_tolerance, limits
from htf.tree import DimensionTree


def ht_round(
    ht_tensor: HTTensor | RawHT,
    rank: RankLike | None = None,
    tol: float | None = None,
    method: str = "svd",
    oversampling: int = 10,
    random_state: Any = None,
) -> HTTensor:
    r"""Truncate an HT tensor by its hierarchical singular value decomposition.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    rank : int, sequence or mapping of int, optional
        Largest rank: of every node, or per node.
    tol : float, optional
        Largest relative error in the Frobenius norm.  The lowest ranks for it are chosen edge by edge.  With neither
        `rank` nor `tol`, only what is zero to rounding error is dropped.
    method : {"svd", "randomized"}
        "randomized" needs `rank`: each frame is sketched with rank + `oversampling` Gaussian columns before the
        decomposition, which pays where the ranks fall by a factor of several.
    oversampling : int
        Columns of a sketch above the rank.
    random_state : int, RandomState or None
        For the sketches.

    Returns
    -------
    HTTensor
        With orthonormal frames.  Where no number of the dtype is as large as the norm, its scale is spread over the
        leaves instead of the root.

    Raises
    ------
    ValueError
        For NaN or infinite entries, a negative tolerance or oversampling, or an unknown method.

    See Also
    --------
    htf.tensors.ht_round_sum : sums, without forming them.
    htf.tensors.quasi_optimality : how far from the best the error may be.
    htf.hierarchical_tucker : of dense tensors.

    Notes
    -----
    Every frame is projected on its leading left singular vectors.  With E edges that carry a singular value spectrum of
    their own (2N-3 on a binary tree, as the two children of the root share one), the error is at most the root of the
    sum of the squares of all that is dropped, and so at most :math:`\sqrt{E}` times that of the best approximation of
    these ranks (Grasedyck 2010, theorem 3.11).  For `tol`, what each edge may drop is ``tol`` · norm / √E.

    O(N n r² + N r⁴) multiplications.  Randomized: O(N n r k + N r³ k) for rank k + oversampling, and an error that
    exceeds the bound by a factor that depends on the decay of the spectra (Halko, Martinsson & Tropp 2011, theorem
    10.6).

    Gradients are those of QR and SVD: right where the kept singular values are distinct and frames have full rank.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((6, 6, 6, 6), rank=4, random_state=0)
    >>> y = x + 1e-6 * htf.random_ht((6, 6, 6, 6), rank=2, random_state=1)
    >>> y.rank, htf.tensors.ht_round(y, tol=1e-4).rank
    ((6, 6, 6, 6, 6, 6, 1), (4, 4, 4, 4, 4, 4, 1))
    >>> htf.tensors.ht_round(y, rank=3).rank
    (3, 3, 3, 3, 3, 3, 1)
    """
    return ht_round_sum(
        [ht_tensor], rank=rank, tol=tol, method=method, oversampling=oversampling, random_state=random_state
    )


def ht_round_sum(
    ht_tensors: Sequence[HTTensor | RawHT],
    weights: Sequence[float] | None = None,
    rank: RankLike | None = None,
    tol: float | None = None,
    method: str = "svd",
    oversampling: int = 10,
    random_state: Any = None,
) -> HTTensor:
    """Truncate a weighted sum of HT tensors without forming it.

    Parameters
    ----------
    ht_tensors : sequence of HTTensor or (tree, factors)
        Tensors of one tree and shape.
    weights : sequence of float or complex, optional
        Weights of the summands; all 1 by default.
    rank, tol, method, oversampling, random_state
        As in `ht_round`; tolerances are relative to the norm of the sum.

    Returns
    -------
    HTTensor

    Raises
    ------
    ValueError
        As `ht_round`; and without any tensor, for weights of another number, where trees or shapes differ, and for
        "randomized" without a rank.
    TypeError
        If `ht_tensors` is one HTTensor, or dtypes or backends differ.
    OverflowError
        If products of the factors are beyond the range of their dtype.

    See Also
    --------
    htf.tensors.ht_add : the exact sum.
    htf.tensors.ht_round : of one tensor.

    Notes
    -----
    The block-diagonal transfer tensors of the sum, R³ entries for R = Σ r, are never written, and
    products with them take the blocks alone.  The decomposition of the sum's frames remains: O(N R⁴).  "randomized" is
    linear in the number s of summands, O(s N r³ k), as sketches add.

    Examples
    --------
    >>> import htf
    >>> terms = [htf.random_ht((6, 6, 6, 6), rank=1, random_state=k) for k in range(3)]
    >>> total = htf.tensors.ht_round_sum([*terms, *terms], weights=[1, 1, 1, -1, 1, 1], tol=1e-10)
    >>> total.rank  # the first of them cancels
    (2, 2, 2, 2, 2, 2, 1)
    """
    summands = _weighted(ht_tensors, weights)
    oversampling = natural("oversampling", oversampling)
    check_random_state(random_state)
    tree = summands[0].tree
    bound = limits(tree, summands[0].dims, rank, summands[0].outputs)
    tol = check_tolerance(tol)
    if method == "randomized":
        if rank is None:
            raise ValueError("method is 'randomized' and rank is None; a sketch needs a rank")
        summands = [_sketched(summands, bound, oversampling, random_state)]
    elif method != "svd":
        raise ValueError(f"method is {method!r}; expected 'svd' or 'randomized'")
    schedule = schedule_of(summands)
    if schedule is not None:
        return truncate_blocks(tree, schedule, *orthogonal_blocks(schedule, summands), bound, tol)
    factors = [f for x in summands for f in x.factors]
    largest = max(max(x.rank) for x in summands)
    back: Callable[[Sequence[Array]], list[Array]] = list
    if suits_pytorch(factors, largest):
        summands, back = [HTTensor._of(tree, in_pytorch(x.factors)) for x in summands], from_pytorch
    elif _suits_numpy(factors, tree.order, largest):
        summands, back = [HTTensor._of(tree, views(x.factors)) for x in summands], in_pytorch
    return HTTensor._of(tree, back(truncate(tree, *orthogonal_sum(summands), bound, tol).factors))


def _suits_numpy(factors: Sequence[Array], order: int, rank: int) -> bool:
    """Whether PyTorch's overhead would be most of the time: many small factors that need no gradient."""
    B = backend_of(factors[0])
    if B.backend_name != "pytorch" or order < 8 or rank > small_rank():
        return False
    bound = certificate(B, factors)
    return bound is not None and not bound.recorded


def _weighted(ht_tensors: Sequence[HTTensor | RawHT], weights: Sequence[float] | None) -> list[HTTensor]:
    if isinstance(ht_tensors, HTTensor):
        raise TypeError("ht_tensors is one HTTensor; expected a sequence of them, or ht_round")
    ht_tensors = listed("ht_tensors", ht_tensors, "a sequence of HTTensors")
    if not ht_tensors:
        raise ValueError("ht_tensors is empty; expected at least one tensor")
    summands = addable(ht_tensors)
    if weights is None:
        return summands
    weights = listed("weights", weights, "a sequence of numbers, one a tensor")
    if len(weights) != len(summands):
        raise ValueError(f"weights has {len(weights)} values; there are {len(summands)} tensors")
    return alike(*(ht_scale(x, weight) for x, weight in zip(summands, weights, strict=True)))


def spectra_count(tree: DimensionTree, outputs: int) -> int:
    """Edges with a spectrum of their own; the children of a binary root share one unless there are outputs."""
    shared = outputs == 1 and tree.order > 1 and len(tree.children(tree.root)) == 2
    return max(tree.n_nodes - 1 - shared, 1)


def truncate(
    tree: DimensionTree,
    factors: list[Array],
    corrections: Sequence[Array | None],
    exponent: Array,
    bound: Sequence[int | None],
    tol: float | None,
) -> HTTensor:
    """Project a tensor, orthogonalized by `orthogonal_sum`, on its leading singular vectors at every node."""
    B = backend_of(factors[0])
    if tree.order == 1:
        return HTTensor._of(tree, [with_scale(B, factors[0], exponent)])
    tail = _tail(B, tree, factors, tol)
    # `inside` is what the frame is multiplied by from its own side; from its parent's, whose rank has been transformed
    # by the correction's inverse, it is the adjoint of the plain singular vectors.
    inside: dict[int, Array] = {}
    outside: dict[int, Array] = {}
    # Leaves whose rank is within its bound already, where ranks are all that is asked for, keep their frames.
    kept_whole = {leaf for leaf in tree.leaves if tol is None and factors[leaf].shape[-1] <= (bound[leaf] or 0)}
    counts = bound if tol is None else None
    # On a linear tree every level has one inner node; a short one has little to carry.
    linear = tree.depth == len(tree.inner_nodes) > 3
    keep = (lambda node, S: kept(S, bound[node], tail)) if linear else None
    for node, U, V, S in edge_decompositions(B, tree, factors, corrections, kept_whole, counts, keep):
        count = kept(S, bound[node], tail)
        outside[node], inside[node] = adjoint(U[:, :count]), V[:, :count].T
    rounded = []
    for node, factor in enumerate(factors):
        if node >= tree.order:
            for axis, child in enumerate(tree.children(node)):
                if child not in kept_whole:
                    factor = mode_product(B, factor, outside[child], axis)
        if node in kept_whole:
            factor = factor if corrections[node] is None else B.matmul(factor, corrections[node])
        elif node != tree.root:
            factor = mode_product(B, factor, inside[node], len(factor.shape) - 1)
        rounded.append(factor)
    return _of_size(B, tree, rounded, exponent)


def _tail(B: Backend, tree: DimensionTree, factors: Sequence[Array], tol: float | None) -> float:
    """Norm of what an edge may drop of an orthogonalized tensor; `factors` are per node or per block, the root last."""
    norm = float(constant(frobenius(B, factors[-1])))
    if tol is not None:
        return tol / math.sqrt(spectra_count(tree, int(factors[-1].shape[-1]))) * norm
    # What rounding error alone would leave in the singular values of an (r, r²) matrix.
    return float(B.eps(factors[0].dtype)) * max(max(f.shape) for f in factors) * norm


def _of_size(B: Backend, tree: DimensionTree, factors: list[Array], exponent: Array) -> HTTensor:
    """The tensor of these factors times a power of two, at the root if a number of the dtype can hold it."""
    if in_range(B, factors[-1], exponent):
        return HTTensor._of(tree, [*factors[:-1], with_scale(B, factors[-1], exponent)])
    # No normal number of this dtype is as large as the norm, or as small, so the scale is spread over the leaves.
    part = B.exp(exponent * (math.log(2) / tree.order))
    return HTTensor._of(tree, [f * part if node < tree.order else f for node, f in enumerate(factors)])


def truncate_blocks(
    tree: DimensionTree,
    schedule: Schedule,
    stacks: list[Array],
    exponent: Array,
    bound: Sequence[int | None],
    tol: float | None,
) -> HTTensor:
    """`truncate` with one array per block, of what `orthogonal_blocks` returns."""
    B = backend_of(stacks[0])
    tail = _tail(B, tree, [f[0] for f in stacks], tol)
    # Leaves keep their frames where ranks are all that is asked for and those of all leaves are within their bounds.
    leaves = tol is not None or any(
        stack.shape[-1] > (bound[node] or 0)
        for block, stack in zip(schedule, stacks, strict=True)
        for node in block.nodes
        if not block.children
    )
    rotated, vectors, values = edge_blocks(
        B, schedule, stacks, leaves, bound if tol is None else None, 0.0 if tol is None else tail
    )
    counts = [0] * tree.n_nodes
    for block, stack in zip(schedule, stacks, strict=True):
        for node in block.nodes:
            counts[node] = int(stack.shape[-1])
    for (b, axis), S in values.items():
        for node, count in zip(schedule[b].children[axis], kept_each(S, tail).tolist(), strict=True):
            counts[node] = max(1, min(count, bound[node] or count))
    rounded: list[Array] = [None] * tree.n_nodes
    for b, block in enumerate(schedule):
        frames: Array = rotated[b] if b in rotated else stacks[b]
        # Number of singular vectors that are kept, per axis and node.
        ends = [[counts[node] for node in nodes] for nodes in (*block.children, block.nodes)]
        if not block.children and leaves and block.above is not None:
            frames = B.matmul(frames, block.above.take(B, vectors)[..., : max(ends[-1])])
        for axis in range(len(block.children)):
            if (b, axis) in vectors:
                U = vectors[b, axis][..., : max(ends[axis])]
                frames = mode_products(B, frames, conj(swapped(U)), axis)
        parts = list(frames[..., : max(ends[-1])])
        if any(len(set(each)) > 1 for each in ends):
            whole = () if block.children else (slice(None),)
            parts = [
                B.copy(part[(*whole, *map(slice, own))])
                for part, own in zip(parts, zip(*ends, strict=True), strict=True)
            ]
        for node, part in zip(block.nodes, parts, strict=True):
            rounded[node] = part
    return _of_size(B, tree, rounded, exponent)


def _sketched(summands: list[HTTensor], bound: Sequence[int | None], oversampling: int, random_state: Any) -> HTTensor:
    r"""The sum projected on frames found from random sketches; ranks `bound` + `oversampling` or less.

    The sketch of node t is :math:`X^{(t)} \Omega_t` for the matricization of the sum, and :math:`\Omega_t` the columns
    of a random HT tensor seen from t.  So it is U_t times what the complement of t leaves of the sum and the random
    tensor: their overlaps, passed from the root to the leaves.  Frames are then made orthonormal from the leaves up,
    each within its children's.
    """
    for x in summands:
        check_finite(x.factors)
    first = summands[0]
    tree = first.tree
    B = backend_of(first.factors[0])
    width = [min(b + oversampling, r) for b, r in zip(bound, _sum_of_ranks(summands), strict=True) if b is not None]
    rng = check_random_state(random_state)
    drawn = random_ht(
        first.dims,
        [*width[:-1], first.outputs],
        tree,
        random_state=rng,
        outputs=first.outputs,
        like=first.factors[0],
        capped=False,
    )
    from_above = _overlaps_above(B, summands, drawn, _overlaps(B, summands, drawn))
    factors: list[Array] = []
    coordinates: list[list[Array]] = []  # of each summand's frame in the new one
    for node in range(tree.n_nodes):
        parts = [x.factors[node] for x in summands]
        if node >= tree.order:
            for axis, child in enumerate(tree.children(node)):
                parts = [mode_product(B, p, C, axis) for p, C in zip(parts, coordinates[child], strict=True)]
        if node == tree.root:
            factors.append(sum(parts[1:], parts[0]))
            break
        # Overlaps conjugate the sum, not the random tensor: these are products with the conjugate of the latter.
        sketch = sum(B.matmul(tall(B, p), conj(above)) for p, above in zip(parts, from_above[node], strict=True))
        Q, _ = orthonormal(B, sketch)
        coordinates.append([B.matmul(adjoint(Q), tall(B, p)) for p in parts])
        factors.append(B.reshape(Q, (*parts[0].shape[:-1], Q.shape[1])))
    return HTTensor._of(tree, factors)


def _sum_of_ranks(summands: Sequence[HTTensor]) -> list[int]:
    return [sum(ranks) for ranks in zip(*(x.rank for x in summands), strict=True)]


def _overlaps(B: Backend, summands: Sequence[HTTensor], drawn: HTTensor) -> list[list[Array]]:
    """Per summand and node, the overlap of its frame with that of the random tensor."""
    overlaps: list[list[Array]] = [[] for _ in summands]
    for node in range(drawn.tree.root):
        found = [
            frame_overlap(B, drawn.tree, node, x.factors[node], drawn.factors[node], own)
            for x, own in zip(summands, overlaps, strict=True)
        ]
        for own, overlap in zip(overlaps, _of_one_scale(B, found), strict=True):
            own.append(overlap)
    return overlaps


def _overlaps_above(
    B: Backend, summands: Sequence[HTTensor], drawn: HTTensor, below: list[list[Array]]
) -> dict[int, list[Array]]:
    """Per node and summand, the overlap of what it and the random tensor are outside of the node."""
    tree = drawn.tree
    above: dict[int, list[Array]] = {}
    for node in range(tree.root, tree.order - 1, -1):
        a, b, group = [x.factors[node] for x in summands], drawn.factors[node], tree.children(node)
        seen: Sequence[Array | None] = above.get(node, [None] * len(summands))
        steps = [overlaps_from_above(B, tree, node, a[k], b, below[k], seen[k], group) for k in range(len(summands))]
        for found in zip(*steps, strict=True):
            above[found[0][0]] = _of_one_scale(B, [overlap for _, overlap in found])
    return above


def _of_one_scale(B: Backend, arrays: Sequence[Array]) -> list[Array]:
    # Only the span of a sketch matters, so its scale is free, but for the summands' in proportion to each other.
    # Without this, high orders overflow.
    largest = max(float(B.max(B.abs(constant(a)))) for a in arrays)
    return [a / largest for a in arrays] if largest > 0 else list(arrays)


def quasi_optimality(tree: DimensionTree, outputs: int = 1) -> float:
    """The factor by which a rounded tensor's error may exceed the best one's: √(2N-3) on a binary tree.

    Parameters
    ----------
    tree : DimensionTree
    outputs : int
        Rank of the root.

    Returns
    -------
    float
        The root of the number of edges with a spectrum of their own.  With several outputs the two edges at a binary
        root count both.

    See Also
    --------
    htf.tensors.ht_round, htf.hierarchical_tucker : whose error it bounds.

    Examples
    --------
    >>> import htf
    >>> round(htf.tensors.quasi_optimality(htf.DimensionTree.balanced(4)), 3)  # √5
    2.236
    """
    if not isinstance(tree, DimensionTree):
        raise TypeError(f"tree is a {type(tree).__name__}; expected a DimensionTree")
    return math.sqrt(spectra_count(tree, positive("outputs", outputs)))
