"""Ranks of HT tensors: what a tree and a shape allow, and how users say which they want."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Any

from htf._checks import check_dims, check_shape, is_truth_value, positive, warn
from htf.linalg.dense import products_of_others
from htf.tree import DimensionTree

RankLike = int | Sequence[int] | Mapping[int, int]


def rank_bounds(tree: DimensionTree, dims: Sequence[int], outputs: int = 1) -> tuple[int, ...]:
    """Largest rank of every node that any tensor of a shape can have.

    Parameters
    ----------
    tree : DimensionTree
    dims : sequence of int
        Dimension of each mode.
    outputs : int
        Rank of the root.

    Returns
    -------
    tuple of int
        Per node, the smaller side of its matricization; `outputs` for the root.

    Raises
    ------
    TypeError, ValueError
        For dimensions that are no positive integers or not as many as the tree has modes, and for what is no tree.

    See Also
    --------
    htf.tensors.validate_ht_rank : ranks within these bounds.
    htf.ranks.hierarchical_rank : ranks that a tensor has.

    Examples
    --------
    >>> import htf
    >>> htf.tensors.rank_bounds(htf.DimensionTree.balanced(4), (2, 3, 4, 50))
    (2, 3, 4, 24, 6, 6, 1)
    """
    tree = as_tree(tree, len(check_shape("dims", dims)), "dims")
    return _rank_bounds(tree, check_dims(dims, tree.order), positive("outputs", outputs))


@lru_cache(maxsize=64)
def _rank_bounds(tree: DimensionTree, dims: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    below = list(dims)
    for node in tree.inner_nodes:
        below.append(prod([below[child] for child in tree.children(node)]))
    rest = {tree.root: outputs}  # products of the dimensions outside, by multiplication: large numbers divide slowly
    for node in reversed(tree.inner_nodes):
        group = tree.children(node)
        rest |= zip(group, products_of_others(rest[node], [below[c] for c in group], operator.mul), strict=True)
    return (*(min(rows, rest[node]) for node, rows in enumerate(below[:-1])), outputs)


def n_parameters(tree: DimensionTree, dims: Sequence[int], ranks: Sequence[int]) -> int:
    """Entries of all factors of an HT tensor of these ranks."""
    leaves = sum(dims[mode] * ranks[mode] for mode in tree.leaves)
    if tree.order == 1:
        return leaves
    return leaves + sum(ranks[node] * prod([ranks[c] for c in tree.children(node)]) for node in tree.inner_nodes)


def validate_ht_rank(
    tensor_shape: Sequence[int],
    rank: RankLike | float | str = "same",
    tree: DimensionTree | None = None,
    rounding: str = "round",
    outputs: int = 1,
) -> tuple[int, ...]:
    """The rank of every node of an HT tensor.

    Parameters
    ----------
    tensor_shape : sequence of int
        Dimension of each mode.
    rank : "same", float, int, sequence or mapping of int
        "same": as many parameters as the dense tensor; a float: that fraction of them, but a whole number above 1, such
        as 2.0, is an int; an int: at every node, where the shape allows it; a sequence: per node of the tree, the
        root's last; a mapping: per node named, the others as high as they go.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    rounding : {"round", "floor", "ceil"}
        For "same" and fractions: the nearest number of parameters, at most, or at least as many.
    outputs : int
        Rank of the root.

    Returns
    -------
    tuple of int
        Per node; no rank exceeds what the matricization or the neighbours allow.

    Warns
    -----
    UserWarning
        If ranks that were asked for node by node exceed their bounds, or an int exceeds all of them; they are lowered.

    Raises
    ------
    ValueError, TypeError
        For ranks or `outputs` below 1, ranks of the wrong number, or a root's rank that is not `outputs`.

    See Also
    --------
    htf.tensors.rank_bounds : the largest ranks of a shape.
    htf.hierarchical_tucker, htf.random_ht : take such ranks.

    Examples
    --------
    >>> import htf
    >>> htf.tensors.validate_ht_rank((8, 8, 8, 8), 10)  # no more than a leaf allows
    (8, 8, 8, 8, 10, 10, 1)
    >>> htf.tensors.validate_ht_rank((8, 8, 8, 8), 0.05)  # a twentieth of the dense tensor's entries
    (3, 3, 3, 3, 3, 3, 1)
    >>> htf.tensors.validate_ht_rank((8, 8, 8, 8), {4: 3})  # as high as they go, but at node 4
    (8, 8, 8, 8, 3, 3, 1)
    """
    tensor_shape = check_shape("tensor_shape", tensor_shape)
    tree = as_tree(tree, len(tensor_shape), "tensor_shape")
    dims, outputs = check_dims(tensor_shape, tree.order), positive("outputs", outputs)
    rank = _plain(rank)
    wanted, ranks = wanted_and_feasible(tree, dims, rank, outputs, rounding)
    lowered = [node for node in range(tree.n_nodes - 1) if wanted[node] is not None and ranks[node] < wanted[node]]  # type: ignore[operator]
    if lowered and (isinstance(rank, Sequence | Mapping) or len(lowered) == tree.n_nodes - 1):
        node = lowered[0]
        warn(
            f"rank {wanted[node]} of node {node} exceeds its bound {ranks[node]} and is lowered to it"
            + (f"; so are those of {len(lowered) - 1} more nodes" if len(lowered) > 1 else "")
        )
    return tuple(ranks)


def wanted_and_feasible(
    tree: DimensionTree, dims: tuple[int, ...], rank: RankLike | float | str, outputs: int, rounding: str = "round"
) -> tuple[list[int | None], list[int]]:
    """The rank asked for at every node, None where none is, and the highest up to it that the shape allows."""
    if isinstance(rank, str):
        if rank != "same":
            raise ValueError(f"rank is {rank!r}; expected 'same', a fraction, an integer, or one per node")
        rank = 1.0
    rank = _plain(rank)
    if isinstance(rank, float) and (not rank.is_integer() or rank == 1.0):
        return [None] * tree.n_nodes, _of_fraction(tree, dims, rank, rounding, outputs)
    wanted = spread_rank(tree, rank, outputs)  # type: ignore[arg-type]
    bounds = rank_bounds(tree, dims, outputs)
    return wanted, feasible(tree, [b if w is None else min(w, b) for w, b in zip(wanted, bounds, strict=True)])


def spread_rank(tree: DimensionTree, rank: RankLike, outputs: int) -> list[int | None]:
    """One rank, or None, per node."""
    rank = _plain(rank)
    if isinstance(rank, Mapping):
        rank = {operator.index(node) if hasattr(node, "__index__") else node: value for node, value in rank.items()}
        for node in rank:
            if not (isinstance(node, int) and 0 <= node < tree.n_nodes):
                raise ValueError(f"rank names node {node!r}; the tree has nodes 0 to {tree.n_nodes - 1}")
        wanted: list[int | None] = [
            positive(f"rank of node {node}", rank[node]) if node in rank else None for node in range(tree.n_nodes)
        ]
    elif isinstance(rank, Sequence):
        if len(rank) != tree.n_nodes:
            raise ValueError(f"rank has {len(rank)} entries; the tree has {tree.n_nodes} nodes, one rank each")
        wanted = [positive(f"rank of node {node}", r) for node, r in enumerate(rank)]
    else:
        wanted = [positive("rank", rank)] * (tree.n_nodes - 1) + [None]
    if wanted[-1] not in (None, outputs):
        raise ValueError(f"rank of the root (node {tree.root}) is {wanted[-1]}; expected {outputs}")
    wanted[-1] = outputs
    return wanted


def _plain(rank: Any) -> Any:
    """NumPy's and torch's numbers and arrays as Python's."""
    return rank.tolist() if hasattr(rank, "tolist") else rank


