"""Exchanges of features across the cuts of a layout that lower the exact entanglement of the data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from htf.arrangement.layout import Layout
from htf.tensors.data_tensor import DataTensor, factor_of, normalized

# Inner products below this count as it: their logarithms are added and subtracted.
_LEAST = 1e-30


class Exchanges:
    r"""Features at the cells of a layout, and the entropies across its cuts.

    Parameters
    ----------
    tensor : DataTensor
        Of as many modes as cells.
    layout : Layout
    found : array (cells,)
        The feature at each cell.
    weights : array (cells, cells)
        Similarities of the features.

    Notes
    -----
    Logarithms of the samples' Gram matrices are held for every feature and every part, so that those of a part in
    which one feature is replaced by another cost O(samples²), and its entropy O(samples³).

    Which exchanges to try first follows from the squared similarities: their sum across a cut is what its entropy is
    proportional to where samples differ little.  With :math:`g_{\nu n}` by how much feature n adds to it outside part
    ν rather than inside, exchanging features i and j changes the sum over all cuts by about
    :math:`R_{ij} + R_{ji} - R_{ii} - R_{jj}` where :math:`R_{in} = \sum_{\nu \ni i} g_{\nu n}`.
    """

    def __init__(self, tensor: DataTensor, layout: Layout, found: np.ndarray, weights: np.ndarray) -> None:
        self.found, self.squares = found.copy(), weights**2
        units = tensor.units
        grams = units @ units.mT  # (features, samples, samples)
        self.signs = torch.where(grams < 0, -1, 1).to(torch.int8)
        self.logs = grams.abs_().clamp_(min=_LEAST).log_()
        # Features that do not vary are alike, but nothing is entangled with them.
        still = (self.logs.abs().amax((1, 2)) < 1e-12).numpy()
        self.squares[still], self.squares[:, still] = 0, 0
        self.fixed = np.triu(still[:, None] & still) | np.tri(len(still), dtype=bool)
        self.everything = self.logs.sum(0), self.signs.prod(0, dtype=torch.int8)
        self.labels = tensor.weights @ tensor.weights.T
        # Parts of one feature have the same entropies wherever they are, and those of the whole are 0.
        self.parts = sorted(
            {part for start, middle, stop in layout.cuts for part in ((start, middle), (middle, stop))}
            - {(k, k + 1) for k in range(len(found))}
        )
        self.member = np.zeros((len(self.parts), len(found)), dtype=bool)  # of features
        for k, (start, stop) in enumerate(self.parts):
            self.member[k, self.found[start:stop]] = True
        self.sums = [
            (self.logs[torch.from_numpy(row)].sum(0), self.signs[torch.from_numpy(row)].prod(0, dtype=torch.int8))
            for row in self.member
        ]
        self.entropies = np.array([self._entropy(*each) for each in self.sums])

    @property
    def total(self) -> float:
        """Sum of the entropies of all parts of two features or more."""
        return float(self.entropies.sum())

    def lower(self, trials: int) -> int:
        """Try so many exchanges, the most promising first, and keep those that lower the total; how many."""
        tried: set[tuple[int, int]] = set()
        kept = 0
        predicted = self._predicted()
        for _ in range(trials):
            for pair in tried:
                predicted[pair] = np.inf
            i, j = (int(k) for k in np.unravel_index(np.argmin(predicted), predicted.shape))
            if not np.isfinite(predicted[i, j]):
                break
            if self._exchange(i, j):
                kept += 1
                # Of what was tried, only what has nothing to do with the two is as it was.
                tried = {pair for pair in tried if not {i, j} & set(pair)}
                predicted = self._predicted()
            tried.add((i, j))
        return kept

    def _predicted(self) -> np.ndarray:
        """Changes of the squared similarities across all cuts by exchanges, above the diagonal."""
        member = self.member.astype(float)
        inside = member @ self.squares
        R = member.T @ (self.squares.sum(0) - 2 * inside)
        own = R.diagonal()
        change = R + R.T - own[:, None] - own
        change[self.fixed] = np.inf
        return change

    def _exchange(self, i: int, j: int) -> bool:
        """Exchange two features if that lowers the total."""
        touched = np.flatnonzero(self.member[:, i] != self.member[:, j])
        changed = []
        for k in touched:
            out, new = (i, j) if self.member[k, i] else (j, i)
            log, sign = self.sums[k]
            changed.append((log - self.logs[out] + self.logs[new], sign * self.signs[out] * self.signs[new]))
        after = [self._entropy(*each) for each in changed]
        if not sum(after) < self.entropies[touched].sum() - 1e-12:
            return False
        at, other = (int(np.flatnonzero(self.found == feature)[0]) for feature in (i, j))
        self.found[[at, other]] = j, i
        self.member[touched, i], self.member[touched, j] = self.member[touched, j], self.member[touched, i].copy()
        self.entropies[touched] = after
        for k, each in zip(touched, changed, strict=True):
            self.sums[k] = each
        return True

    def _entropy(self, log: Tensor, sign: Tensor) -> float:
        """That of a part, from the logarithms and signs of its Gram matrix."""
        below = log.exp() * sign
        above = (self.everything[0] - log).exp_().mul_(self.everything[1] * sign).mul_(self.labels)
        factor = factor_of(below)
        spectrum = normalized(factor.T @ above @ factor)
        return -float(torch.special.xlogy(spectrum, spectrum).sum())
