"""Compact networks, expanded while they are trained, beside other ways to train them (Guo, Alvarez & Salzmann 2020).

    python -m benchmarks.compact_networks --source cifar10 --seeds 0:2 --out runs/compact_networks

trains a network of three convolutions of 5×5 and two linear layers, 73,162 parameters for CIFAR-10, by AdamW:

plain         as it is
linear        its linear layers are products of three, folded after training by htf.collapse
convolutions  its convolutions are 1×1, 5×5 and 1×1 in a row, folded likewise
kernels       its convolutions are 3×3 and 3×3 in a row, folded likewise
distilled     plain, and learns from the outputs of a network twice as wide, which is trained before
ht            a network of two or four times the channels in HT format, of as many parameters as the plain one

The time of a step is measured first, of all in turns, and all but the distilled one, whose teacher takes further time,
get as many epochs as take what the plain network's take; times.json keeps it, so that the command goes on with the same
numbers.  At the first seed learning rate, weight decay and each model's own setting are chosen by the accuracy on
validation images.  compact_networks_SOURCE.json has all rows, settings, machine and versions;
compact_networks_SOURCE.png is drawn from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.fits import DRY, SOURCES, combinations
from benchmarks.series import add_run_options, begin, command, do
from htf._files import read_json, write_figure, write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range

from .jobs import MODELS, Compact, make_network, parts_of, relative_times, sizes_of
from .plots import plot_compact

TIMES = "times.json"
ROUNDS = 15

Found = list[tuple[Compact, dict[str, Any]]]


def main(arguments: list[str] | None = None) -> None:
    """Measure times, choose settings, train, write, draw."""
    options = _options(arguments)
    out = begin(options)
    # Claimed before anything is written there.
    Compact.within(out)
    times = _times(out, options)
    first, *others = options.seeds
    found = _done(out, list(candidates(options, times, first)), options)
    chosen = [
        max((pair for pair in found if pair[0].model == model), key=lambda pair: pair[1]["validation"])[0]
        for model in options.models
    ]
    found += _done(out, [replace(job, seed=seed) for job in chosen for seed in others], options)
    name = f"compact_networks_{options.source}"
    kept = ("source", "train", "validation", "test", "epochs", "batch_size", "lrs", "weight_decays", "seeds", "threads")
    write_json(
        out / f"{name}.json",
        {
            "settings": {key: getattr(options, key) for key in kept},
            "relative_times": times,
            "rows": [row | {"chosen": replace(job, seed=first) in chosen} for job, row in found],
            "machine": describe_machine(torch.device("cpu")),
        },
    )
    write_figure(out / f"{name}.png", plot_compact(out / f"{name}.json"))
    print(f"results: {out / name}.json ({len(found)} fits)")


def candidates(options: argparse.Namespace, times: dict[str, float], seed: int) -> Iterator[Compact]:
    """Trainings from which validation chooses."""
    images = {part: getattr(options, part) for part in DRY}
    for model in options.models:
        for setting in combinations(MODELS[model]):
            epochs = max(1, round(options.epochs / times[_key(model, setting)]))
            for lr in options.lrs:
                for decay in options.weight_decays:
                    yield Compact(options.source, images, model, setting, seed, epochs, options.batch_size, lr, decay)


def _times(out: Path, options: argparse.Namespace) -> dict[str, float]:
    """Times of steps relative to the plain network's, by model and setting, measured once for a folder."""
    path = out / f"{options.source}_{TIMES}"
    if path.exists():
        there: dict[str, float] = read_json(path)
        return there
    x, y = parts_of(options.source, {part: getattr(options, part) for part in DRY}, options.data_dir)["train"]
    image, classes = sizes_of(x, y)
    makers = {
        _key(model, setting): partial(make_network, model, setting, image, classes, 0)
        for model, grid in MODELS.items()
        for setting in combinations(grid)
    }
    size = options.batch_size
    found = relative_times(makers, x[:size], y[:size], 1 if options.dry_run else ROUNDS)
    # A distilled network is the plain one.
    found = {key: 1.0 if key.startswith("distilled") else round(time, 2) for key, time in found.items()}
    write_json(path, found)
    return found


def _key(model: str, setting: dict[str, Any]) -> str:
    return " ".join([model, *(f"{name} {value:g}" for name, value in setting.items())])


def _done(out: Path, jobs: list[Compact], options: argparse.Namespace) -> Found:
    return do(Compact.within(out, data_dir=options.data_dir), jobs, options, _line)


def _line(job: Compact, row: dict[str, Any]) -> str:
    return (
        f"{_key(job.model, job.options)}, lr {job.lr:g}, weight decay {job.weight_decay:g}, {job.epochs} epochs, "
        f"seed {job.seed}: train {row['train']:.4f}, validation {row['validation']:.4f}, test {row['test']:.4f}, "
        f"{row['parameters']:,} parameters, {row['seconds']:.0f} s"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("compact_networks", __doc__)
    add = parser.add_argument
    add("--source", choices=SOURCES, default="cifar10")
    add("--train", type=int, default=10_000, help="images")
    add("--validation", type=int, default=2000, help="other train images, by which settings are chosen")
    add("--test", type=int, default=5000, help="images")
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--epochs", type=int, default=15, help="of the plain network; of others as many as take its time")
    add("--batch-size", type=int, default=64)
    add("--lrs", nargs="+", type=float, default=[1e-3, 3e-3], help="to choose from")
    add("--weight-decays", nargs="+", type=float, default=[0.05], help="to choose from")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2; the first one chooses settings")
    add_run_options(
        parser,
        "compact_networks",
        holds="fits, results and figure",
        data="the files of the source",
        few="images",
        workers=True,
    )
    options = parser.parse_args(arguments)
    if options.dry_run:
        vars(options).update(DRY, epochs=1)
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
