"""Compressibility over training, with true and with random labels: does it tell them apart where sizes do not?

    python -m benchmarks.randomization.compressibility --seeds 0:2 --out runs/compressibility

trains the networks of the randomization benchmark on true and on shuffled labels of the same images until every
training label is said right, or the epochs are used up, and measures after some epochs how few parameters the layers
keep for a given noise at their outputs on training images (htf.ranks.compressibility), the bound that follows, and the
capacity of spectral-norm bounds.  The two are compared at equal training accuracies.

It leaves compressibility.csv, a row a moment; compressibility.json, with settings, machine, versions and a summary at
equal training accuracies; and compressibility.png.  Each training has a folder of its own below --out, and the same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.fits import SOURCES
from benchmarks.series import add_run_options, begin, command, do
from htf._files import read_json, write_figure, write_json
from htf._machine import describe_machine
from htf._tables import read_table
from htf.cli.arguments import int_range
from htf.jobs import FolderJob, Progress, collect
from htf.plotting.style import baseline, explain, look, panels, seeds_of, styled, words
from htf.ranks import compressibility
from htf.ranks.compressibility import FORMATS
from htf.training import Training, reached
from htf.training.objectives import classification

from .jobs import Job, as_task, make_data
from .networks import NETWORKS, make_network
from .solvers import count_classes

NAME = "compressibility"
VARIANTS = {"original": "true labels", "random_labels": "random labels"}
MOMENTS = (1, 2, 4, 8, 16, 32, 64, 128)
# Training accuracies at which the two are compared.
ACCURACIES = (0.5, 0.9, 1.0)
_DRY = {"train": 60, "validation": 20, "test": 40}


@dataclass(frozen=True)
class Followed(FolderJob):
    """A training, measured at its start and after some epochs.

    Attributes
    ----------
    source : str
    images : dict
        Of `benchmarks.randomization.jobs.pick`.
    model, variant : str
        A network, and the labels.
    seed : int
    lr, batch_size, epochs
        Of gradient descent with momentum 0.9; epochs at most.
    noise : float
    formats : tuple of str
    measured_on : int
        Training images.
    """

    kind = "benchmark of compressibility"
    holds = "the rows of a training"
    temporary = ("checkpoint*", "moments.json")

    source: str
    images: dict[str, int]
    model: str
    variant: str
    seed: int
    lr: float
    batch_size: int
    epochs: int
    noise: float
    formats: tuple[str, ...]
    measured_on: int

    @property
    def label(self) -> str:
        return f"{self.source}_{self.model}_{self.variant}_seed{self.seed}"

    def compute(self, folder: Path | None, report: Progress, *, data_dir: str | None = None) -> list[dict[str, Any]]:
        """A row for each moment."""
        data = make_data(Job(self.source, self.images, self.model, self.variant, self.seed), data_dir)
        task = as_task(data)
        network = make_network(self.model, task.image_size, count_classes(data), seed=self.seed)
        # Training images stand in the place of those for validation.
        objective = classification(train=task.train, validation=task.train, batch_size=self.batch_size)
        training = Training(
            network,
            objective,
            optimizer=partial(torch.optim.SGD, momentum=0.9),
            lr=self.lr,
            rules=reached(1.0),
            out=folder,
            seed=self.seed,
        )
        x = task.train.tensors()[0][: self.measured_on]
        kept = None if folder is None else folder / "moments.json"
        rows: list[dict[str, Any]] = read_json(kept) if kept is not None and kept.exists() else []

        def measure(epoch: int, accuracy: float, stopped: str) -> None:
            found = compressibility(network, x, noise=self.noise, formats=self.formats)
            rows.append(
                {
                    "epoch": epoch,
                    "train": accuracy,
                    "stopped": stopped,
                    "parameters": found.parameters,
                    "effective_parameters": found.effective_parameters,
                    "bound": found.bound(len(data.train_labels)),
                    "spectral_complexity": found.spectral_complexity,
                    "shares": {layer.name: round(layer.effective / layer.parameters, 5) for layer in found.layers},
                }
            )
            if kept is not None:
                write_json(kept, rows)

        if not rows:
            measure(0, 0.0, "")
        for epoch in [*(moment for moment in MOMENTS if moment < self.epochs), self.epochs]:
            if rows[-1]["stopped"] or rows[-1]["epoch"] >= epoch:
                continue
            # It goes on from the moment before, or from where it was stopped.
            history = training.run(epoch, on_advance=lambda: report(training.epoch / self.epochs))
            accuracy = float(history["validation"]["accuracy"][-1, 0])
            # Where the rule holds at the last epoch that was asked for, the history says that this ended it.
            ended = "fitted" if accuracy == 1.0 else "epochs" if epoch == self.epochs else ""
            measure(training.epoch, accuracy, ended)
        return rows

    def content(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        return {"settings": self.settings, "digest": self.digest, "moments": found}

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        about = {name: content["settings"][name] for name in ("source", "model", "variant", "seed", "noise")}
        return [
            about
            | {name: value for name, value in moment.items() if name != "shares"}
            | {"settings_sha256": content["digest"]}
            for moment in content["moments"]
        ]


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of the parameters that are effective, at equal training accuracies, with true and random labels.

    Between moments the share is interpolated linearly in the accuracy; seeds that do not reach it are left out.  They
    are apart where there are several seeds and their ranges do not meet.
    """
    found, rows = [], list(rows)
    runs: dict[tuple[str, float], dict[str, list[list[dict[str, Any]]]]] = {}
    keys = dict.fromkeys((row["model"], row["noise"], row["variant"], row["seed"]) for row in rows)
    for key in keys:
        mine = [row for row in rows if (row["model"], row["noise"], row["variant"], row["seed"]) == key]
        runs.setdefault(key[:2], {}).setdefault(key[2], []).append(mine)
    for (model, noise), variants in runs.items():
        for accuracy in ACCURACIES:
            shares = {
                variant: [s for each in variants.get(variant, []) if (s := _share_at(each, accuracy)) is not None]
                for variant in VARIANTS
            }
            true, random = shares["original"], shares["random_labels"]
            # One seed has no range.
            several = min(len(true), len(random)) > 1
            apart = several and (max(true) < min(random) or max(random) < min(true))
            found.append({"model": model, "noise": noise, "train": accuracy, **shares, "apart": apart})
    return found


