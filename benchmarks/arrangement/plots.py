"""Test accuracy against the entanglement of the arranged data."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from htf._files import read_json

from .jobs import ARRANGEMENTS, NETWORKS

_COLUMNS = {"data", "network", "arrangement", "accuracy", "entanglement"}
_MARKERS = dict(zip(ARRANGEMENTS, "s^oDvP", strict=True))


def plot_accuracies(results: str | Path) -> Figure:
    """Mean test accuracy against mean entanglement: one picture for each data set, a colour for each network.

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
    figure = Figure(figsize=(0.8 + 2.7 * len(names), 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for mean in (mean for mean in means if mean["data"] == name):
            color = f"C{NETWORKS.index(mean['network'])}"
            marker = _MARKERS[mean["arrangement"]]
            ax.plot(mean["entanglement"], mean["accuracy"], marker, color=color, markersize=5, alpha=0.8)
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("entanglement (nats)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy")
    networks = [n for n in NETWORKS if any(mean["network"] == n for mean in means)]
    orders = [order for order in ARRANGEMENTS if any(mean["arrangement"] == order for mean in means)]
    handles = [axes[0].plot([], [], "o", color=f"C{NETWORKS.index(n)}", label=n)[0] for n in networks]
    handles += [axes[0].plot([], [], _MARKERS[order], color="grey", label=order)[0] for order in orders]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    return figure
