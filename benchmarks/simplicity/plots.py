"""Effective rank against depth: curves, kernels, recovered maps, and penalties on rank beside depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter
from torch import Tensor

from htf._files import read_tensors
from htf._tables import read_table
from htf.plotting.style import DIVERGING, WIDTH, bars, explain, look, panels, seeds_of, styled, words

_STAGES = {"initialization": "at initialization", "trained": "after training"}


@styled
def plot_effective_ranks(table: str | Path) -> Figure:
    """Effective rank of kernels against depth, a panel per stage and activation.

    Parameters
    ----------
    table : str or Path
        CSV that ``python -m benchmarks.simplicity`` writes of its part "distribution".  Points are means over networks,
        bars what 95% of the networks have.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window.  Dotted lines are rows of which it is not claimed that the effective rank falls.

    Raises
    ------
    ValueError
        If the table has no rows, lacks a column, or holds what is no number where one is expected.
    """
    # Networks that diverged have no ranks.
    of_ranks = ("mean", "q2.5", "q97.5")
    which = ("stage", "activation", "init", "optimizer")
    numbers = ("rank", "depth", "claimed", "nets", *of_ranks)
    rows = read_table(Path(table), numbers, which, may_be_missing=of_ranks)
    rows = [row for row in rows if row["mean"] is not None]
    stages, activations = _each(rows, "stage"), _each(rows, "activation")
    figure, axes = panels(len(stages), len(activations), height=2.7, sharex="row", sharey=True)
    for i, stage in enumerate(stages):
        for j, activation in enumerate(activations):
            ax = axes[i, j]
            members = [row for row in rows if (row["stage"], row["activation"]) == (stage, activation)]
            _draw_ranks(ax, members)
            ax.set_title(f"{words(activation)}, {_STAGES.get(stage, stage)}", loc="left")
            ax.set(xscale="log", yscale="log")
            _plain_ticks(ax, sorted({row["depth"] for row in members}))
            ax.set_yticks([1, 2, 4, 8, 16, 32], labels=["1", "2", "4", "8", "16", "32"])
            ax.yaxis.set_minor_locator(NullLocator())
            if j == 0:
                ax.set_ylabel("effective rank")
    for ax in axes[-1]:
        ax.set_xlabel("layers")
    # Few curves have room within; what many have in common stands below.
    many = [line[0] for line in axes if len(line[0].get_legend_handles_labels()[0]) > 3]
    for line in axes:
        if line[0] not in many:
            line[0].legend(loc="lower left")
    nets = " or ".join(sorted({f"{row['nets']:g}" for row in rows}))
    note = f"Means of {nets} networks; bars: what 95% of them have; dotted: not claimed to fall." + (
        "  After training:" * bool(many)
    )
    explain(figure, note, many)
    return figure


@styled
def plot_kernels(path: str | Path) -> Figure:
    """Kernels in the order of hierarchical clustering, a row per stage and activation, a column per depth.

    Parameters
    ----------
    path : str or Path
        The safetensors file that ``python -m benchmarks.simplicity`` writes of its part "kernels": tensors by
        "stage/activation/depth", cosines times 127.

    Returns
    -------
    matplotlib.figure.Figure
        Effective ranks stand above.

    Raises
    ------
    ValueError
        If the file is damaged or holds no kernels.
    """
    tensors, about = read_tensors(Path(path), sealed=False)
    ranks = about.get("effective_rank")
    if not tensors or not isinstance(ranks, dict) or any(_misfits(name, ranks, tensors) for name in ranks | tensors):
        raise ValueError(f"{path} holds no kernels; expected what benchmarks.simplicity writes")
    named = [tuple(name.split("/")) for name in ranks]
    lines = list(dict.fromkeys((activation, stage) for stage, activation, _ in named))
    depths = sorted({int(depth) for *_, depth in named})
    if len(named) != len(lines) * len(depths):
        raise ValueError(f"{path} holds {len(named)} kernels for {len(lines)} rows of {len(depths)} depths")
    figure, axes = panels(len(lines), len(depths), width=min(WIDTH, 1.35 * len(depths) + 1.0), height=1.42)
    colours = matplotlib.colormaps[DIVERGING].resampled(21)
    for line, (activation, stage) in zip(axes, lines, strict=True):
        for ax, depth in zip(line, depths, strict=True):
            name = f"{stage}/{activation}/{depth}"
            # Few colours and sharp squares keep the file small.
            ax.imshow(tensors[name].numpy() / 127, cmap=colours, vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{ranks[name]:.1f}", pad=2)
        line[0].set_ylabel(f"{words(activation)}\n{_STAGES.get(stage, stage)}")
    for ax, depth in zip(axes[-1], depths, strict=True):
        ax.set_xlabel(f"{depth} layer{'s' if depth > 1 else ''}")
    explain(figure, "Cosines of features, red 1, white 0, blue -1; above: the effective rank; one network each.")
    return figure


@styled
def plot_recovery(table: str | Path) -> Figure:
    """Test errors and effective ranks of recovered linear maps against depth.

    Parameters
    ----------
    table : str or Path
        CSV that ``python -m benchmarks.simplicity`` writes of its part "least_squares"; bars are the 95% intervals of
        means.  Depth 0, drawn as dotted lines, is the least-squares solution.

    Returns
    -------
    matplotlib.figure.Figure
        A column per number of samples.

    Raises
    ------
    ValueError
        As `plot_effective_ranks`.
    """
    measures = {"test_error": "relative test error", "effective_rank": "effective rank"}
    spread = [f"{name}{end}" for name in measures for end in ("", "_low", "_high")]
    rows = read_table(Path(table), ("samples", "depth", "nets", *spread), ("task",))
    counts, tasks = _each(rows, "samples"), _each(rows, "task")
    figure, axes = panels(2, len(counts), height=2.6, sharex=True)
    for column, count in zip(axes.T, counts, strict=True):
        for k, task in enumerate(tasks):
            members = [row for row in rows if (row["samples"], row["task"]) == (count, task)]
            label = "orthogonal map" if task == "flat" else f"map of rank {task}"
            for ax, measure in zip(column, measures, strict=True):
                _draw_recovery(ax, members, measure, look(k, linestyle="-"), label)
        column[0].set_title(f"{count:g} samples", loc="left")
        for ax, measure in zip(column, measures.values(), strict=True):
            ax.set(ylabel=measure, xscale="log")
            _plain_ticks(ax, sorted({row["depth"] for row in rows if row["depth"]}))
        column[1].set_xlabel("layers")
    nets = " or ".join(sorted({f"{row['nets']:g}" for row in rows}))
    note = f"Means of {nets} maps; bars: 95% intervals of the means; dotted: the least-squares solution."
    explain(figure, note, axes[0, -1])
    return figure


@styled
def plot_rank_penalties(table: str | Path) -> Figure:
    """Test accuracy of over-parameterized networks, plain ones and penalized ones, and their effective ranks.

    Parameters
    ----------
    table : str or Path
        CSV that ``python -m benchmarks.simplicity`` writes of its part "cifar".

    Returns
    -------
    matplotlib.figure.Figure
        A point per training of the weight that validation chose, and means; small points are other weights.

    Raises
    ------
    ValueError
        As `plot_effective_ranks`.
    """
    rows = read_table(Path(table), ("test", "kernel_effective_rank", "weight_effective_rank", "chosen"), ("method",))
    methods = _each(rows, "method")
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    above, *others = figure.subplot_mosaic([["accuracy", "accuracy"], ["weights", "kernel"]]).values()
    seeds: list[int] = []
    for k, method in enumerate(methods):
        members = [row for row in rows if row["method"] == method]
        chosen = [row for row in members if row["chosen"]]
        seeds.append(len(chosen))
        style = look(k, linestyle="none")
        above.plot([k] * len(chosen), [row["test"] for row in chosen], alpha=0.7, **style)
        if chosen:
            middle = mean(row["test"] for row in chosen)
            above.plot([k], [middle], "_", color=style["color"], markersize=24, markeredgewidth=2)
        for ax, measure in zip(others, ("weight_effective_rank", "kernel_effective_rank"), strict=True):
            for part, size, label in ((chosen, 6, words(method)), ([r for r in members if not r["chosen"]], 3, None)):
                at = [row[measure] for row in part]
                ax.plot(at, [row["test"] for row in part], label=label, **{**style, "markersize": size})
    above.set_xticks(range(len(methods)), [words(method) for method in methods])
    above.set(ylabel="test accuracy", xlim=(-0.6, len(methods) - 0.4))
    for ax, what in zip(others, ("weights, mean of layers", "kernel of the last features"), strict=True):
        ax.set(xlabel=f"effective rank: {what}", ylabel="test accuracy")
    note = f"A point for each of {seeds_of(filter(None, seeds))}; lines: means; small points: weights not chosen."
    explain(figure, note, others[0])
    return figure


def _draw_ranks(ax: Axes, rows: Sequence[dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys((row["optimizer"], row["init"], row["rank"], row["claimed"]) for row in rows))
    for k, kind in enumerate(kinds):
        optimizer, init, rank, claimed = kind
        points = [row for row in rows if (row["optimizer"], row["init"], row["rank"], row["claimed"]) == kind]
        # Side by side, so that bars do not hide each other.
        shift = 1 + 0.05 * (k - (len(kinds) - 1) / 2)
        label = f"{init} start" if optimizer == "none" else f"{words(optimizer)}, {init} start, rank {rank:g}"
        ax.errorbar(
            [row["depth"] * shift for row in points],
            [row["mean"] for row in points],
            yerr=_bars(points, "mean", "q2.5", "q97.5"),
            elinewidth=0.8,
            capsize=0,
            label=label,
            **look(k, markersize=3.5, linewidth=1.2, linestyle="-" if claimed else ":"),
        )


def _draw_recovery(ax: Axes, rows: Sequence[dict[str, Any]], measure: str, style: dict[str, Any], label: str) -> None:
    points = [row for row in rows if row["depth"]]
    at, means = [row["depth"] for row in points], [row[measure] for row in points]
    lengths = _bars(points, measure, f"{measure}_low", f"{measure}_high")
    ax.errorbar(at, means, yerr=lengths, label=label, **style)
    for row in rows:
        if not row["depth"]:
            ax.axhline(row[measure], color=style["color"], linewidth=1.0, linestyle=":")


def _bars(rows: Sequence[dict[str, Any]], middle: str, low: str, high: str) -> np.ndarray:
    """Lengths of bars to the ends that a table has; neither ranks nor errors are below 0."""
    means = [row[middle] for row in rows]
    return bars(means, [row[middle] - row[low] for row in rows], [row[high] - row[middle] for row in rows], 0)


def _plain_ticks(ax: Axes, depths: Iterable[float]) -> None:
    ax.set_xticks(list(depths))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _each(rows: Iterable[dict[str, Any]], column: str) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows))


def _misfits(name: str, ranks: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    """Whether what a file holds under a name is no kernel with its effective rank."""
    if name.count("/") != 2 or not name.rpartition("/")[2].isdecimal() or name not in tensors:
        return True
    return not isinstance(ranks.get(name), int | float) or tensors[name].ndim != 2
