"""A beam search for large entries, from the leaves of the tree to its root.

In the basis of a node's left singular vectors U, with singular values S, the slice of the tensor at an index tuple i of
the node's modes has the norm ‖U[i, :] S‖, which bounds all of its entries.  Rows U[i, :] follow from those of the
children by the transfer tensor.  They may be beyond the range of doubles, so each is kept with a logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from htf.linalg.backend import backend_of, square
from htf.linalg.dense import mode_product
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.orthogonal import edge_decompositions, orthogonal_sum

# Numbers of the rows of all combinations that are held at once: 32 MB in doubles.
_CHUNK = 2**22
# Rounding error of the rows of frames, relative to their norms.
_HIDDEN = 1e-12
# Entries that are returned.
_CANDIDATES = 32


@dataclass
class Found:
    """Result of a search.

    Attributes
    ----------
    indices : list of tuples of int
        Of the largest entries met, the largest first.
    bound : float
        No entry is larger in size than this or than the largest met.
    zero : bool
        Whether the tensor is zero.
    """

    indices: list[tuple[int, ...]]
    bound: float
    zero: bool = False


@dataclass
class _Rows:
    """Index tuples of a node: their rows of the frame, of largest entry 1, the logarithms, and where they came from."""

    rows: np.ndarray  # (count, rank)
    logs: np.ndarray  # (count,)
    choices: np.ndarray  # (count, children): numbers of the children's rows; (count, 1): indices, for a leaf


class Beam:
    """A tensor in the basis of its singular vectors at every node, for searches of several widths."""

    def __init__(self, x: HTTensor) -> None:
        B = backend_of(x.factors[0])
        factors, corrections, exponent = orthogonal_sum([x])
        self.tree = x.tree
        self.log_unit = float(exponent) * math.log(2)
        self.values: dict[int, np.ndarray] = {}
        turned: dict[int, np.ndarray] = {}  # what the parent's axis is multiplied by
        inside: dict[int, np.ndarray] = {}
        for node, U, V, S in edge_decompositions(B, x.tree, factors, corrections):
            turned[node], inside[node], self.values[node] = U.conj().T, V, np.asarray(S)
        self.factors: list[np.ndarray] = []
        for node, factor in enumerate(factors):
            for axis, child in enumerate(x.tree.children(node)):
                factor = mode_product(B, factor, turned[child], axis)
            if node != x.tree.root:
                factor = mode_product(B, factor, inside[node].T, len(factor.shape) - 1)
            self.factors.append(factor)

    def search(self, width: int, least: float = 0.0, signed: bool = False) -> Found:
        """Follow up to `width` index tuples of every node; slices whose norm is below `least` are left out for good.

        If `signed`, of a real tensor, entries below zero are left out too, and none is larger than the bound.
        """
        tree, left_out = self.tree, -math.inf
        if not np.any(self.factors[-1]):
            return Found([], 0.0, zero=True)
        # Rounding errors of norms must not leave out what is as large as `least`.
        floor = math.log(least) - 1e-6 - self.log_unit if least > 0 else -math.inf
        kept: list[_Rows] = []
        for node in range(tree.n_nodes):
            if node < tree.order:
                factor = self.factors[node]
                found = _Rows(factor, np.zeros(len(factor)), np.arange(len(factor))[:, None])
            else:
                found, dropped = self._joined(node, kept, width, floor, signed)
                left_out = max(left_out, dropped)
            if node == tree.root:
                break
            found, dropped = self._selected(found, self._log_norms(node, found.rows, found.logs), width, floor)
            left_out = max(left_out, dropped)
            kept.append(found)
            for child in tree.children(node):
                kept[child].rows = kept[child].rows[:0]
        sizes = found.rows[:, 0].clip(0) if signed else np.abs(found.rows[:, 0])
        logs = np.where(sizes > 0, np.log(np.where(sizes > 0, sizes, 1)) + found.logs, -np.inf)
        order = np.argsort(-logs, kind="stable")[:_CANDIDATES]
        best = float(logs[order[0]]) if len(order) else -math.inf
        kept.append(found)
        indices = [self._index(kept, int(k)) for k in order]
        return Found(indices, _exp(max(left_out, best) + self.log_unit))

    def _log_norms(self, node: int, rows: np.ndarray, logs: np.ndarray, signed: bool = False) -> np.ndarray:
        """Logarithms of the norms of slices, (count,); rows may have axes of children to come before the last."""
        if signed and node == self.tree.root and rows.ndim == 2:
            rows = rows.clip(0)
        flat = rows.reshape(len(rows), -1, rows.shape[-1])
        squares = square(flat)
        norms = np.sqrt(squares.sum((1, 2)))
        if node != self.tree.root:
            S = self.values[node]
            # What rounding of the rows can hide counts as part of the norm.
            norms = np.sqrt((squares * S**2).sum((1, 2))) + _HIDDEN * S[0] * norms
        return np.where(norms > 0, np.log(np.where(norms > 0, norms, 1)) + logs, -np.inf)

    def _selected(self, found: _Rows, norms: np.ndarray, width: int, floor: float) -> tuple[_Rows, float]:
        """The rows of the largest norms, and the largest norm that is left out though it is not below the floor."""
        chosen = np.flatnonzero(norms >= floor) if floor > -math.inf else np.arange(len(norms))
        dropped = -math.inf
        if len(chosen) > width:
            order = np.argpartition(-norms[chosen], width)
            dropped = float(norms[chosen[order[width:]]].max())
            chosen = np.sort(chosen[order[:width]])
        rows, logs = _normalized(found.rows[chosen], found.logs[chosen])
        return _Rows(rows, logs, found.choices[chosen]), dropped

    def _joined(self, node: int, kept: list[_Rows], width: int, floor: float, signed: bool) -> tuple[_Rows, float]:
        """Rows of a node at combinations of its children's, one child after the other."""
        group, factor = self.tree.children(node), self.factors[node]
        first = kept[group[0]]
        dropped = -math.inf
        rows = np.tensordot(first.rows, factor, axes=(1, 0))  # (count, ranks of the children to come, own rank)
        found = _Rows(rows, first.logs, np.arange(len(rows))[:, None])
        for child in group[1:]:
            other = kept[child]
            if len(group) > 2:
                # With many children, norms of partial tuples leave out what would be too many combinations.
                found, left = self._selected(found, self._log_norms(node, found.rows, found.logs), width, floor)
                dropped = max(dropped, left)
            found, left = self._product(node, found, other, width, floor, signed)
            dropped = max(dropped, left)
        return found, dropped

    def _product(
        self, node: int, found: _Rows, other: _Rows, width: int, floor: float, signed: bool
    ) -> tuple[_Rows, float]:
        """Combinations with the rows of one more child; the best of them chunk by chunk."""
        count, more = len(found.rows), len(other.rows)
        if not count or not more:
            empty = np.zeros((0, *found.rows.shape[2:]), dtype=found.rows.dtype)
            return _Rows(empty, np.zeros(0), np.zeros((0, found.choices.shape[1] + 1), dtype=np.int64)), -math.inf
        numbers = more * int(np.prod(found.rows.shape[2:], dtype=np.int64))
        step = max(1, _CHUNK // max(numbers, 1))
        parts: list[_Rows] = []
        dropped = -math.inf
        for start in range(0, count, step):
            some = slice(start, start + step)
            rows = np.tensordot(other.rows, found.rows[some], axes=(1, 1))  # (more, some, ranks to come, own rank)
            rows = np.moveaxis(rows, 0, 1)
            rows = rows.reshape(-1, *rows.shape[2:])
            logs = (found.logs[some][:, None] + other.logs).reshape(-1)
            part = _Rows(rows, logs, np.arange(start * more, start * more + len(rows)))
            norms = self._log_norms(node, rows, logs, signed)
            part, left = self._selected(part, norms, max(width, _CANDIDATES), floor)
            dropped = max(dropped, left)
            before, last = np.divmod(part.choices, more)
            part.choices = np.concatenate([found.choices[before], last[:, None]], axis=1)
            parts.append(part)
        columns = zip(*((part.rows, part.logs, part.choices) for part in parts), strict=True)
        return _Rows(*(np.concatenate(column) for column in columns)), dropped

    def _index(self, kept: list[_Rows], number: int) -> tuple[int, ...]:
        """The index tuple of a row of the root."""
        index = [0] * self.tree.order
        stack = [(self.tree.root, number)]
        while stack:
            node, row = stack.pop()
            choices = kept[node].choices[row]
            if node < self.tree.order:
                index[node] = int(choices[0])
            else:
                stack.extend(zip(self.tree.children(node), (int(c) for c in choices), strict=True))
        return tuple(index)


def _normalized(rows: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their largest entries, whose logarithms are added."""
    if not len(rows):
        return rows, logs
    sizes = np.abs(rows).reshape(len(rows), -1).max(1)
    sizes = np.where(sizes > 0, sizes, 1.0)
    return rows / sizes.reshape(-1, *(1,) * (rows.ndim - 1)), logs + np.log(sizes)


def _exp(log: float) -> float:
    return math.exp(log) if log < 709 else math.inf
