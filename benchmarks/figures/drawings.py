"""Which figure of docs/results is drawn from which files there, and by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

import htf
from benchmarks import dynamics_plots
from benchmarks.arrangement.plots import plot_accuracies
from benchmarks.autoencoder.plots import plot_codes
from benchmarks.long_range.plots import plot_growing, plot_link, plot_long_range
from benchmarks.missing_data.__main__ import plot as plot_missing
from benchmarks.nuclear_norm.__main__ import plot as plot_nuclear_norm
from benchmarks.published.figure import plot_published
from benchmarks.randomization.compressibility import plot_compressibility
from benchmarks.randomization.plots import plot_randomization
from benchmarks.simplicity.plots import plot_effective_ranks, plot_kernels, plot_rank_penalties, plot_recovery
from benchmarks.speed.ht import plot_counts
from htf._files import read_json
from htf._tables import read_table
from htf.plotting.style import WIDTH, explain, styled
from htf.probes.result import FitRecord


@dataclass(frozen=True)
class Drawing:
    """Files that a figure is drawn from, and the function that draws it from their paths."""

    files: tuple[str, ...]
    draw: Callable[..., Figure]


def rank_fit(cp: Path, ht: Path, published: Path) -> Figure:
    """Probes by their tables; the variance of the targets is in that of the published errors."""
    name = read_json(cp.with_suffix(".json"), sealed=False)["dataset"]
    numbers = ("rank", "positive", "seed", "n_parameters", "train", "test")
    read = [row for table in (cp, ht) for row in read_table(table, numbers, ("format", "twin", "collapsed"))]
    records = [
        FitRecord(
            format=row["format"],
            rank=int(row["rank"]),
            positive=int(row["positive"]),
            twin=row["twin"],
            seed=int(row["seed"]),
            n_parameters=int(row["n_parameters"]),
            train=row["train"],
            test=row["test"],
            train_history=[],
            test_history=[],
            returns=[],
            collapsed=row["collapsed"] == "True",
        )
        for row in read
    ]
    classes = {record.positive for record in records}
    rows = read_table(published, ("class", "variance"), ("data", "twin"))
    rows = [row for row in rows if (row["data"], row["twin"]) == (name, "original") and row["class"] in classes]
    variance = {which: fmean(row["variance"] for row in rows if row["class"] == which) for which in classes}
    return htf.plotting.plot_rank_fit(htf.probes.RankFit({"dataset": name}, records, variance))


@styled
def samples() -> Figure:
    """Images of the long-range tasks at CPU scale, and of Pathfinder at the papers' size; needs MNIST."""
    few: dict[str, Any] = {"train": 6, "validation": 2, "test": 2}
    rows = {
        "Pathfinder, 3 dashes and 8 distractors, 48 × 48": htf.datasets.pathfinder(3, distractors=8, **few),
        "Pathfinder, 5 dashes, 48 × 48": htf.datasets.pathfinder(5, **few),
        "Pathfinder, 9 dashes, 150 × 150": htf.datasets.pathfinder(9, 150, **few),
        "Is-Same-Class, MNIST at half size, distance 20, 16 × 64": htf.datasets.is_same_class(
            "mnist", scale=0.5, **few
        ),
    }
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1, height_ratios=[1.2, 1.2, 1.2, 0.62])
    for part, (title, data) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, x=0.01, ha="left")
        for number, ax in enumerate(part.subplots(1, few["train"])):
            image, label = data.train[number]
            ax.set_axis_off()
            ax.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set_title("yes" if label else "no")
    explain(figure, "Are the two dots on one curve, the two digits of one class?  Seed 0.")
    return figure


def _studies(*files: Path) -> Figure:
    return dynamics_plots.plot_studies(files[0].parent)


def _starts(path: Path) -> Figure:
    figure = dynamics_plots.plot_starts(path)
    if figure is None:
        raise ValueError(f"{path} holds no study of several starts; expected what benchmarks.dynamics writes")
    return figure


def _norms(*files: Path) -> Figure:
    return dynamics_plots.plot_norms(files[0].parent)


def _published(path: Path) -> Figure:
    return plot_published(read_json(path, sealed=False)["sets"])


def _operations(path: Path) -> Figure:
    return plot_counts(read_json(path, sealed=False)["counts"])


def _long_range(path: Path) -> Figure:
    return plot_long_range(path)


DRAWINGS = {
    "arrangement_tables": Drawing(("arrangement_tables.json",), plot_accuracies),
    "autoencoder_shapes": Drawing(("autoencoder_shapes.json",), plot_codes),
    "compressibility": Drawing(("compressibility.csv",), plot_compressibility),
    "dynamics_components": Drawing(tuple(f"dynamics_{part}.safetensors" for part in ("mf", "cp", "ht")), _studies),
    "dynamics_init": Drawing(("dynamics.json",), _starts),
    "dynamics_norms": Drawing(tuple(f"dynamics_norms_{d}.safetensors" for d in dynamics_plots.DEPTHS), _norms),
    "fashion": Drawing(("fashion_cp.csv", "fashion_ht.csv", "published.csv"), rank_fit),
    "ht_operations": Drawing(("ht_speed.json",), _operations),
    "long_range_growing": Drawing(("long_range_growing.csv",), plot_growing),
    "long_range_is_same_class": Drawing(("long_range_is_same_class.csv",), _long_range),
    "long_range_link": Drawing(("long_range_link.json",), plot_link),
    "long_range_samples": Drawing((), samples),
    "long_range_pathfinder": Drawing(("long_range_pathfinder.csv",), _long_range),
    "missing_data": Drawing(("missing_data.json",), plot_missing),
    "mnist": Drawing(("mnist_cp.csv", "mnist_ht.csv", "published.csv"), rank_fit),
    "nuclear_norm": Drawing(("nuclear_norm.csv",), plot_nuclear_norm),
    "published": Drawing(("published.json",), _published),
    "randomization": Drawing(("randomization.csv", "randomization.json"), plot_randomization),
    "simplicity_cifar": Drawing(("simplicity_cifar.csv",), plot_rank_penalties),
    "simplicity_distribution": Drawing(("simplicity_distribution.csv",), plot_effective_ranks),
    "simplicity_kernels": Drawing(("simplicity_kernels.safetensors",), plot_kernels),
    "simplicity_least_squares": Drawing(("simplicity_least_squares.csv",), plot_recovery),
}

# Figures that the files there cannot give, and why.
NOT_REDRAWN = {
    "autoencoder_shapes_pictures": "reconstructions of networks that are not kept; benchmarks.autoencoder draws it",
    "dynamics_rates": "its points are of fits that were not kept; benchmarks.dynamics --only rates draws it",
}
