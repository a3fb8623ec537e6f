"""Frames of HT tensors and ConvACs alike, in double precision and of norm 1, and the overlaps between them.

A ConvAC is an HT tensor with diagonal transfer tensors.  They are never written out: node ν has a matrix W, and
overlaps of its frame are Wᵀ (⊙_c M_c) W, O(R³) where a full transfer tensor would take O(R^(arity + 1)).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tensorly.cp_tensor import CPTensor

from htf.linalg.backend import Array, Backend, backend_of, check_real, constant, eye
from htf.linalg.dense import matricize, mode_product
from htf.nn import Factorization
from htf.tensors.arithmetic import frame_overlap
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.orthogonal import check_finite
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
        scaled = [_scaled(_double(factor)) for factor in given]
        return cls(tree, tuple(f for f, _ in scaled), diagonal, sum(log for _, log in scaled))

    def normalized(self) -> Frames:
        """The same with frames of about norm 1, so that products of hundreds of factors stay in range."""
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
        """U_aᵀ U_b of the frames of two sets of factors a and b, for all nodes.

        Each is divided by a constant, whose logarithm comes with it, beyond those of the nodes below.
        """
        overlaps: list[Array] = []
        logs: list[float] = []
        for node, (a, b) in enumerate(zip(first, second, strict=True)):
            overlap, log = self._overlap(node, a, b, overlaps)
            overlap, own = _scaled(overlap)
            overlaps.append(overlap)
            logs.append(log + own)
        return overlaps, logs

    def _overlap(self, node: int, a: Array, b: Array, below: Sequence[Array]) -> tuple[Array, float]:
        B, group = self.backend, self.tree.children(node)
        if not self.diagonal:
            return frame_overlap(B, self.tree, node, a, b, below), 0.0
        if not group:
            return B.matmul(a.T, b), 0.0
        product, total = below[group[0]], 0.0
        for child in group[1:]:
            # A node may have hundreds of children.
            product, log = _scaled(product * below[child])
            total += log
        return B.matmul(a.T, B.matmul(product, b)), total

    def above(
        self, first: Sequence[Array], second: Sequence[Array], below: Sequence[Array], edges: Collection[int]
    ) -> dict[int, Array]:
        """Overlaps of what the tensors are outside of nodes, each divided by a constant; for `edges`, and above them.

        The columns of a node's frame U and of the rest of the tensor A make up its matricization, U Aᵀ; here are
        A_aᵀ A_b.
        """
        B, tree = self.backend, self.tree
        wanted = set(edges)
        for node in sorted(wanted):
            above: int | None = node
            while (above := tree.parent(above)) is not None and above not in wanted:  # type: ignore[arg-type]
                wanted.add(above)
        found = {tree.root: eye(B, int(self.factors[-1].shape[-1]), self.factors[0])}
        for node in range(tree.root, tree.order - 1, -1):
            if node in wanted or node == tree.root:
                step = self._step_diagonal if self.diagonal else self._step_full
                for child, overlap in step(node, first[node], second[node], below, found[node], wanted):
                    found[child], _ = _scaled(overlap)
        return found

    def _step_diagonal(
        self, node: int, a: Array, b: Array, below: Sequence[Array], above: Array, wanted: Collection[int]
    ) -> Iterable[tuple[int, Array]]:
        B, group = self.backend, self.tree.children(node)
        seen = B.matmul(a, B.matmul(above, b.T))
        # Products of all siblings but one: what comes before it times what comes behind.
        behind: list[Array] = [None] * len(group)
        for k in range(len(group) - 1, 0, -1):
            behind[k - 1] = below[group[k]] if behind[k] is None else _scaled(behind[k] * below[group[k]])[0]
        for k, child in enumerate(group):
            if child in wanted:
                yield child, seen if behind[k] is None else seen * behind[k]
            seen, _ = _scaled(seen * below[child])

    def _step_full(
        self, node: int, a: Array, b: Array, below: Sequence[Array], above: Array, wanted: Collection[int]
    ) -> Iterable[tuple[int, Array]]:
        B, group = self.backend, self.tree.children(node)
        seen = mode_product(B, b, above, len(group))
        for axis, child in enumerate(group):
            if child in wanted:
                part = seen
                for other_axis, other in enumerate(group):
                    if other != child:
                        part = mode_product(B, part, below[other], other_axis)
                yield child, B.matmul(matricize(B, a, axis), matricize(B, part, axis).T)

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
        """As an HT tensor; diagonal transfer tensors, of binary trees, are written out."""
        if not self.diagonal:
            return HTTensor._of(self.tree, self.factors)
        leaves, inner = self.factors[: self.tree.order], self.factors[self.tree.order :]
        identities = [eye(self.backend, int(f.shape[0]), f) for f in inner]
        return HTTensor._of(self.tree, [*leaves, *(i[:, :, None] * f for i, f in zip(identities, inner, strict=True))])


def check_edges(tree: DimensionTree, edges: Iterable[int] | None) -> list[int]:
    """The nodes below the root that were asked for, or all of them."""
    if edges is None:
        return list(tree.edges)
    chosen = list(edges)
    for node in chosen:
        if isinstance(node, bool) or not hasattr(node, "__index__"):
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
            check_real(factor, f"factor {mode} of x")
        B = check_real(weights, "the weights of x")
        return DimensionTree.balanced(len(factors), len(factors)), [*factors, B.reshape(weights, (-1, 1))], True
    if not isinstance(x, HTTensor | tuple):
        raise TypeError(f"x is a {type(x).__name__}; expected an HTTensor, a CPTensor, an HTNetwork or a CPNetwork")
    x = as_ht(x)
    return x.tree, x.factors, False


def _double(factor: Array) -> Array:
    double = backend_of(factor).float64
    return factor.to(double) if hasattr(factor, "to") and not hasattr(factor, "astype") else factor.astype(double)


def _scaled(array: Array) -> tuple[Array, float]:
    """The array divided by its largest entry, as a constant, and the logarithm of that; by 1 if it is zero."""
    B = backend_of(array)
    largest = float(B.max(B.abs(constant(array)))) or 1.0
    return array / largest, math.log(largest)
