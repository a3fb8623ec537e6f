"""Figures of the long-range benchmarks: accuracy against distance, and against what networks relate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from htf._files import read_json
from htf._tables import read_table
from htf.plotting.style import (
    FAINT,
    INK,
    MUTED,
    bars,
    baseline,
    counted,
    explain,
    guide,
    look,
    panels,
    seeds_of,
    styled,
    words,
)

AXIS = {
    "pathfinder": "dashes of the path",
    "is_same_class": "pixels between the two images",
    "far_parity": "columns between the two pixels",
}
_WHICH = ("task", "model", "regularizer", "weight", "control", "weight_decay", "dropout", "distance")
_TEXTS = ("task", "model", "regularizer", "control", "recipe")
_NUMBERS = ("distance", "weight", "weight_decay", "dropout")


@styled
def plot_long_range(table: str | Path, published: str | Path | None = None, *, column: str = "test") -> Figure:
    """Accuracy against distance, a curve per regularizer and weight, a panel per task and model.

    Parameters
    ----------
    table : str or Path
        CSV of ``python -m benchmarks.long_range``, a row per training.  Points are means over seeds, bars one standard
        deviation to either side.
    published : str or Path, optional
        CSV with columns task, model, distance, weight, test and source, drawn dashed in the panels of task and model.
    column : str
        Which accuracy.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If a table has no rows, lacks a column, or holds what is no number where one is expected; and if trainings that
        would be one point of a curve are of different recipes.
    """
    rows = read_table(Path(table), (*_NUMBERS, column), _TEXTS)
    found = list(dict.fromkeys((row["task"], row["model"]) for row in rows))
    theirs = (
        []
        if published is None
        else read_table(Path(published), ("distance", "weight", "test"), ("task", "model", "source"))
    )
    figure, axes = panels(len(found), height=3.2)
    seeds: list[int] = []
    for ax, (task, model) in zip(axes[:, 0], found, strict=True):
        mine, others = (
            [row for row in each if (row["task"], row["model"]) == (task, model)] for each in (rows, theirs)
        )
        seeds += _draw_curves(ax, mine, column)
        _draw_published(ax, others)
        guide(ax, y=0.5)
        ax.set_xlabel(AXIS.get(task, "distance"))
        ax.set_title(f"{words(task)}, {words(model)}", loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(top=1.02)
        ax.set_ylabel("test accuracy" if column == "test" else f"{words(column)} accuracy")
    note = f"Means of {seeds_of(seeds)}; bars: one standard deviation, as far as accuracies go; dotted: chance."
    explain(figure, note, list(axes[:, 0]))
    return figure


def summary(table: str | Path, column: str = "test") -> list[dict[str, Any]]:
    """Mean, standard deviation and number of seeds of each point of the curves, in the order of the table.

    Parameters
    ----------
    table : str or Path
        As for `plot_long_range`.
    column : str

    Returns
    -------
    list of dict
        What tells trainings apart but for the seed, and "mean", "deviation" (0 for one seed) and "seeds".
    """
    return _points(read_table(Path(table), (*_NUMBERS, column), _TEXTS), column)


def _points(rows: Iterable[Mapping[str, Any]], column: str) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[float]] = {}
    recipes: dict[tuple[Any, ...], str] = {}
    for row in rows:
        which = tuple(row[name] for name in _WHICH)
        if recipes.setdefault(which, row["recipe"]) != row["recipe"]:
            raise ValueError(
                f"the table holds trainings of two recipes, {recipes[which]} and {row['recipe']}, which would be one "
                f"point: {', '.join(f'{name} {value}' for name, value in zip(_WHICH, which, strict=True) if value)}; "
                "expected a folder for each"
            )
        groups.setdefault(which, []).append(row[column])
    return [
        dict(zip(_WHICH, which, strict=True))
        | dict(zip(("mean", "deviation"), mean_and_deviation(values), strict=True))
        | {"seeds": len(values)}
        for which, values in groups.items()
    ]


def _draw_curves(ax: Axes, rows: list[dict[str, Any]], column: str) -> list[int]:
    """Draw, and return how many seeds each point is the mean of."""
    curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in _points(rows, column):
        curves.setdefault(tuple(point[name] for name in _WHICH if name != "distance"), []).append(point)
    telling = _telling_options(row["regularizer"] for row in rows)
    places = sorted({row["distance"] for row in rows})
    apart = 0.035 * min((b - a for a, b in pairwise(places)), default=1.0)
    drawn = 0
    for points in curves.values():
        points.sort(key=lambda point: point["distance"])
        first = points[0]
        plain = first["regularizer"] == "none" and not first["control"]
        # Dashes are for what is published.  Side by side, so that bars do not hide each other.
        style = baseline() if plain else look(drawn, linestyle="-")
        shift = 0.0 if plain else apart * (drawn - (len(curves) - 2) / 2)
        drawn += not plain
        means, deviations = ([point[name] for point in points] for name in ("mean", "deviation"))
        ax.errorbar(
            [point["distance"] + shift for point in points],
            means,
            yerr=bars(means, deviations, deviations, 0, 1) if any(deviations) else None,
            linewidth=1.1 if first["control"] else 1.8,
            label=_label(first, telling),
            **style,
        )
    return [point["seeds"] for points in curves.values() for point in points]


def _draw_published(ax: Axes, rows: list[dict[str, Any]]) -> None:
    curves: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault((row["weight"], row["source"]), []).append(row)
    for k, ((weight, source), points) in enumerate(sorted(curves.items())):
        points.sort(key=lambda point: point["distance"])
        x, y = [point["distance"] for point in points], [point["test"] for point in points]
        shade = (FAINT, MUTED, INK)[min(k, 2)]
        ax.plot(x, y, "--", color=shade, linewidth=1.2, label=f"{source}, λ = {weight:g}")


def _label(point: Mapping[str, Any], telling: set[tuple[str, str]]) -> str:
    name, options = _split(point["regularizer"])
    details = [f"{words(key)}={value}" for key, value in options.items() if (name, key) in telling]
    details += [f"λ = {point['weight']:g}"] if name != "none" else []
    if point["control"] in ("weight decay", "dropout"):
        details.append(f"{point['control']} {point[point['control'].replace(' ', '_')]:g}")
    elif point["control"]:
        details.append(point["control"])
    return ", ".join([name_of(name), *details])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 for one value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def name_of(regularizer: str) -> str:
    """In words, without options."""
    name = regularizer.partition(":")[0]
    return "no regularizer" if name == "none" else words(name)


def _telling_options(specs: Iterable[str]) -> set[tuple[str, str]]:
    """Regularizers and those of their options that are not the same in all specs."""
    seen: dict[tuple[str, str], set[str]] = {}
    read = [_split(spec) for spec in dict.fromkeys(specs)]
    for name, key in {(name, key) for name, options in read for key in options}:
        seen[name, key] = {options.get(key, "") for other, options in read if other == name}
    return {which for which, values in seen.items() if len(values) > 1}


def _split(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options of ``name:option=value,option=value``."""
    name, _, rest = spec.partition(":")
    return name, dict(part.split("=", 1) for part in rest.split(",") if "=" in part)