def feasible(tree: DimensionTree, ranks: Sequence[int]) -> list[int]:
    """Lower ranks until none exceeds the product of its neighbours' at either end of its edge."""
    ranks = list(ranks)
    for node in list(tree.inner_nodes)[:-1]:
        ranks[node] = min(ranks[node], prod([ranks[c] for c in tree.children(node)]))
    for node in reversed(tree.inner_nodes):
        for child in tree.children(node):
            others = prod([ranks[c] for c in tree.children(node) if c != child]) * ranks[node]
            ranks[child] = min(ranks[child], others)
    # Lowering from the root may have lowered a child below what its parent counted on; the passes only ever lower.
    below = [prod([ranks[c] for c in tree.children(n)]) for n in list(tree.inner_nodes)[:-1]]
    settled = all(ranks[node] <= b for node, b in zip(list(tree.inner_nodes)[:-1], below, strict=True))
    return ranks if settled else feasible(tree, ranks)


def _of_fraction(tree: DimensionTree, dims: tuple[int, ...], fraction: float, rounding: str, outputs: int) -> list[int]:
    if not (fraction > 0 and math.isfinite(fraction)):
        raise ValueError(f"rank is the fraction {fraction}; expected a positive one")
    if rounding not in ("round", "floor", "ceil"):
        raise ValueError(f"rounding is {rounding!r}; expected 'round', 'floor' or 'ceil'")
    bounds = rank_bounds(tree, dims, outputs)
    # Exact, as the number of entries can be beyond the range of floats.
    target = Fraction(fraction) * prod(list(dims)) * outputs

    def ranks(r: int) -> list[int]:
        return feasible(tree, [*(min(r, b) for b in bounds[:-1]), outputs])

    def count(r: int) -> int:
        return n_parameters(tree, dims, ranks(r))

    low, high = 1, max(bounds)
    while low < high:  # the largest uniform rank with at most the target's parameters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle - 1)
    above = min(low + 1, max(bounds))
    chosen = low
    if count(low) < target and (
        rounding == "ceil" or (rounding == "round" and count(above) - target < target - count(low))
    ):
        chosen = above
    return ranks(chosen)


