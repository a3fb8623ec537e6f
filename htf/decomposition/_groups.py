"""Entries of a tensor in groups that agree in some of their indices, in batches of about equal size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from htf.linalg.backend import Array, Backend, asarray
from htf.tree import DimensionTree


def numbered(rows: np.ndarray) -> np.ndarray:
    """A number per row, the same for equal ones; from 0 on without gaps."""
    numbers = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        # Numbered anew after every column, as products of dimensions can be beyond any integer type.
        numbers = np.unique(numbers * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return numbers


class Groups:
    """Groups of entries.

    Parameters
    ----------
    B : Backend
    numbers : ndarray of int (entries,)
        The group of each.
    count : int
        Groups, some of which may have no entries.
    like : Array
        Whose dtype and device weights have.
    """

    def __init__(self, B: Backend, numbers: np.ndarray, count: int, like: Array) -> None:
        self.numbers, self.count = numbers, count
        self._B, self._like = B, like

    @cached_property
    def first(self) -> np.ndarray:
        """An entry of each group; all must have some."""
        return np.unique(self.numbers, return_index=True)[1]

    @cached_property
    def batches(self) -> list[tuple[np.ndarray, np.ndarray, Array]]:
        """Per batch: its groups, the entries of each (groups, most entries of one), and 0 for what only pads, else 1.

        Padded to twice the entries at most, so that a batch is computed in one call.
        """
        return [(g, e, asarray(self._B, w, self._like)) for g, e, w in _batches(self.numbers, self.count)]


class Agreement:
    """Which entries agree in all indices of the modes below a node, and in all indices of the others.

    O(nodes · entries log entries) once.
    """

    def __init__(self, B: Backend, tree: DimensionTree, rows: np.ndarray, like: Array) -> None:
        self._tree = tree
        numbers = [numbered(column[:, None]) for column in rows.T]
        for node in range(tree.order, tree.n_nodes):
            numbers.append(_joined([numbers[child] for child in tree.children(node)]))
        outside = [np.zeros(len(rows), dtype=np.int64)] * tree.n_nodes
        for node in reversed(range(tree.order, tree.n_nodes)):
            group = tree.children(node)
            for child in group:
                outside[child] = _joined([outside[node], *(numbers[other] for other in group if other != child)])
        self._below, self._outside = (
            [Groups(B, each, int(each.max(initial=-1)) + 1, like) for each in found] for found in (numbers, outside)
        )

    def beyond(self, node: int) -> list[Groups]:
        """For each edge of an inner node, children's first: groups of entries that agree in all indices beyond it."""
        return [*(self._below[child] for child in self._tree.children(node)), self._outside[node]]


def _joined(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """One number for entries that agree in all of several numberings, gapless as those are."""
    for each in numbers:
        if int(each.max(initial=-1)) == len(each) - 1:  # all differ already
            return each
    return numbered(np.stack(numbers, axis=1))


def _batches(column: np.ndarray, dim: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    counts = np.bincount(column, minlength=dim)
    entries, starts = np.argsort(column, kind="stable"), np.cumsum(counts) - counts
    sizes = np.frexp(np.maximum(counts, 1) - 0.5)[1]  # rounded up to powers of two
    for size in np.unique(sizes):
        indices = np.flatnonzero(sizes == size)
        place = np.arange(counts[indices].max(initial=1))
        weights = place < counts[indices][:, None]
        chosen = entries[np.where(weights, starts[indices][:, None] + place, 0)]
        yield indices, chosen, weights
