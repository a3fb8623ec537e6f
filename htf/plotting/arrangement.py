"""Which tree for which data: entanglement across the levels of trees, and arrangements of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from htf.plotting.style import SEQUENTIAL, look, styled, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.arrangement import Arrangement
    from htf.ranks.data_entanglement import DataEntanglement


@styled
def plot_data_entanglement(profile: DataEntanglement, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Mean entropy of each level of the tree, its nodes as points, and the null of permuted labels.

    Parameters
    ----------
    profile : DataEntanglement
    ax : matplotlib Axes, optional
        Where to draw, for several profiles in one figure; by default on a new figure.
    label : str, optional
        For a legend.

    Returns
    -------
    matplotlib Axes

    See Also
    --------
    htf.ranks.data_entanglement : what it draws.
    htf.plotting.plot_arrangement : an arrangement of features.

    Examples
    --------
    >>> import numpy as np, htf
    >>> x = np.random.default_rng(0).normal(size=(100, 8))
    >>> shuffled = htf.ranks.data_entanglement(x)
    >>> smooth = htf.ranks.data_entanglement(x.cumsum(1))
    >>> ax = htf.plotting.plot_data_entanglement(shuffled, label="independent")
    >>> ax = htf.plotting.plot_data_entanglement(smooth, ax, label="a random walk")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['independent', 'a random walk']
    """
    if ax is None:
        ax = Figure(figsize=(4.6, 3.2), layout="constrained").subplots()
    levels = profile.by_level()
    drawn = sum(line.get_linestyle() != ":" for line in ax.lines)
    (line,) = ax.plot(list(levels), list(levels.values()), label=label, **look(drawn, linestyle="-"))
    ax.scatter(
        [profile.tree.level(node) for node in profile.entropies],
        list(profile.entropies.values()),
        s=8,
        alpha=0.3,
        color=line.get_color(),
        linewidths=0,
    )
    if profile.null is not None:
        nulls = {level: [n for n in profile.null if profile.tree.level(n) == level] for level in levels}
        means = [sum(profile.null[n] for n in nodes) / len(nodes) for nodes in nulls.values()]
        ax.plot(list(nulls), means, linestyle=":", color=line.get_color(), label="permuted labels" if label else None)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("level of the tree, from the leaves")
    ax.set_ylabel("entanglement entropy (nats)")
    ax.spines[["top", "right"]].set_visible(False)
    if label is not None:
        ax.legend()
    return ax


@styled
def plot_arrangement(arranged: Arrangement, height: int | None = None, width: int | None = None) -> Figure:
    """Similarities of features in the order given and in the order found, and in a grid those of neighbours.

    Parameters
    ----------
    arranged : Arrangement
    height, width : int, optional
        Of a grid: a third picture shows, at each cell, the mean similarity to the cells beside it.

    Returns
    -------
    matplotlib Figure
        Not attached to any window.

    See Also
    --------
    htf.arrange : what it draws.
    htf.plotting.plot_data_entanglement : entropies on the tree that was found.

    Examples
    --------
    >>> import numpy as np, htf
    >>> walk = np.random.default_rng(0).normal(size=(300, 9)).cumsum(1)
    >>> arranged = htf.arrange(walk[:, ::-2], method="correlation", cut="spectral")
    >>> figure = htf.plotting.plot_arrangement(arranged, 1, 5)
    >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
    ['as given', 'by correlation', 'similarity of neighbours']
    """
    if (height is None) != (width is None):
        raise ValueError(f"height is {height} and width {width}; expected both or neither")
    count = 2 if height is None else 3
    figure = Figure(figsize=(2.4 * count, 2.6), layout="constrained")
    axes = figure.subplots(1, count)
    weights, order = arranged.similarities, arranged.order
    for ax, matrix, title in (
        (axes[0], weights, "as given"),
        (axes[1], weights[np.ix_(order, order)], f"by {words(arranged.method)}"),
    ):
        picture = ax.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=1)
        ax.set_title(title)
        ax.set_xlabel("feature" if ax is axes[0] else "place")
    if height is not None and width is not None:
        grid = arranged.grid(height, width)
        axes[2].imshow(_neighbours(weights, grid), cmap=SEQUENTIAL, vmin=0, vmax=1)
        axes[2].set_title("similarity of neighbours")
        axes[2].set_axis_off()
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def _neighbours(weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Mean similarity of each cell's feature to those beside and above it and below; NaN where there is none."""
    total, count = np.zeros(grid.shape), np.zeros(grid.shape)
    for axis in (0, 1):
        first, second = np.split(np.arange(grid.shape[axis]), [1])[1], np.arange(grid.shape[axis] - 1)
        near, far = grid.take(first, axis), grid.take(second, axis)
        there = (near >= 0) & (far >= 0)
        values = np.where(there, weights[near, far], 0)
        for rows in (first, second):
            at = (rows, slice(None)) if axis == 0 else (slice(None), rows)
            total[at] += values
            count[at] += there
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
