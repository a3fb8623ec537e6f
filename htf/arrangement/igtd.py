"""Image generator for tabular data: features at cells whose distances are ranked as the features' own."""

from __future__ import annotations

import numpy as np

from htf.arrangement.layout import Layout

# Turns through all features, and the part of the error by which one must lower it for another.
_TURNS, _LEAST = 10, 5e-3


def igtd_places(weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Features at the cells of a layout, by exchanges that lower the sum of differences of ranks (Zhu et al. 2021).

    Ranks are those of the dissimilarities of all pairs of features, and of the distances of all pairs of cells.
    Feature by feature, in turn, is exchanged with the one with which the error falls most.

    Notes
    -----
    O(n²) for each feature of a turn.

    References
    ----------
    .. [1] Y. Zhu et al., "Converting tabular data into images for deep learning with convolutional neural networks",
       Sci. Rep. 11 (2021).
    """
    n = len(weights)
    ranks = _ranks(1 - weights)
    wanted = _ranks(np.linalg.norm(layout.cells[:, None] - layout.cells[None], axis=2))
    found = np.arange(n)
    errors = np.abs(ranks - wanted)
    for _ in range(_TURNS):
        before = errors.sum()
        for i in range(n):
            # Rows of the two, each at the other's cell; what is between the two stays.
            change = np.abs(ranks[i] - wanted) - errors[i] + np.abs(ranks - wanted[i]) - errors
            total = change.sum(1) - change[:, i] - change[np.arange(n), np.arange(n)]
            total[i] = 0
            j = int(np.argmin(total))
            if total[j] < 0:
                pair, swapped = [i, j], [j, i]
                found[pair] = found[swapped]
                ranks[pair] = ranks[swapped]
                ranks[:, pair] = ranks[:, swapped]
                errors[pair] = np.abs(ranks[pair] - wanted[pair])
                errors[:, pair] = errors[pair].T
        if before - errors.sum() <= _LEAST * before:
            break
    return found


def _ranks(distances: np.ndarray) -> np.ndarray:
    """Ranks of the pairs, between 0 and 1, ties having the mean of theirs; symmetric, with zeros on the diagonal."""
    from scipy.stats import rankdata

    n = len(distances)
    upper = np.triu_indices(n, 1)
    found = np.zeros((n, n))
    found[upper] = rankdata(distances[upper].round(12)) / len(upper[0])
    return found + found.T
