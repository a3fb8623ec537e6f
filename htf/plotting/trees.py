"""Dimension trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from htf.plotting.style import COLOURS, FAINT, SMALLEST, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.tree import DimensionTree

# Points: wider edges would cover their neighbours.
_THICKEST = 8.0


@styled
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

    See Also
    --------
    htf.DimensionTree.draw : the same as a method.
    htf.ranks.hierarchical_rank : ranks to show as widths.

    Examples
    --------
    >>> import htf
    >>> tree = htf.DimensionTree.balanced(4)
    >>> ax = htf.plotting.draw_tree(tree, labels={0: "time", 1: "height", 2: "width", 3: "colour"})
    >>> [text.get_text() for text in ax.texts]
    ['time', 'height', 'width', 'colour']

    Edges as wide as the ranks of a tensor:

    >>> x = htf.random_ht((3, 3, 3, 3), rank=2, random_state=0)
    >>> ax = htf.plotting.draw_tree(x.tree, widths=htf.ranks.hierarchical_rank(x))
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
            color=FAINT,
            linewidth=1.0 if widths is None else widths.get(node, 1.0) * thinned,
            solid_capstyle="round",
            zorder=1,
        )
    nodes = range(tree.n_nodes)
    ax.scatter([across[n] for n in nodes], [tree.level(n) for n in nodes], s=14, color=COLOURS[0], zorder=2)
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
            fontsize=SMALLEST,
            # Thick edges meet below an inner node, where its label is.
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"} if node >= tree.order else None,
            zorder=3,
        )
    ax.set_axis_off()
    ax.margins(0.05, 0.15)
    return ax
