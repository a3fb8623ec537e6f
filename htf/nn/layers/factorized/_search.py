"""Ranks for a tensor at an error or a size, from the singular values on the edges of a format.

An SVD-based decomposition of ranks r drops from each edge what is beyond them: its squared error is at most the sum of
the squares dropped, over the edges with a spectrum of their own.  So one threshold for what every edge may drop gives
ranks with a guaranteed error, and the ranks of all thresholds are the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from htf.linalg.backend import backend_of
from htf.linalg.dense import kept, left_singular

if TYPE_CHECKING:
    from htf.nn.layers.factorized._base import Format, Rank

# What float64 leaves of an error that should be zero.
ROUNDING = 1e-12
_STEPS = 5  # of the search for a threshold above the guaranteed one


class Thresholds:
    """The ranks of a tensor in a format for each threshold, relative to the tensor's norm."""

    def __init__(self, layout: Format, tensor: Tensor, limit: Rank | None) -> None:
        self.layout, self.limit = layout, layout.bounds if limit is None else limit
        tensor = tensor.detach().to(torch.float64)
        self.norm = float(tensor.norm())
        self.spectra: dict[frozenset[int], Tensor] = {}
        for side in layout.sides:
            key = self._key(side)
            if side and key not in self.spectra:
                self.spectra[key] = _singular_values(tensor, side)

    def _key(self, side: Sequence[int]) -> frozenset[int]:
        # The modes on either side name the edge; the side without mode 0 stands for both.
        return frozenset(side) if 0 not in side else frozenset(self.layout.modes) - frozenset(side)

    @property
    def edges(self) -> int:
        """Edges with a spectrum of their own."""
        return max(len(self.spectra), 1)

    def rank(self, threshold: float) -> Rank:
        """The lowest ranks for which no edge drops more."""
        counts = {key: kept(s, None, threshold * self.norm) for key, s in self.spectra.items()}
        ranks = [counts[self._key(side)] if side else 1 for side in self.layout.sides]
        return self.layout.lowered([min(r, most) for r, most in zip(ranks, self.limit, strict=True)])


def smallest_for_error(layout: Format, tensor: Tensor, tol: float, limit: Rank | None) -> list[Tensor] | None:
    """Factors for the highest threshold, of a few tried, whose error is at most `tol`."""
    tol = max(tol, ROUNDING)
    thresholds = Thresholds(layout, tensor, limit)
    low, high = tol / math.sqrt(thresholds.edges), tol
    best = layout.decompose(tensor, thresholds.rank(low))
    if layout.error(tensor, best) > tol and limit is not None:
        return None
    if thresholds.edges == 1:
        return best
    tried = thresholds.rank(low)
    for step in range(_STEPS):
        # What no edge may exceed is at most `tol`; that threshold itself is the first to be tried.
        middle = high if step == 0 else math.sqrt(low * high)
        rank = thresholds.rank(middle)
        if rank == tried:
            low = middle
            continue
        factors = layout.decompose(tensor, rank)
        if layout.error(tensor, factors) <= tol:
            low, best, tried = middle, factors, rank
        else:
            high = middle
    return best


def rank_of_size(layout: Format, tensor: Tensor, size: float, limit: Rank | None) -> Rank | None:
    """The ranks of the lowest threshold whose factors hold `size` numbers at most."""
    thresholds = Thresholds(layout, tensor, limit)
    if layout.size(thresholds.rank(1.0)) > size:
        return None
    low, high = math.log(ROUNDING), 0.0
    if layout.size(thresholds.rank(math.exp(low))) <= size:
        return thresholds.rank(math.exp(low))
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if layout.size(thresholds.rank(math.exp(middle))) <= size else (middle, high)
    return thresholds.rank(math.exp(high))


def _singular_values(tensor: Tensor, side: Sequence[int]) -> Tensor:
    rest = [mode for mode in range(tensor.ndim) if mode not in side]
    rows = math.prod(tensor.shape[mode] for mode in side)
    matrix = tensor.permute(*side, *rest).reshape(rows, -1)
    if rows > matrix.shape[1]:
        matrix = matrix.T
    values: Tensor = left_singular(backend_of(matrix), matrix)[1]
    return values