def limits(tree: DimensionTree, dims: Sequence[int], rank: RankLike | str | None, outputs: int) -> list[int | None]:
    """Largest ranks for a truncation, None where nothing is said; asking for more than there is asks for nothing."""
    if rank is None:
        return [None] * tree.n_nodes
    if isinstance(rank, str):
        raise ValueError(f"rank is {rank!r}; expected an integer for all nodes, or one per node")
    wanted = spread_rank(tree, rank, outputs)
    if None not in wanted:
        return wanted
    # A node that a mapping leaves out may have any rank.
    bounds = rank_bounds(tree, dims, outputs)
    return [b if r is None else r for r, b in zip(wanted, bounds, strict=True)]


def check_tolerance(tol: float | None, name: str = "tol") -> float | None:
    """A relative tolerance, or None."""
    if tol is None:
        return None
    try:
        # Numbers come from NumPy and torch too, so it is the value that decides, not the type.
        number = None if isinstance(tol, bool | str) or is_truth_value(tol) else float(_plain(tol))
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name} is {tol!r}; expected a number")
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{name} is {tol}; expected a number of at least 0")
    return number


def as_tree(tree: DimensionTree | None, order: int, what: str = "the tensor") -> DimensionTree:
    """A tree of an order, the balanced one by default, or an error that says what came instead."""
    if tree is None:
        return DimensionTree.balanced(order)
    if not isinstance(tree, DimensionTree):
        raise TypeError(f"tree is a {type(tree).__name__}; expected a DimensionTree, see DimensionTree.from_nested")
    if tree.order != order:
        raise ValueError(f"tree has {tree.order} modes; {what} has {order}")
    return tree
