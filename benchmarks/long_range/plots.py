"""Figures of the long-range benchmarks: accuracy against distance, and against what networks relate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from htf._files import read_json
from htf._tables import read_table

AXIS = {
    "pathfinder": "dashes of the path",
    "is_same_class": "pixels between the two images",
    "far_parity": "columns between the two pixels",
}
_NAMES = {"none": "no regularizer", "igc": "input gradient change", "gradient_field": "gradient field change"}
# Colours of Okabe and Ito, which the colour-blind tell apart, with marks of their own.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#999999", "#806000", "#7F3C8D")
_MARKS = "osD^vP*X<>"
_WHICH = ("task", "model", "regularizer", "weight", "control", "weight_decay", "dropout", "distance")
_TEXTS = ("task", "model", "regularizer", "control", "recipe")
_NUMBERS = ("distance", "weight", "weight_decay", "dropout")


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
    panels = list(dict.fromkeys((row["task"], row["model"]) for row in rows))
    theirs = (
        []
        if published is None
        else read_table(Path(published), ("distance", "weight", "test"), ("task", "model", "source"))
    )
    figure = Figure(figsize=(8.2, 3.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for ax, (task, model) in zip(axes, panels, strict=True):
        mine, others = (
            [row for row in each if (row["task"], row["model"]) == (task, model)] for each in (rows, theirs)
        )
        _draw_curves(ax, mine, column)
        _draw_published(ax, others)
        ax.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
        ax.set_xlabel(AXIS.get(task, "distance"))
        ax.set_title(f"{task.replace('_', ' ')}, {model}", loc="left", fontsize="medium")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylabel("test accuracy" if column == "test" else f"{column.replace('_', ' ')} accuracy")
        ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
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


def _draw_curves(ax: Axes, rows: list[dict[str, Any]], column: str) -> None:
    curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in _points(rows, column):
        curves.setdefault(tuple(point[name] for name in _WHICH if name != "distance"), []).append(point)
    telling = _telling_options(row["regularizer"] for row in rows)
    # The plain network is black, whatever comes first.
    number = 0
    for points in curves.values():
        points.sort(key=lambda point: point["distance"])
        first = points[0]
        plain = first["regularizer"] == "none" and not first["control"]
        number += not plain
        ax.errorbar(
            [point["distance"] for point in points],
            [point["mean"] for point in points],
            yerr=bars((point["mean"], point["deviation"]) for point in points)
            if any(point["deviation"] for point in points)
            else None,
            markersize=4,
            capsize=2,
            linewidth=1.0 if first["control"] else 1.6,
            **look(0 if plain else number),
            label=_label(first, telling),
        )


def _draw_published(ax: Axes, rows: list[dict[str, Any]]) -> None:
    curves: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault((row["weight"], row["source"]), []).append(row)
    for k, ((weight, source), points) in enumerate(sorted(curves.items())):
        points.sort(key=lambda point: point["distance"])
        x, y = [point["distance"] for point in points], [point["test"] for point in points]
        shade = str(0.75 - 0.5 * k / max(len(curves) - 1, 1))
        ax.plot(x, y, "--", color=shade, linewidth=1.0, label=f"{source}, λ = {weight:g}")


def _label(point: Mapping[str, Any], telling: set[tuple[str, str]]) -> str:
    name, options = _split(point["regularizer"])
    details = [f"{key}={value}" for key, value in options.items() if (name, key) in telling]
    details += [f"λ = {point['weight']:g}"] if name != "none" else []
    if point["control"] in ("weight decay", "dropout"):
        details.append(f"{point['control']} {point[point['control'].replace(' ', '_')]:g}")
    elif point["control"]:
        details.append(point["control"])
    return ", ".join([name_of(name), *details])


def look(number: int) -> dict[str, Any]:
    """Colour and mark of a curve; the first one is black."""
    return {"color": _COLORS[number % len(_COLORS)], "marker": _MARKS[number % len(_MARKS)]}


def bars(points: Iterable[tuple[float, float]]) -> list[list[float]]:
    """Lengths of bars of one deviation below and above means of accuracies, as far as accuracies go."""
    found = [(min(deviation, value), min(deviation, 1 - value)) for value, deviation in points]
    return [list(each) for each in zip(*found, strict=True)]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 for one value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def name_of(regularizer: str) -> str:
    """In words, without options."""
    name = regularizer.partition(":")[0]
    return _NAMES.get(name, name.replace("_", " "))


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
