"""Cells of a line or a grid, and the cuts that halve them again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from htf.tree import DimensionTree


@dataclass(frozen=True)
class Layout:
    """A rectangle of cells, halved along its longer side down to single cells.

    Attributes
    ----------
    height, width : int
    cells : array (cells, 2)
        Rows and columns, in the order of the cuts: the cells of every part are neighbours in it.
    cuts : tuple of (start, middle, stop)
        Parts and where they are cut, the largest first, so that a part comes after the one that it is of.
    """

    height: int
    width: int
    cells: np.ndarray
    cuts: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, height: int, width: int) -> Layout:
        """The layout of a rectangle; a line has a height of 1."""
        cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), 2).reshape(-1, 2)
        cuts, level = [], [(0, len(cells))]
        while level:
            below = []
            for start, stop in level:
                if stop - start < 2:
                    continue
                part = cells[start:stop]
                sides = part.max(0) - part.min(0) + 1
                axis = 0 if sides[0] > sides[1] else 1
                other = np.lexsort((part[:, 1 - axis], part[:, axis]))
                cells[start:stop] = part[other]
                middle = start + int((sides[axis] + 1) // 2 * sides[1 - axis])
                cuts.append((start, middle, stop))
                below += [(start, middle), (middle, stop)]
            level = below
        return cls(height, width, cells, tuple(cuts))

    def tree(self, features: np.ndarray) -> DimensionTree:
        """The tree of the cuts over the features at the cells."""
        built: dict[tuple[int, int], Any] = {(k, k + 1): int(feature) for k, feature in enumerate(features)}
        for start, middle, stop in reversed(self.cuts):
            built[start, stop] = (built.pop((start, middle)), built.pop((middle, stop)))
        return DimensionTree.from_nested(built[0, len(features)])
