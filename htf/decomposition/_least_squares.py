"""Least squares for one node of an HT tensor after the other, from some entries of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from htf.decomposition._groups import Agreement, Groups, numbered
from htf.linalg.backend import (
    Array,
    Backend,
    adjoint,
    conj,
    eye,
    is_complex,
    real_part,
    square,
    to_numpy,
    zeros,
)
from htf.linalg.dense import joint_values, mode_product, tall
from htf.tensors.ht_tensor import HTTensor
from htf.tree import DimensionTree

# Entries of the rows of a least squares problem that are held at once: 32 MB in doubles.
_CHUNK_ENTRIES = 2**22
# Up to this many unknowns of a node, the normal equations are formed and solved.
_LARGEST_DIRECT = 1024
# From so many to so many, entries are grouped for that where it takes less than this share of the multiplications.
_SMALLEST_GROUPED, _LARGEST_GROUPED = 32, 2048
_WORTH_GROUPING = 0.5
# Steps of conjugate gradients for nodes with more.
_CG_STEPS = 25


@dataclass(frozen=True)
class Options:
    """Entries and settings that all fits of a completion share.

    Attributes
    ----------
    n_iter_max : int
        Most passes of the last fit.
    tol : float
        Relative error at which a fit ends; within reach of the dtype.
    ridge : float
        Weight of the penalty on the norm.
    bar : tqdm
        Counts passes and shows errors.
    """

    n_iter_max: int
    tol: float
    ridge: float
    bar: Any


@dataclass(frozen=True)
class Observed:
    """The entries that are known."""

    B: Backend
    tree: DimensionTree
    dims: tuple[int, ...]
    rows: np.ndarray
    values: Array

    @cached_property
    def slices(self) -> list[Groups]:
        """Per mode, the entries of each index."""
        return [Groups(self.B, column, dim, self.values) for column, dim in zip(self.rows.T, self.dims, strict=True)]

    @cached_property
    def agreement(self) -> Agreement:
        """Which entries agree in the indices beyond each edge."""
        return Agreement(self.B, self.tree, self.rows, self.values)

    def some(self, chosen: np.ndarray) -> Observed:
        return Observed(self.B, self.tree, self.dims, self.rows[chosen], self.values[chosen])

    def minus(self, x: HTTensor) -> Observed:
        """Residuals of a tensor at the entries."""
        rest = Observed(self.B, self.tree, self.dims, self.rows, self.values - x.entries(self.rows))
        # Found once; they are the same at the same entries.
        rest.__dict__.update({name: self.__dict__[name] for name in ("slices", "agreement") if name in self.__dict__})
        return rest

    @cached_property
    def complete(self) -> bool:
        """Whether every entry of the tensor is known."""
        return len(self.rows) >= prod(self.dims) and len(self.tuples[0]) == prod(self.dims)

    @cached_property
    def tuples(self) -> tuple[np.ndarray, np.ndarray]:
        """Each index tuple once, and which of them each entry has."""
        first, copy_of = np.unique(numbered(self.rows), return_index=True, return_inverse=True)[1:]
        return self.rows[first], copy_of

    @cached_property
    def numbers(self) -> np.ndarray:
        """The entries on the host, in double precision."""
        return doubled(self.values)

    def error(self, x: HTTensor) -> float:
        """Relative error of a tensor at these entries."""
        return norm(self.B, x.entries(self.rows) - self.values) / (norm(self.B, self.values) or 1.0)


def doubled(values: Array) -> np.ndarray:
    """An array on the host, in double precision."""
    found = to_numpy(values)
    return found.astype(np.complex128 if is_complex(found) else np.float64)


def norm(B: Backend, vector: Array) -> float:
    """Euclidean norm."""
    return float(B.norm(vector, 2))


class Fit:
    """Alternating least squares on a tensor that is orthogonalized towards one node after the other."""

    def __init__(self, observed: Observed, start: HTTensor, options: Options) -> None:
        self.observed, self.B, self.tree, self.options = observed, observed.B, observed.tree, options
        self.factors = start.orthogonalize().factors
        # Rows of the frames at the given entries, and of what is outside of a node; the latter along one path only.
        self.below: list[Array] = [None] * self.tree.n_nodes
        self.above: dict[int, Array] = {}
        for node in range(self.tree.root):
            self._renew(node)
        self.above[self.tree.root] = observed.values[:, None] * 0 + 1
        self.size = norm(self.B, observed.values) or 1.0
        self.damping = 0.0
        self._weigh(self._error())

    @property
    def tensor(self) -> HTTensor:
        """The tensor as it is fitted so far."""
        return HTTensor._of(self.tree, list(self.factors))

    def run(self, n_passes: int, tol: float, errors: list[float], least_gain: float = 1e-3) -> bool:
        """Passes until the error is below `tol` or no longer falls; whether that came before `n_passes`."""
        start = len(errors)
        for _ in range(n_passes):
            self._pass()
            errors.append(self._error())
            self.options.bar.set_postfix_str(f"rank {max(self.tensor.rank)}, error {errors[-1]:.1e}", refresh=False)
            self.options.bar.update()
            self._weigh(errors[-1])
            if errors[-1] <= tol:
                return True
            if len(errors) - start > 3 and errors[-1] > (1 - least_gain) * errors[-4]:
                return True
        return False

    def _error(self) -> float:
        return norm(self.B, self._residual(self.tree.root)) / self.size

    def _weigh(self, error: float) -> None:
        # A tensor whose frames around a node are orthonormal has the norm of that node's factor: penalties on it are
        # the same problem at every node.  Their weight is that of a Gaussian prior where the error is noise.
        self.damping = self.options.ridge * min(error, 1.0) ** 2

    def _pass(self) -> None:
        for step, node in _tour(self.tree):
            if step == "down":
                self._descend(node)
            elif step == "up":
                self._ascend(node)
            else:
                self._update(node)

    def _descend(self, node: int) -> None:
        B, parent = self.B, self.tree.parent(node)
        assert parent is not None
        axis = self.tree.children(parent).index(node)
        moved = B.moveaxis(self.factors[parent], axis, -1)
        Q, R = B.qr(tall(B, moved))
        orthonormal = B.reshape(Q, (*moved.shape[:-1], Q.shape[1]))
        self.factors[parent] = B.moveaxis(orthonormal, -1, axis)
        self.factors[node] = mode_product(B, self.factors[node], R, len(self.factors[node].shape) - 1)
        siblings = [self.below[c] for c in self.tree.children(parent) if c != node]
        self.above[node] = joint_values(B, orthonormal, [*siblings, self.above[parent]])

    def _ascend(self, node: int) -> None:
        B, parent = self.B, self.tree.parent(node)
        assert parent is not None
        factor = self.factors[node]
        Q, R = B.qr(tall(B, factor))
        self.factors[node] = B.reshape(Q, (*factor.shape[:-1], Q.shape[1]))
        axis = self.tree.children(parent).index(node)
        self.factors[parent] = mode_product(B, self.factors[parent], R, axis)
        self._renew(node)
        del self.above[node]

    def _renew(self, node: int) -> None:
        group = self.tree.children(node)
        if group:
            self.below[node] = joint_values(self.B, self.factors[node], [self.below[c] for c in group])
        else:
            self.below[node] = self.factors[node][self.observed.rows[:, node]]

    def _residual(self, node: int) -> Array:
        self._renew(node)
        return self.observed.values - self.B.sum(self.below[node] * self.above[node], 1)

    def _update(self, node: int) -> None:
        residual = self._residual(node)
        factor = self.factors[node]
        if node < self.tree.order:
            self.factors[node] = factor + self._leaf_change(node, residual)
        else:
            self.factors[node] = factor + self._inner_change(node, residual)

    def _leaf_change(self, node: int, residual: Array) -> Array:
        """Rows of a leaf's frame meet different entries, so each is a problem of its own."""
        B, above, factor = self.B, self.above[node], self.factors[node]
        mean = float(B.sum(square(above))) / prod(tuple(factor.shape))
        penalty, shift = self._shift(mean, above)
        identity = eye(B, int(above.shape[1]), above) * shift
        changes, order = [], []
        for indices, chosen, weights in self.observed.slices[node].batches:
            # (indices, most entries of one, rank); what pads shorter slices has weight 0.
            part = above[chosen] * weights[:, :, None]
            rows = conj(B.transpose(part, (0, 2, 1)))
            right = B.matmul(rows, residual[chosen][:, :, None]) - penalty * factor[indices][:, :, None]
            changes.append(B.solve(B.matmul(rows, part) + identity, right)[:, :, 0])
            order.append(indices)
        return B.concatenate(changes, 0)[np.argsort(np.concatenate(order))]

    def _inner_change(self, node: int, residual: Array) -> Array:
        """Change of an inner node's factor, of the same shape."""
        B, factor = self.B, self.factors[node]
        parts = [self.below[c] for c in self.tree.children(node)] + [self.above[node]]
        size = prod(tuple(factor.shape))
        axis = self._grouped_edge(node, parts) if _SMALLEST_GROUPED <= size <= _LARGEST_GROUPED else None
        if axis is not None:
            groups = self.observed.agreement.beyond(node)[axis]
            gram, right = _grouped_normal_equations(B, parts, residual, axis, groups)
        elif size <= _LARGEST_DIRECT:
            gram, right = _normal_equations(B, parts, residual)
        else:
            return self._iterated_inner_change(factor, parts, residual)
        moved = B.moveaxis(factor, axis or 0, 0)
        penalty, shift = self._shift(float(real_part(B.trace(gram))) / size, residual)
        right = right - penalty * B.reshape(moved, (-1,))
        change = _solved(B, gram + eye(B, size, residual) * shift, right)
        return B.moveaxis(B.reshape(change, tuple(moved.shape)), 0, axis or 0)

    def _iterated_inner_change(self, factor: Array, parts: Sequence[Array], residual: Array) -> Array:
        B, shape = self.B, tuple(factor.shape)
        right, trace = zeros(B, (prod(shape),), residual), 0.0
        for chunk, where in _design(B, parts):
            right = right + B.matmul(adjoint(chunk), residual[where])
            trace += float(B.sum(square(chunk)))
        penalty, shift = self._shift(trace / prod(shape), residual)
        right = right - penalty * B.reshape(factor, (-1,))
        return B.reshape(_conjugate_gradients(B, parts, right, shift), shape)

    def _grouped_edge(self, node: int, parts: Sequence[Array]) -> int | None:
        """The edge along which entries are best grouped for the normal equations, None if that saves little."""
        entries = len(self.observed.rows)
        # With s unknowns, (s/r)² multiplications of an entry and 2 s² of a group, against s² of an entry.
        costs = [
            1 / int(part.shape[1]) ** 2 + 2 * groups.count / entries
            for part, groups in zip(parts, self.observed.agreement.beyond(node), strict=True)
        ]
        best = int(np.argmin(costs))
        return best if costs[best] < _WORTH_GROUPING else None

    def _shift(self, mean: float, like: Array) -> tuple[float, float]:
        """The penalty's weight for a Gramian of this mean diagonal, and what is added to the diagonal in all."""
        epsilon = float(self.B.eps(like.dtype))
        penalty = self.damping * mean
        # Gramians can be singular to rounding error; one is zero where no entry meets the node.
        return penalty, penalty + 10 * epsilon * mean + epsilon**2


