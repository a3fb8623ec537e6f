"""What the figures on dynamics show, kept in small files, and the figures drawn from these files alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import htf
from htf._files import read_json, read_tensors, write_tensors
from htf.dynamics.settings import SETTINGS_OF
from htf.plotting import plot_components, plot_norms_and_rank
from htf.plotting.style import bars, explain, look, panels, styled
from htf.training import History

STUDIES = ("mf", "cp", "ht", "ht16")
DEPTHS = (3, 4, 5)
_KIND = "what a figure shows of a fit"
# A panel is narrower than so many points.
_MOMENTS, _COMPONENTS, _POINTS = 400, 8, 250


def keep_components(path: Path, history: History, run: int) -> None:
    """The largest components of one run and of its first group, at no more moments than can be seen."""
    tracker = next(name for name in history.tracked if name.endswith(("values", "norms")))
    about = history.about(tracker)
    group = next(iter(about["groups"]))
    values = history[tracker][f"{group}/values"][..., :_COMPONENTS]
    trackers = {tracker: {**about, "groups": {group: about["groups"][group]}}}
    _keep(path, replace(history, tracked={tracker: {f"{group}/values": values}}), trackers, slice(run, run + 1))


def keep_norms(path: Path, history: History) -> None:
    """Norms and effective ranks of all runs."""
    _keep(path, history, history.settings["trackers"], slice(None))


def _keep(path: Path, history: History, trackers: dict[str, Any], runs: slice) -> None:
    moments = torch.linspace(0, len(history.steps) - 1, min(_MOMENTS, len(history.steps))).round().long()
    tensors = {
        name: tensor[moments] if name == "steps" else tensor[moments][:, runs].float()
        for name, tensor in history.tensors().items()
    }
    settings = {name: history.settings[name] for name in ("problem", "versions", "device") if name in history.settings}
    about: dict[str, Any] = {
        "settings": {**settings, "trackers": trackers},
        "seconds": history.seconds,
        "stopped": history.stopped,
    }
    write_tensors(path, tensors, about, _KIND)


def kept(path: Path) -> History:
    tensors, about = read_tensors(path, _KIND)
    return History.from_tensors(tensors, **about)


def keep_rates(path: Path, comparisons: dict[str, htf.dynamics.RateComparison]) -> None:
    """Sizes and rates over alignments of components on their way up, thinned."""
    tensors: dict[str, Tensor] = {}
    for name, comparison in comparisons.items():
        sizes, speeds = [], []
        for records in comparison.groups.values():
            chosen = records.rising() & (records.measured > 0) & (records.alignment > 0)
            sizes.append(records.value[chosen])
            speeds.append(records.measured[chosen] / records.alignment[chosen])
        found = torch.stack([torch.cat(sizes), torch.cat(speeds)])
        order = found[0].argsort()
        found = found[:, order[torch.linspace(0, len(order) - 1, min(_POINTS, len(order))).round().long()]]
        tensors[name] = found.float()
    write_tensors(path, tensors, {"cases": list(tensors)}, _KIND)


def plot_studies(folder: Path) -> Figure:
    """Components of all studies side by side, from what was kept of them in a folder."""
    histories = {}
    for part in STUDIES:
        if (path := folder / f"dynamics_{part}.safetensors").is_file():
            found = kept(path)
            shape = "×".join(map(str, found.settings["problem"]["shape"]))
            histories[f"{SETTINGS_OF[part[:2]].title}, {shape}"] = found
    figure = plot_components(histories)
    explain(figure, "One run of each, seed 0; the largest components.")
    return figure


@styled
def plot_starts(report: Path) -> Figure | None:
    """Test errors against the size of the start, from dynamics.json; None if no study has starts of several sizes."""
    parts = read_json(report, sealed=False)
    swept = [part for part in STUDIES if part in parts and len(parts[part]["settings"]["init_std"]) > 1]
    if not swept:
        return None
    figure, axes = panels(height=3.0)
    ax = axes[0, 0]
    for k, part in enumerate(swept):
        # Groups of components share their errors.
        errors = {row["init_std"]: row["test_error"] for row in parts[part]["summary"]}
        scales = sorted(errors)
        means, least, most = np.array([errors[std] for std in scales]).T
        shape = "×".join(map(str, parts[part]["planted"]["shape"]))
        name = f"{SETTINGS_OF[part[:2]].title}, {shape}"
        ax.errorbar(scales, means, yerr=bars(means, means - least, most - means, 0), label=name, **look(k))
    ax.set(
        xlabel="standard deviation of the start", ylabel="relative test error at the end", xscale="log", yscale="log"
    )
    seeds = len(parts[swept[0]]["settings"]["seeds"])
    explain(figure, f"Means of {seeds} seeds; bars: their range.", ax, columns=1)
    return figure


@styled
def plot_slopes(path: Path) -> Figure:
    """Measured rates over alignments against sizes, a panel per format, with the lines of theory."""
    points, _ = read_tensors(path, _KIND)
    letters = {"L": "products of L matrices", "N": "CP, order N", "K": "local, order K"}
    figure, axes = panels(1, len(letters), height=3.0, sharey=True)
    for ax, (letter, title) in zip(axes[0], letters.items(), strict=True):
        for name in sorted(points):
            sizes, speeds = points[name]
            if name[0] != letter or not len(sizes):
                continue
            factors = int(name.rpartition(" ")[2])
            style = look(factors - 2)
            ax.plot(sizes, speeds, **{**style, "linestyle": "none", "markersize": 3, "alpha": 0.5})
            at = torch.logspace(float(sizes.min().log10()), float(sizes.max().log10()), 30, dtype=torch.float64)
            law = rf"{factors} factors: ${factors}\,\sigma^{{2 - 2/{factors}}}$"
            line = {**style, "marker": None, "linewidth": 1.2, "label": law}
            ax.plot(at, factors * at ** (2 - 2 / factors), **line)
        ax.set(xscale="log", yscale="log", xlabel=r"size $\sigma$")
        ax.set_title(title, loc="left")
    axes[0, 0].set_ylabel(r"rate over alignment, $\gamma^{-1} d\sigma/dt$")
    explain(figure, "Points: measured, on the way up; lines: theory.", list(axes[0]))
    return figure


def plot_norms(folder: Path) -> Figure:
    """Norms and effective rank where all norms must diverge, from what was kept in a folder."""
    return plot_norms_and_rank(
        {f"depth {depth}": kept(folder / f"dynamics_norms_{depth}.safetensors") for depth in DEPTHS}
    )
