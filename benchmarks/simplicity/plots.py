"""Effective rank against depth: curves, kernels, recovered maps, and penalties on rank beside depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter
from torch import Tensor

from htf._files import read_tensors
from htf._tables import read_table

_STAGES = {"initialization": "at initialization", "trained": "after training"}


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
    rows = read_table(Path(table), ("rank", "depth", "claimed", *of_ranks), which, may_be_missing=of_ranks)
    rows = [row for row in rows if row["mean"] is not None]
    stages, activations = _each(rows, "stage"), _each(rows, "activation")
    size = (3.4 * len(activations) + 0.4, 3.2 * len(stages))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(stages), len(activations), sharex="row", sharey=True, squeeze=False)
    for i, stage in enumerate(stages):
        for j, activation in enumerate(activations):
            ax = axes[i, j]
            members = [row for row in rows if (row["stage"], row["activation"]) == (stage, activation)]
            _draw_ranks(ax, members)
            ax.set_title(f"{activation}, {_STAGES.get(stage, stage)}", loc="left", fontsize="medium")
            ax.set(xscale="log", yscale="log")
            _plain_ticks(ax, sorted({row["depth"] for row in members}))
            ax.set_yticks([1, 2, 4, 8, 16, 32], labels=["1", "2", "4", "8", "16", "32"])
            ax.yaxis.set_minor_locator(NullLocator())
            if j == 0:
                ax.set_ylabel("effective rank of the kernel")
    for ax in axes[-1]:
        ax.set_xlabel("layers")
    return figure


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
    figure = Figure(figsize=(1.35 * len(depths) + 1.0, 1.5 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), len(depths), squeeze=False)
    colours = matplotlib.colormaps["RdBu_r"].resampled(21)
    for line, (activation, stage) in zip(axes, lines, strict=True):
        for ax, depth in zip(line, depths, strict=True):
            name = f"{stage}/{activation}/{depth}"
            # Few colours and sharp squares keep the file small.
            ax.imshow(tensors[name].numpy() / 127, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{ranks[name]:.1f}", fontsize="small", pad=2)
        line[0].set_ylabel(f"{activation}\n{_STAGES.get(stage, stage)}", fontsize="small")
    for ax, depth in zip(axes[-1], depths, strict=True):
        ax.set_xlabel(f"{depth} layer{'s' if depth > 1 else ''}", fontsize="small")
    return figure


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
    rows = read_table(Path(table), ("samples", "depth", *spread), ("task",))
    counts, tasks = _each(rows, "samples"), _each(rows, "task")
    figure = Figure(figsize=(3.8 * len(counts) + 1.4, 5.6), layout="constrained")
    axes = figure.subplots(2, len(counts), sharex=True, squeeze=False)
    for column, count in zip(axes.T, counts, strict=True):
        for k, task in enumerate(tasks):
            members = [row for row in rows if (row["samples"], row["task"]) == (count, task)]
            label = "orthogonal map" if task == "flat" else f"map of rank {task}"
            for ax, measure in zip(column, measures, strict=True):
                _draw_recovery(ax, members, measure, f"C{k}", label)
        column[0].set_title(f"{count:g} samples", loc="left", fontsize="medium")
        for ax, measure in zip(column, measures.values(), strict=True):
            ax.set(ylabel=measure, xscale="log")
            _plain_ticks(ax, sorted({row["depth"] for row in rows if row["depth"]}))
        column[1].set_xlabel("layers")
    axes[0, -1].legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


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
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for k, method in enumerate(methods):
        members = [row for row in rows if row["method"] == method]
        chosen = [row for row in members if row["chosen"]]
        left.plot([k] * len(chosen), [row["test"] for row in chosen], "o", color=f"C{k}", markersize=4, alpha=0.6)
        if chosen:
            left.plot([k], [mean(row["test"] for row in chosen)], "_", color=f"C{k}", markersize=18)
        for ax, measure in zip(others, ("weight_effective_rank", "kernel_effective_rank"), strict=True):
            for part, size, label in ((chosen, 5, method), ([r for r in members if not r["chosen"]], 2, None)):
                at = [row[measure] for row in part]
                ax.plot(at, [row["test"] for row in part], "o", color=f"C{k}", markersize=size, label=label)
    left.set_xticks(range(len(methods)), [m.replace("_", " ") for m in methods], rotation=35, ha="right")
    left.set_ylabel("test accuracy")
    for ax, what in zip(others, ("weights, mean of layers", "kernel of the last hidden features"), strict=True):
        ax.set_xlabel(f"effective rank: {what}", fontsize="small")
    others[-1].legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for ax in (left, *others):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_ranks(ax: Axes, rows: Sequence[dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys((row["optimizer"], row["init"], row["rank"], row["claimed"]) for row in rows))
    for k, kind in enumerate(kinds):
        optimizer, init, rank, claimed = kind
        points = [row for row in rows if (row["optimizer"], row["init"], row["rank"], row["claimed"]) == kind]
        # Side by side, so that bars do not hide each other.
        shift = 1 + 0.05 * (k - (len(kinds) - 1) / 2)
        label = init if optimizer == "none" else f"{optimizer}, {init}, rank {rank:g}"
        ax.errorbar(
            [row["depth"] * shift for row in points],
            [row["mean"] for row in points],
            yerr=_bars(points, "mean", "q2.5", "q97.5"),
            marker="o",
            markersize=2.5,
            linewidth=1,
            elinewidth=0.8,
            linestyle="-" if claimed else ":",
            label=label,
        )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=6, frameon=False)


def _draw_recovery(ax: Axes, rows: Sequence[dict[str, Any]], measure: str, colour: str, label: str) -> None:
    points = [row for row in rows if row["depth"]]
    bars = _bars(points, measure, f"{measure}_low", f"{measure}_high")
    at, means = [row["depth"] for row in points], [row[measure] for row in points]
    ax.errorbar(at, means, yerr=bars, marker="o", markersize=3, linewidth=1.2, color=colour, label=label)
    for row in rows:
        if not row["depth"]:
            ax.axhline(row[measure], color=colour, linewidth=0.8, linestyle=":")
    ax.spines[["top", "right"]].set_visible(False)


def _bars(rows: Sequence[dict[str, Any]], middle: str, low: str, high: str) -> list[list[float]]:
    """Lengths of bars below and above, which rounding in the table must not make negative."""
    return [
        [max(row[middle] - row[low], 0.0) for row in rows],
        [max(row[high] - row[middle], 0.0) for row in rows],
    ]


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
