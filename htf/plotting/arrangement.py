"""Which tree for which data: entanglement across the levels of trees, and arrangements of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.ranks.data_entanglement import DataEntanglement


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
    """
    if ax is None:
        ax = Figure(figsize=(4.6, 3.2), layout="constrained").subplots()
    levels = profile.by_level()
    (line,) = ax.plot(list(levels), list(levels.values()), marker="o", markersize=4, label=label)
    ax.scatter(
        [profile.tree.level(node) for node in profile.entropies],
        list(profile.entropies.values()),
        s=6,
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
        ax.legend(frameon=False, fontsize="small")
    return ax
