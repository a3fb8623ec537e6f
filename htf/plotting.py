"""Every figure of the library, drawn from saved results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.probes.result import RankFit
    from htf.tree import DimensionTree

_COLOURS = {
    "original": "tab:blue",
    "random_labels": "tab:orange",
    "random_images": "tab:green",
    "shuffled_pixels": "tab:purple",
    "random_pixels": "tab:brown",
}
_AXIS = {"cp": "CP rank", "ht": "HT rank (width of every node)"}


def plot_rank_fit(result: RankFit) -> Figure:
    """Error against rank, original data and twins, train and test, a panel per format.

    Parameters
    ----------
    result : RankFit
        Error bars are standard deviations over its classes and seeds.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.
    """
    if not result.records:
        raise ValueError("result has no records to plot")
    formats = result.values("format")
    figure = Figure(figsize=(3.8 * len(formats) + 2.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(formats), sharey=True, squeeze=False)[0]
    for ax, form in zip(panels, formats, strict=True):
        for twin in result.values("twin"):
            ranks = sorted({r.rank for r in result.select(format=form, twin=twin)})
            for error, style in (("train", "-"), ("test", "--")):
                points = [result.mean(error, format=form, twin=twin, rank=rank) for rank in ranks]
                ax.errorbar(
                    ranks,
                    [mean for mean, _ in points],
                    yerr=[deviation for _, deviation in points] if any(d for _, d in points) else None,
                    color=_COLOURS.get(twin),
                    linestyle=style,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=f"{twin.replace('_', ' ')}, {error}",
                )
        ax.axhline(result.mean_variance, color="0.4", linewidth=0.8, linestyle=":", label="variance of the labels")
        ax.set_xlabel(_AXIS[form])
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean squared error")
    panels[0].set_title(f"{result.settings['dataset']}, one class against the rest", loc="left", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small", frameon=False)
    return figure


# Points: wider edges would cover their neighbours.
_THICKEST = 8.0


def draw_tree(
    tree: DimensionTree,
    ax: Axes | None = None,
    *,
    widths: Mapping[int, float] | None = None,
    labels: Mapping[int, Any] | None = None,
) -> Axes:
    """Draw a dimension tree, root on top.

    Parameters
    ----------
    tree : DimensionTree
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.
    widths : mapping, optional
        Width of the edge above a node: ranks, for example.  In points, or in proportion if the largest exceeds 8.
    labels : mapping, optional
        Text at a node, below leaves and on a white ground at inner nodes; by default the modes, on leaves only.

    Returns
    -------
    matplotlib Axes
    """
    if ax is None:
        ax = Figure(figsize=(min(1 + 0.5 * tree.order, 14), 1 + 0.7 * tree.depth), layout="constrained").subplots()
    across: dict[int, float] = {mode: float(k) for k, mode in enumerate(tree.modes(tree.root))}
    for node in tree.inner_nodes:
        children = tree.children(node)
        across[node] = sum(across[c] for c in children) / len(children)
    thinned = 1.0 if not widths else min(1.0, _THICKEST / max(max(widths.values()), 1.0))
    for node in tree.edges:
        parent = tree.parent(node)
        assert parent is not None
        ax.plot(
            [across[node], across[parent]],
            [tree.level(node), tree.level(parent)],
            color="0.5",
            linewidth=1.0 if widths is None else widths.get(node, 1.0) * thinned,
            solid_capstyle="round",
            zorder=1,
        )
    nodes = range(tree.n_nodes)
    ax.scatter([across[n] for n in nodes], [tree.level(n) for n in nodes], s=14, color="tab:blue", zorder=2)
    if labels is None:
        labels = {mode: mode for mode in tree.leaves} if tree.order <= 64 else {}
    for node, text in labels.items():
        ax.annotate(
            str(text),
            (across[node], tree.level(node)),
            (0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize="x-small",
            # Thick edges meet below an inner node, where its label is.
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"} if node >= tree.order else None,
            zorder=3,
        )
    ax.set_axis_off()
    ax.margins(0.05, 0.15)
    return ax
