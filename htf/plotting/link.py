"""Accuracy on long-range tasks against what networks relate."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from htf._files import read_json
from htf.plotting.long_range import name_of


def plot_link(path: str | Path) -> Figure:
    """Test accuracy of trained networks against the interactions measured in them, a panel per task and measure.

    Parameters
    ----------
    path : str or Path
        JSON of ``benchmarks/long_range_link.py``.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If the file is damaged or holds no networks.
    """
    content = read_json(Path(path), sealed=False)
    rows = content.get("rows") if isinstance(content, dict) else None
    if not (isinstance(rows, list) and rows and all(map(_is_network, rows))):
        raise ValueError(f"{path} holds no networks; expected what long_range_link.py writes")
    panels = list(dict.fromkeys((row["task"], row["measure"]) for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for ax, (task, measure) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, measure)]
        # Whatever its options are, a regularizer has one color.
        for name in dict.fromkeys(name_of(row["regularizer"]) for row in mine):
            points = [row for row in mine if name_of(row["regularizer"]) == name]
            ax.errorbar(
                [row["value"] for row in points],
                [row["test"] for row in points],
                xerr=[row["error"] for row in points],
                fmt="o",
                markersize=4,
                linewidth=0.8,
                color="black" if name == name_of("none") else None,
                label=name,
            )
        if min(row["value"] for row in mine) > 0 and measure != "effective rank":
            ax.set_xscale("log")
        ax.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
        ax.set_xlabel(measure)
        ax.set_ylabel("test accuracy")
        ax.set_title(task.replace("_", " "), loc="left", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize="small", frameon=False)
    return figure


def _is_network(row: object) -> bool:
    numbers, texts = ("value", "error", "test"), ("task", "measure", "regularizer")
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), int | float) for name in numbers)
        and all(isinstance(row.get(name), str) for name in texts)
    )
