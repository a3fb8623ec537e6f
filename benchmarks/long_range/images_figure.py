"""The figure of images that a distance takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from htf._tables import read_table
from htf.plotting.style import counted, explain, look, panels, styled, words

from .plots import AXIS
from .remedies import REMEDIES

_TEXTS = ("task", "growing", "remedy", "setting", "kept", "recipe")
_NUMBERS = ("distance", "seed", "reach", "failed", "reached", "trainings")
_APART = 0.7  # share of the space between distances over which remedies are spread


@styled
def plot_images(table: str | Path) -> Figure:
    """Train images needed against distance, a mark with its interval for each remedy, a panel for each task.

    Parameters
    ----------
    table : str or Path
        images_needed.csv of ``python -m benchmarks.long_range.images``.  Intervals are from the largest number that
        failed to the least that reached, over all seeds, the mark the geometric mean of their middles; arrows where no
        number reached, or none failed.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If the table has no rows or lacks a column, or holds two recipes, or two values to reach, for one point.
    """
    rows = read_table(Path(table), _NUMBERS, _TEXTS, may_be_missing=("failed", "reached"))
    _check(rows)
    found = list(dict.fromkeys((row["task"], row["growing"]) for row in rows))
    figure, axes = panels(len(found), height=3.2)
    for ax, (task, growing) in zip(axes[:, 0], found, strict=True):
        mine = [row for row in rows if (row["task"], row["growing"]) == (task, growing)]
        _draw(ax, [row for row in mine if row["trainings"]], sorted({row["distance"] for row in mine}))
        ax.set_xlabel(AXIS[task])
        ax.set_ylabel("train images at the first distance" if growing == "True" else "train images")
        how = "growing the distance" if growing == "True" else "from scratch"
        ax.set_title(f"{words(task)}, {how}: images for {mine[0]['reach']:g}")
    note = "Bars: from the largest number that failed to the least that reached; arrows: none reached, or none failed."
    explain(figure, note, list(axes[:, 0]))
    return figure


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    recipes: dict[tuple[Any, ...], tuple[str, float]] = {}
    for row in rows:
        point = tuple(row[name] for name in ("task", "growing", "remedy", "kept", "distance"))
        recipe = (row["recipe"], row["reach"])
        if recipes.setdefault(point, recipe) != recipe:
            raise ValueError(
                f"the table holds trainings of two recipes for {row['task']} {row['distance']:g} with {row['remedy']}, "
                f"{recipes[point][0]} and {row['recipe']}; expected a folder for each"
            )


def _draw(ax: Axes, rows: Sequence[Mapping[str, Any]], distances: Sequence[float]) -> None:
    ends = [row[name] for row in rows for name in ("failed", "reached") if row[name] is not None]
    least, most = (min(ends), max(ends)) if ends else (500, 50_000)
    places = {distance: place for place, distance in enumerate(distances)}
    remedies = list(dict.fromkeys((row["remedy"], row["kept"]) for row in rows))
    for number, (remedy, kept) in enumerate(remedies):
        shift = _APART * ((number + 0.5) / len(remedies) - 0.5)
        mine = [row for row in rows if (row["remedy"], row["kept"]) == (remedy, kept)]
        seeds = len({row["seed"] for row in mine})
        x, y, below, above = [], [], [], []
        for distance in sorted({row["distance"] for row in mine}):
            points = [row for row in mine if row["distance"] == distance]
            lows = [row["failed"] or least for row in points]
            highs = [row["reached"] or most for row in points]
            middle = math.exp(sum(map(math.log, (*lows, *highs))) / (2 * len(points)))
            x.append(places[distance] + shift)
            y.append(middle)
            below.append(max(middle - min(lows), 0.0))
            above.append(max(max(highs) - middle, 0.0))
            up = all(row["reached"] is None for row in points)
            if up or all(row["failed"] is None for row in points):
                ax.annotate(
                    "",
                    (x[-1], middle * (1.35 if up else 1 / 1.35)),
                    (x[-1], middle),
                    arrowprops={"arrowstyle": "->", "color": look(number)["color"]},
                )
        name = REMEDIES[remedy].words if remedy in REMEDIES else words(remedy)
        label = f"{name}{', kept' * (kept == 'True')} ({counted(seeds, 'seed')})"
        ax.errorbar(x, y, yerr=[below, above], label=label, **look(number, linestyle="none"))
    ax.set_yscale("log")
    ax.set_ylim(least / 1.5, most * 1.5)
    ax.set_xticks(list(places.values()), [f"{distance:g}" for distance in distances])
