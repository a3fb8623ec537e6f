r"""Overlaps of the frames of two tensors of one tree, and of what the tensors are outside of their nodes.

The matricization of a tensor by a node t is :math:`U_t A_t^\top`, for the frame U and the rest of the tensor A.  For
tensors a and b, overlaps below the nodes are :math:`U_{a,t}^* U_{b,t}`, found from the leaves to the root, and
overlaps above them :math:`A_{a,t}^* A_{b,t}`, found from the root to the leaves; the first is conjugated.

Transfer tensors may be diagonal, as those of a ConvAC, and are then never written out: a node holds a matrix W of shape
(own width, width of the parent), and the overlap of its frames is :math:`W_a^* (\bigodot_c M_c) W_b`, O(R³)
multiplications where a full transfer tensor of k children would take O(R^(k + 1)).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce

from htf.linalg.backend import Array, Backend, adjoint, asarray, backend_of, conj, constant, eye, real_part
from htf.linalg.dense import matricize, mode_product, products_of_others, tall
from htf.linalg.scaling import over_largest
from htf.tree import DimensionTree

Overlaps = Sequence[Array] | Mapping[int, Array]


def frame_overlap(B: Backend, tree: DimensionTree, node: int, a: Array, b: Array, below: Overlaps) -> Array:
    """U_aᴴ U_b of a node's frames, (r_a, r_b), from its factors in two tensors and the overlaps `below` its children.

    Transfer tensors are full.
    """
    return frame_product(B, tree, node, conj(a), b, below)


def frame_product(B: Backend, tree: DimensionTree, node: int, a: Array, b: Array, below: Overlaps) -> Array:
    """U_aᵀ U_b of a node's frames, (r_a, r_b), from its factors in two tensors and those `below` its children."""
    if node >= tree.order:
        for axis, child in enumerate(tree.children(node)):
            b = mode_product(B, b, below[child], axis)
    return B.matmul(tall(B, a).T, tall(B, b))


def overlaps_from_above(
    B: Backend,
    tree: DimensionTree,
    node: int,
    a: Array,
    b: Array,
    below: Overlaps,
    above: Array | None,
    wanted: Collection[int],
) -> Iterator[tuple[int, Array]]:
    """A_aᴴ A_b as seen from those children of a node that are `wanted`, each with its child; transfer tensors are full.

    `above` is the overlap of the rest of the tensors as seen from the node itself; None stands for the identity.
    """
    group = tree.children(node)
    a = conj(a)
    seen = b if above is None else mode_product(B, b, above, len(group))
    last = max((axis for axis, child in enumerate(group) if child in wanted), default=-1)
    for axis, child in enumerate(group[: last + 1]):
        if child in wanted:
            part = seen  # the overlaps of the children before this one are in it
            for behind in range(axis + 1, len(group)):
                part = mode_product(B, part, below[group[behind]], behind)
            yield child, B.matmul(matricize(B, a, axis), matricize(B, part, axis).T)
        if axis < last:
            seen = mode_product(B, seen, below[child], axis)


def overlaps_below(
    tree: DimensionTree, first: Sequence[Array], second: Sequence[Array], diagonal: bool = False
) -> tuple[list[Array], list[float]]:
    """U_aᴴ U_b of the frames of two sets of factors a and b, for all nodes.

    Each is divided by a constant, whose logarithm comes with it, beyond those of the nodes below.
    """
    B = backend_of(first[0])
    overlaps: list[Array] = []
    logs: list[float] = []
    for node, (a, b) in enumerate(zip(first, second, strict=True)):
        total = 0.0
        if diagonal and (group := tree.children(node)):
            joint = overlaps[group[0]]
            for child in group[1:]:
                # A node may have hundreds of children.
                joint, log = over_largest(joint * overlaps[child])
                total += log
            overlap = B.matmul(adjoint(a), B.matmul(joint, b))
        else:
            overlap = frame_overlap(B, tree, node, a, b, overlaps)
        overlap, own = over_largest(overlap)
        overlaps.append(overlap)
        logs.append(total + own)
    return overlaps, logs


def overlaps_above(
    tree: DimensionTree,
    first: Sequence[Array],
    second: Sequence[Array],
    below: Sequence[Array],
    edges: Collection[int],
    diagonal: bool = False,
) -> dict[int, Array]:
    """A_aᴴ A_b of what two sets of factors are outside of nodes, for `edges` and all nodes above them.

    Each is divided by a constant; `below` is from `overlaps_below`.
    """
    B = backend_of(first[0])
    wanted = set(edges)
    for node in sorted(wanted):
        parent: int | None = node
        while (parent := tree.parent(parent)) is not None and parent not in wanted:  # type: ignore[arg-type]
            wanted.add(parent)
    found = {tree.root: eye(B, int(first[-1].shape[-1]), first[0])}
    for node in range(tree.root, tree.order - 1, -1):
        if node not in found:
            continue
        a, b = first[node], second[node]
        if diagonal:
            seen = B.matmul(conj(a), B.matmul(found[node], b.T))
            chosen = [child for child in tree.children(node) if child in wanted]
            others = [below[child] for child in tree.children(node) if child not in wanted]
            rests = products_of_others(reduce(_times, others, seen), [below[child] for child in chosen], _times)
            steps: Iterable[tuple[int, Array]] = zip(chosen, rests, strict=True)
        else:
            steps = overlaps_from_above(B, tree, node, a, b, below, found[node], wanted)
        for child, overlap in steps:
            found[child], _ = over_largest(overlap)
    return found


def _times(first: Array, second: Array) -> Array:
    """Entrywise product, divided by its largest entry as a constant."""
    return over_largest(first * second)[0]


def log_norm(tree: DimensionTree, factors: Sequence[Array], diagonal: bool = False) -> Array:
    """Logarithm of the Frobenius norm, which may be beyond the range of any dtype; -inf for zero.

    Differentiable, in the precision of the factors; of several outputs together.
    """
    scaled = [over_largest(factor) for factor in factors]
    parts = [part for part, _ in scaled]
    B = backend_of(parts[0])
    overlaps, logs = overlaps_below(tree, parts, parts, diagonal)
    square = real_part(overlaps[-1].trace())
    # Rounding can leave the square of a numerical zero below it.
    if float(constant(square)) <= 0:
        return asarray(B, -float("inf"), real_part(factors[0]))
    return (B.log(square) + sum(logs)) / 2 + sum(log for _, log in scaled)