@styled
def plot_growing(table: str | Path) -> Figure:
    """Test accuracy against distance, a curve for each start, a panel for each task.

    Parameters
    ----------
    table : str or Path
        CSV of ``python -m benchmarks.long_range.growing``.  Points are means over seeds, bars one standard deviation to
        either side, as far as accuracies go.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the table has no rows or lacks a column, or holds trainings of two recipes for one curve.
    """
    rows = read_table(Path(table), ("distance", "test", "seed"), ("task", "start", "kept", "recipe"))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = panels(len(tasks), height=2.9)
    seeds: dict[tuple[str, ...], set[float]] = {}
    for ax, task in zip(axes[:, 0], tasks, strict=True):
        curves: dict[tuple[str, str], dict[float, list[float]]] = {}
        recipes: dict[tuple[str, str], str] = {}
        for row in (row for row in rows if row["task"] == task):
            curve = (row["start"], row["kept"])
            if recipes.setdefault(curve, row["recipe"]) != row["recipe"]:
                raise ValueError(
                    f"the table holds trainings of two recipes for {task} from {row['start']}, {recipes[curve]} and "
                    f"{row['recipe']}; expected a folder for each"
                )
            curves.setdefault(curve, {}).setdefault(row["distance"], []).append(row["test"])
            seeds.setdefault((task, *curve), set()).add(row["seed"])
        others = [curve for curve in curves if curve[0] != "none"]
        for (start, kept), points in curves.items():
            means, deviations = zip(*(mean_and_deviation(points[distance]) for distance in sorted(points)), strict=True)
            ax.errorbar(
                sorted(points),
                means,
                yerr=bars(means, deviations, deviations, 0, 1) if any(deviations) else None,
                label=f"{name_of(start)}{', kept' * (kept == 'True')} "
                f"({counted(max(map(len, points.values())), 'seed')})",
                **(baseline() if start == "none" else look(others.index((start, kept)))),
            )
        guide(ax, y=0.5)
        ax.set_xlabel(AXIS[task])
        ax.set_ylabel("test accuracy")
        ax.set_ylim(top=1.02)
        ax.set_title(f"{words(task)}, growing the distance", loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    several = any(len(own) > 1 for own in seeds.values())
    bars_are = "  Means; bars: one standard deviation, as far as accuracies go." if several else ""
    explain(figure, f"Curves: help at the first distance; dotted: chance.{bars_are}", list(axes[:, 0]))
    return figure


@styled
def plot_link(path: str | Path) -> Figure:
    """Test accuracy of trained networks against the interactions measured in them, a panel per task and measure.

    Parameters
    ----------
    path : str or Path
        JSON of ``python -m benchmarks.long_range.link``.

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
        raise ValueError(f"{path} holds no networks; expected what benchmarks.long_range.link writes")
    found = list(dict.fromkeys((row["task"], row["measure"]) for row in rows))
    # Whatever its options are, a regularizer has one look, in all panels.
    names = list(dict.fromkeys(name_of(row["regularizer"]) for row in rows))
    others = [name for name in names if name != name_of("none")]
    columns = min(len(found), 2)
    figure, axes = panels(-(-len(found) // columns), columns, height=2.8)
    for ax, (task, measure) in zip(axes.flat, found, strict=False):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, measure)]
        for name in names:
            points = [row for row in mine if name_of(row["regularizer"]) == name]
            values, errors = ([row[key] for row in points] for key in ("value", "error"))
            style = look(others.index(name)) if name in others else baseline()
            if points:
                ax.errorbar(
                    values,
                    [row["test"] for row in points],
                    xerr=bars(values, errors, errors, 0),
                    linewidth=0.8,
                    capsize=0,
                    label=name,
                    **{**style, "linestyle": "none"},
                )
        if min(row["value"] for row in mine) > 0 and measure != "effective rank":
            ax.set_xscale("log")
        guide(ax, y=0.5)
        ax.set_xlabel(measure.replace("share of interactions between", "interactions between"))
        ax.set_ylabel("test accuracy")
        ax.set_title(words(task), loc="left")
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    note = "A point for each trained network; bars: standard errors of what is measured; dotted: chance."
    explain(figure, note, list(axes.flat[: len(found)]))
    return figure


def _is_network(row: object) -> bool:
    numbers, texts = ("value", "error", "test"), ("task", "measure", "regularizer")
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), int | float) for name in numbers)
        and all(isinstance(row.get(name), str) for name in texts)
    )