def _tour(tree: DimensionTree) -> Iterator[tuple[str, int]]:
    """Steps of a walk around the tree, along every edge once down and once up; nodes are updated on the way up."""
    stack = [(tree.root, 0)]
    while stack:
        node, axis = stack.pop()
        group = tree.children(node)
        if axis < len(group):
            stack += [(node, axis + 1), (group[axis], 0)]
            yield "down", group[axis]
        else:
            yield "update", node
            if node != tree.root:
                yield "up", node


def _design(B: Backend, parts: Sequence[Array]) -> Iterator[tuple[Array, slice]]:
    """Rows of the least squares problem of an inner node: products of what is at the ends of its edges."""
    count = int(parts[0].shape[0])
    step = max(_CHUNK_ENTRIES // prod([int(p.shape[1]) for p in parts]), 1)
    for start in range(0, count, step):
        where = slice(start, min(start + step, count))
        yield _row_products(B, [part[where] for part in parts]), where


def _row_products(B: Backend, parts: Sequence[Array]) -> Array:
    """Kronecker products row by row, (rows, r_1), (rows, r_2), ... to (rows, r_1 r_2 ...)."""
    product = parts[0]
    for part in parts[1:]:
        product = B.reshape(product[:, :, None] * part[:, None, :], (int(product.shape[0]), -1))
    return product


def _normal_equations(B: Backend, parts: Sequence[Array], values: Array) -> tuple[Array, Array]:
    """Matrix (size, size) and right side (size,) of the least squares problem of an inner node."""
    size = prod([int(part.shape[1]) for part in parts])
    gram, right = zeros(B, (size, size), values), zeros(B, (size,), values)
    for chunk, where in _design(B, parts):
        right = right + B.matmul(adjoint(chunk), values[where])
        gram = gram + B.matmul(adjoint(chunk), chunk)
    return gram, right


def _grouped_normal_equations(
    B: Backend, parts: Sequence[Array], values: Array, axis: int, groups: Groups
) -> tuple[Array, Array]:
    """`_normal_equations` from entries in groups that have one row u of `parts[axis]` each; that axis comes first.

    With v the products of the other parts' rows, the matrix is the sum over groups of (ū uᵀ) ⊗ (the sum over its
    entries of v̄ vᵀ): an entry takes (s/r)² multiplications instead of s², for s unknowns and r entries of u.
    """
    own, others = parts[axis], [part for k, part in enumerate(parts) if k != axis]
    rank, rest = int(own.shape[1]), prod([int(part.shape[1]) for part in others])
    gram, right = zeros(B, (rank * rank, rest * rest), values), zeros(B, (rank, rest), values)
    for numbers, entries, weights in groups.batches:
        step = max(_CHUNK_ENTRIES // (rest * max(entries.shape[1], rest)), 1)
        for start in range(0, len(numbers), step):
            where = slice(start, start + step)
            chosen = entries[where]
            count = len(chosen)
            # (groups, entries of one, rest)
            products = B.reshape(_row_products(B, [part[chosen.reshape(-1)] for part in others]), (*chosen.shape, rest))
            products = products * weights[where][:, :, None]
            rows = conj(B.transpose(products, (0, 2, 1)))
            u = own[groups.first[numbers[where]]]
            sums = B.matmul(rows, values[chosen][:, :, None])[:, :, 0]
            right = right + B.matmul(adjoint(u), sums)
            squares = B.reshape(conj(u)[:, :, None] * u[:, None, :], (count, -1))
            inner = B.reshape(B.matmul(rows, products), (count, -1))
            gram = gram + B.matmul(B.transpose(squares, (1, 0)), inner)
    gram = B.transpose(B.reshape(gram, (rank, rank, rest, rest)), (0, 2, 1, 3))
    return B.reshape(gram, (rank * rest, rank * rest)), B.reshape(right, (-1,))


def _solved(B: Backend, matrix: Array, right: Array) -> Array:
    return B.solve(matrix, right[:, None])[:, 0]


def _conjugate_gradients(B: Backend, parts: Sequence[Array], right: Array, damping: float) -> Array:
    """A few steps towards the solution of the damped normal equations, whose matrix is not formed."""
    solution, rest = right * 0, right
    direction, size = rest, float(B.sum(square(rest)))
    first = size
    for _ in range(_CG_STEPS):
        if size <= float(B.eps(right.dtype)) ** 2 * first or size == 0:
            break
        product = direction * damping
        for chunk, _ in _design(B, parts):
            product = product + B.matmul(adjoint(chunk), B.matmul(chunk, direction))
        length = size / float(real_part(B.sum(conj(direction) * product)))
        solution, rest = solution + direction * length, rest - product * length
        previous, size = size, float(B.sum(square(rest)))
        direction = rest + direction * (size / previous)
    return solution
