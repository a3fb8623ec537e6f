"""The published errors laid over those of the fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; the markers tell them apart in print.
_STYLES = {"original": ("#0072B2", "o"), "random_labels": ("#D55E00", "s"), "random_images": ("#009E73", "^")}
_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def plot_published(sets: Sequence[dict[str, Any]]) -> Figure:
    """Train error against CP rank, a panel per data set; hollow marks are published, bars are standard errors.

    Parameters
    ----------
    sets : sequence of dict
        As `summarize` makes them.
    """
    names = list(dict.fromkeys(one["data"] for one in sets))
    if not names:
        raise ValueError("sets is empty; expected at least one")
    figure = Figure(figsize=(4.2 * len(names) + 1.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        for one in (one for one in sets if one["data"] == name):
            colour, marker = _STYLES.get(one["twin"], ("0.4", "v"))
            rows = sorted(one["fits"], key=lambda row: row["rank"])
            ax.errorbar(
                [row["rank"] for row in rows],
                [row["train"] for row in rows],
                yerr=[row["standard_error"] or 0.0 for row in rows],
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2,
                label=one["twin"].replace("_", " "),
            )
            told = [row for row in rows if row["published"] is not None]
            ax.plot(
                [row["rank"] for row in told],
                [row["published"] for row in told],
                linestyle="none",
                marker=marker,
                markersize=9,
                markerfacecolor="none",
                color=colour,
            )
        ax.set_title(_NAMES.get(name, name), loc="left", fontsize="medium")
        ax.set_xlabel("CP rank")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean squared train error")
    handles, labels = panels[0].get_legend_handles_labels()
    hollow = panels[0].plot([], [], "o", markersize=9, markerfacecolor="none", color="0.3", label="published")
    figure.legend(
        [*handles, *hollow], [*labels, "published"], loc="outside right center", fontsize="small", frameon=False
    )
    return figure