def _share_at(moments: list[dict[str, Any]], accuracy: float) -> float | None:
    """The share where the accuracy is first reached; None if it is not."""
    before = moments[0]
    for moment in moments[1:]:
        if moment["train"] >= accuracy:
            x = [before["train"], moment["train"]]
            y = [each["effective_parameters"] / each["parameters"] for each in (before, moment)]
            return float(np.interp(accuracy, x, y))
        before = moment
    return None


@styled
def plot_compressibility(table: str | Path, *, noise: float | None = None) -> Figure:
    """Share of effective parameters, and spectral complexity, against training accuracy; a column for each network.

    Parameters
    ----------
    table : str or Path
        CSV that ``python -m benchmarks.randomization.compressibility`` writes; a line for each seed.
    noise : float, optional
        By default the first in the table.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the table has no rows, none of that noise, or lacks a column.
    """
    numbers = ("noise", "epoch", "train", "parameters", "effective_parameters", "spectral_complexity", "seed")
    rows = read_table(Path(table), numbers, ("model", "variant"))
    chosen = rows[0]["noise"] if noise is None else noise
    if not (found := [row for row in rows if row["noise"] == chosen]):
        raise ValueError(f"{table} has no rows of noise {chosen:g}; expected one of those measured")
    models = list(dict.fromkeys(row["model"] for row in found))
    figure, axes = panels(2, len(models), sharex=True)
    seeds: list[int] = []
    for (upper, lower), model in zip(axes.T, models, strict=True):
        for variant, style in zip(VARIANTS, (baseline(), look(1)), strict=True):
            mine = [row for row in found if (row["model"], row["variant"]) == (model, variant)]
            own = list(dict.fromkeys(row["seed"] for row in mine))
            seeds.append(len(own))
            for k, seed in enumerate(own):
                line = [row for row in mine if row["seed"] == seed]
                labelled = style | {"markersize": 3.5, "label": VARIANTS[variant] if k == 0 else None}
                x = [row["train"] for row in line]
                upper.plot(x, [row["effective_parameters"] / row["parameters"] for row in line], **labelled)
                lower.plot(x, [row["spectral_complexity"] for row in line], **labelled)
        upper.set_title(words(model), loc="left")
        upper.set_ylim(0, 1)
        lower.set(yscale="log", xlabel="training accuracy")
    axes[0, 0].set_ylabel("share of parameters needed")
    axes[1, 0].set_ylabel("spectral complexity")
    explain(figure, f"A curve for each of {seeds_of(seeds)}.", axes[0, 0])
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, write, draw."""
    options = _options(arguments)
    out = begin(options)
    images = {name: getattr(options, name) for name in _DRY} | {"seed": 0}
    jobs = [
        Followed(
            options.source,
            images,
            model,
            variant,
            seed,
            lr=options.lr,
            batch_size=options.batch_size,
            epochs=options.epochs,
            noise=options.noise,
            formats=tuple(options.formats),
            measured_on=min(options.measured_on, options.train),
        )
        for seed in options.seeds
        for model in options.models
        for variant in VARIANTS
    ]
    do(Followed.within(out, data_dir=options.data_dir), jobs, options, _line)
    key = ("source", "model", "variant", "noise", "settings_sha256", "seed", "epoch")
    rows = collect(Followed, out, out / f"{NAME}.csv", key=lambda row: [row[name] for name in key])
    found = summary(row for row in rows if row["noise"] == options.noise)
    settings = {name: getattr(options, name) for name in ("source", "lr", "batch_size", "epochs", "noise", "formats")}
    about = {"settings": settings | images, "summary": found, "machine": describe_machine(torch.device("cpu"))}
    write_json(out / f"{NAME}.json", about)
    for row in found:
        shares = ", ".join(f"{name} {mean(row[variant]):.3f}" for variant, name in VARIANTS.items() if row[variant])
        print(f"{row['model']} at train accuracy {row['train']:g}: {shares}{', apart' * row['apart']}")
    write_figure(out / f"{NAME}.png", plot_compressibility(out / f"{NAME}.csv", noise=options.noise))
    print(f"table: {out / NAME}.csv ({len(rows)} moments)\nfigure: {out / NAME}.png")


def _line(job: Followed, content: dict[str, Any]) -> str:
    last = content["moments"][-1]
    return (
        f"{job.model}, {VARIANTS[job.variant]}, seed {job.seed}: train {last['train']:.4f} after {last['epoch']} "
        f"epochs, {last['effective_parameters']:,} of {last['parameters']:,} parameters needed, bound "
        f"{last['bound']:.2f}, spectral complexity {last['spectral_complexity']:.3g}"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("randomization.compressibility", __doc__)
    add = parser.add_argument
    add("--source", choices=SOURCES, default="mnist")
    add("--train", type=int, default=1000, help="images")
    add("--validation", type=int, default=1000, help="other train images, which are left out")
    add("--test", type=int, default=1000, help="images, which are left out")
    add("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    add("--lr", type=float, default=0.03, help="by default the one that benchmarks.randomization chooses for MNIST")
    add("--batch-size", type=int, default=64)
    add("--epochs", type=int, default=100, help="at most")
    add("--noise", type=float, default=0.5, help="at the outputs of each layer, relative")
    add("--formats", nargs="+", choices=FORMATS, default=["matrix", "tucker"])
    add("--measured-on", type=int, default=200, help="training images")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add_run_options(
        parser, NAME, holds="trainings, table and figure", data="the files of the source", few="images", workers=True
    )
    options = parser.parse_args(arguments)
    if not 0 < options.noise < 1:
        parser.error(f"--noise is {options.noise}; expected above 0 and below 1")
    if options.dry_run:
        vars(options).update(_DRY, epochs=2)
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
