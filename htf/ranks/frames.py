"""Frames of HT tensors and ConvACs alike, in double precision and of norm 1.

A ConvAC is an HT tensor with diagonal transfer tensors, which are never written out: node ν has a matrix W.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tensorly.cp_tensor import CPTensor

from htf._checks import is_truth_value, listed
from htf.linalg.backend import Array, Backend, backend_of, check_numbers, constant, eye, in_double, promoted
from htf.linalg.scaling import over_largest
from htf.nn import Factorization
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.orthogonal import check_finite
from htf.tensors.overlaps import overlaps_above, overlaps_below
from htf.tree import DimensionTree

Ranked: TypeAlias = HTTensor | RawHT | Factorization | CPTensor


@dataclass(frozen=True)
class Frames:
    """Factors of every node in double precision.

    Attributes
    ----------
    tree : DimensionTree
    factors : tuple of arrays
        Leaf frames, then transfer tensors; where these are `diagonal`, their diagonals: (own width, parent's width).
    diagonal : bool
    log_scale : float
        Logarithm of what the tensor has been divided by.
    """

    tree: DimensionTree
    factors: tuple[Array, ...]
    diagonal: bool
    log_scale: float = 0.0

    @classmethod
    def of(cls, x: Ranked, run: int = 0) -> Frames:
        """The frames of a tensor or of one run of a network, each factor divided by its largest entry."""
        tree, given, diagonal = _taken_apart(x, run)
        check_finite(given)
        # Constants are divided out: gradients of what ignores scale do not see them.
        scaled = [over_largest(factor) for factor in promoted([in_double(factor) for factor in given], "x")]
        return cls(tree, tuple(f for f, _ in scaled), diagonal, sum(log for _, log in scaled))

    def normalized(self) -> Frames:
        """Divide frames to about norm 1, so that products of hundreds of factors stay in range."""
        _, logs = self.below(self.constants, self.constants)
        factors = tuple(f * math.exp(-log / 2) for f, log in zip(self.factors, logs, strict=True))
        return replace(self, factors=factors, log_scale=self.log_scale + sum(logs) / 2)

    @property
    def backend(self) -> Backend:
        """The backend of the factors."""
        return backend_of(self.factors[0])

    @property
    def constants(self) -> tuple[Array, ...]:
        """The factors without their gradient history."""
        return tuple(constant(f) for f in self.factors)

    def below(self, first: Sequence[Array], second: Sequence[Array]) -> tuple[list[Array], list[float]]:
        """Overlaps of the frames of two sets of factors on this tree; see `htf.tensors.overlaps`."""
        return overlaps_below(self.tree, first, second, self.diagonal)

    def above(
        self, first: Sequence[Array], second: Sequence[Array], below: Sequence[Array], edges: Collection[int]
    ) -> dict[int, Array]:
        """Overlaps of what the tensors are outside of `edges`; see `htf.tensors.overlaps`."""
        return overlaps_above(self.tree, first, second, below, edges, self.diagonal)

    def separated(self, modes: Collection[int]) -> Frames:
        """Diagonal frames on a binary tree that keeps subtrees within `modes`, and outside of them, together.

        A node of a ConvAC multiplies its children column by column, in any order and grouping; nodes put in between
        have identity matrices.
        """
        B, inside = self.backend, set(modes)
        factors: dict[frozenset[int], Array] = {}
        built: list[tuple[Any, frozenset[int]]] = []  # nested form and modes of every node

        def joined(items: list[tuple[Any, frozenset[int]]], down_to: int, width: int) -> list[Any]:
            while len(items) > down_to:
                (a, first), (b, second), *items = items
                factors[first | second] = eye(B, width, self.factors[0])
                items = [*items, ((a, b), first | second)]
            return items

        for node, factor in enumerate(self.factors):
            group = [built[child] for child in self.tree.children(node)]
            if group:
                width = int(factor.shape[0])
                sides = [[c for c in group if c[1] <= inside], [c for c in group if not c[1] & inside]]
                sides.append([c for c in group if c not in sides[0] and c not in sides[1]])
                single = max(map(len, sides)) == len(group)
                items = group if single else [c for side in sides for c in joined(side, 1, width)]
                (a, first), (b, second) = joined(items, 2, width)
                built.append(((a, b), first | second))
            else:
                built.append((node, frozenset((node,))))
            factors[built[-1][1]] = factor
        tree = DimensionTree.from_nested(built[-1][0])
        ordered = tuple(factors[frozenset(tree.modes(node))] for node in range(tree.n_nodes))
        return replace(self, tree=tree, factors=ordered)

    def to_ht(self) -> HTTensor:
        """Convert to an HT tensor; diagonal transfer tensors, of binary trees, are written out."""
        if not self.diagonal:
            return HTTensor._of(self.tree, self.factors)
        leaves, inner = self.factors[: self.tree.order], self.factors[self.tree.order :]
        identities = [eye(self.backend, int(f.shape[0]), f) for f in inner]
        return HTTensor._of(self.tree, [*leaves, *(i[:, :, None] * f for i, f in zip(identities, inner, strict=True))])


def check_edges(tree: DimensionTree, edges: Iterable[int] | None) -> list[int]:
    """The nodes below the root that were asked for, or all of them."""
    if edges is None:
        return list(tree.edges)
    chosen = listed("edges", edges, "nodes, which are integers")
    for node in chosen:
        if is_truth_value(node) or not hasattr(node, "__index__"):
            raise TypeError(f"edges holds {node!r}; expected nodes, which are integers")
        if not 0 <= node < tree.root:
            raise IndexError(f"edges holds node {node}; expected nodes below the root, 0 to {tree.root - 1}")
    return [int(node) for node in chosen]


def _taken_apart(x: Any, run: int) -> tuple[DimensionTree, Sequence[Array], bool]:
    if isinstance(x, Factorization) and x.tree is not None:
        return x.tree, list(x.node_matrices(run).values()), True
    if run != 0 and not isinstance(x, Factorization):
        raise IndexError(f"run is {run}; only networks have several, expected 0")
    if isinstance(x, CPTensor):
        weights, factors = x
        if len(factors) < 2:
            raise ValueError(f"x is a CPTensor of {len(factors)} mode; expected at least 2")
        for mode, factor in enumerate(factors):
            check_numbers(factor, f"factor {mode} of x")
        B = check_numbers(weights, "the weights of x")
        return DimensionTree.balanced(len(factors), len(factors)), [*factors, B.reshape(weights, (-1, 1))], True
    if not isinstance(x, HTTensor | tuple):
        raise TypeError(f"x is a {type(x).__name__}; expected an HTTensor, a CPTensor, an HTNetwork or a CPNetwork")
    x = as_ht(x)
    return x.tree, x.factors, False
