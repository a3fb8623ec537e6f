"""Test accuracy against the entanglement of the arranged data."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from htf._files import read_json
from htf.plotting.style import INK, MARKERS, explain, look, panels, styled, words

from .jobs import ARRANGEMENTS, NETWORKS

_COLUMNS = {"data", "network", "arrangement", "accuracy", "entanglement"}


@styled
def plot_accuracies(results: str | Path) -> Figure:
    """Mean test accuracy against mean entanglement: one panel for each data set, a colour for each network.

    Parameters
    ----------
    results : str or Path
        JSON that ``python -m benchmarks.arrangement`` writes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the file is damaged or holds no such means.
    """
    content = read_json(Path(results), sealed=False)
    means = content.get("means") if isinstance(content, dict) else None
    if not isinstance(means, list) or not means or any(_COLUMNS - set(mean) for mean in means):
        raise ValueError(f"{results} holds no means of arrangements; expected what benchmarks.arrangement writes")
    names = list(dict.fromkeys(mean["data"] for mean in means))
    networks = [n for n in NETWORKS if any(mean["network"] == n for mean in means)]
    orders = [order for order in ARRANGEMENTS if any(mean["arrangement"] == order for mean in means)]
    figure, axes = panels(1, len(names), height=2.8)
    for ax, name in zip(axes[0], names, strict=True):
        for mean in (mean for mean in means if mean["data"] == name):
            style = look(networks.index(mean["network"]), linestyle="none")
            marker = MARKERS[orders.index(mean["arrangement"])]
            ax.plot(mean["entanglement"], mean["accuracy"], **(style | {"marker": marker}))
        ax.set_title(words(name))
        ax.set_xlabel("entanglement (nats)")
    axes[0, 0].set_ylabel("test accuracy")
    handles = [
        Line2D([], [], **look(k, linestyle="none", marker="o"), label=_NETWORKS.get(name, words(name)))
        for k, name in enumerate(networks)
    ]
    handles += [
        Line2D([], [], color=INK, marker=MARKERS[k], linestyle="none", label=words(order))
        for k, order in enumerate(orders)
    ]
    seeds = sorted({mean["seeds"] for mean in means if "seeds" in mean})
    note = f"Means of {seeds[-1]} seeds. " if len(seeds) == 1 else "Means over seeds. "
    explain(figure, f"{note}Colours: networks; marks: orders of the features.", more=handles)
    return figure


_NETWORKS = {"line": "1-D CNN", "grid": "CNN on a grid", "attention": "local attention"}
