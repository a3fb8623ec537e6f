"""The published errors laid over those of the fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from htf.plotting.style import MUTED, bars, counted, explain, look, panels, styled, words

# As in other figures of rank fits.
_LOOKS = {"original": 0, "random_labels": 1, "random_images": 2}


@styled
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
    figure, axes = panels(1, len(names), height=3.0, sharey=True)
    published: Any = {"marker": "o", "markersize": 9.0, "markerfacecolor": "none", "linestyle": "none"}
    for ax, name in zip(axes[0], names, strict=True):
        for one in (one for one in sets if one["data"] == name):
            style = look(_LOOKS.get(one["twin"], 3), linestyle="-")
            rows = sorted(one["fits"], key=lambda row: row["rank"])
            means, errors = [row["train"] for row in rows], [row["standard_error"] or 0.0 for row in rows]
            ax.errorbar(
                [row["rank"] for row in rows],
                means,
                yerr=bars(means, errors, errors, 0),
                label=f"{words(one['twin'])}, {_classes(rows[0]['classes'])}",
                **style,
            )
            told = [row for row in rows if row["published"] is not None]
            ax.plot(
                [row["rank"] for row in told],
                [row["published"] for row in told],
                **{**published, "marker": style["marker"], "color": style["color"]},
            )
        ax.set_title(words(name), loc="left")
        ax.set_xlabel("CP rank")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("mean squared train error")
    seeds = {row["seed"] for one in sets for row in one["fits"]}
    hollow = Line2D([], [], color=MUTED, label="published", **published)
    note = f"Means over classes, {counted(len(seeds), 'seed')}; bars: standard errors over classes."
    explain(figure, note, list(axes[0]), more=[hollow])
    return figure


def _classes(of: Sequence[int]) -> str:
    return f"{len(of)} classes" if len(of) > 1 else "1 class"
