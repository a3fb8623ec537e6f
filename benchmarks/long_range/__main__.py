"""Accuracy against distance on long-range tasks, with regularizers that promote hierarchical rank and without.

    python -m benchmarks.long_range --task pathfinder --scale cpu --out runs/pathfinder

trains a network for every distance, regularizer, weight and seed, by the recipes in recipes.py, and leaves a
table with a row for each, long_range.csv, and the curves drawn from it, long_range.png.  The test accuracy is that of
the epoch that is best on validation images.  Each training has a folder of its own below --out, where it goes on if it
was stopped, and the table is gathered from these, so that nothing is lost, and more seeds or regularizers can be added.

Scales: cpu trains small networks on 48×48 pixels (a plain epoch takes 5 to 10 seconds on one core, one with igc seven
times as long); gpu is the setting of Razin et al. 2022, ResNet-18 on 150×150 or 224×224 pixels.  --dry-run does every
step of either on a few images.

--controls trains the network without regularizer in other ways too: with weight decay, with dropout, for more epochs.

Spread the trainings over the cores of a machine by --workers 2, or over a cluster by --scheduler tcp://host:8786: its
workers, of one thread each, need the checkout in PYTHONPATH, and --out and --cache on a disk that all see.  Share each
training among several devices or nodes by --devices 4 --nodes 2 (needs htf-tensors[train]; launch as Lightning Fabric
asks).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from htf._files import write_figure
from htf._machine import usable_device
from htf.cli.arguments import add_scheduler, int_range
from htf.jobs import map_jobs

from .jobs import TABLE, Job, check_points, gather_table
from .plots import plot_long_range
from .recipes import DISTANCE, MODELS, REGULARIZERS, SETTINGS, TASKS, Setting, read_spec, write_spec

FIGURE = "long_range.png"
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "long_range_published.csv"
# Enough to do every step: two batches.
_DRY = {"train": 16, "validation": 8, "test": 8}
_DRY_BATCH = 8


def main(arguments: list[str] | None = None) -> None:
    """Train, write the table, draw the figure."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    jobs = list(make_jobs(options))
    out = (options.out or Path("runs") / f"long_range_{options.scale}").absolute()
    if options.dry_run:
        jobs, out = [dry(job) for job in jobs], out / "dry_run"
    where = {"data_dir": options.data_dir, "cache": options.cache}
    try:
        run = Job.within(out, **where, device=str(usable_device(options.device)))
        check_points(out, jobs)
    except (ValueError, OSError) as error:
        raise SystemExit(f"--out: {error}") from None
    if options.devices * options.nodes > 1:
        if not _run_together(out, jobs, where, options):
            return
    else:
        results = map_jobs(
            run,
            jobs,
            workers=options.workers,
            scheduler=options.scheduler,
            cost=lambda job: job.cost,
            threads=options.threads,
            progress=options.progress,
        )
        for _, row in results:
            print(_line(row), flush=True)
            gather_table(out)
    rows = gather_table(out)
    print(f"table: {out / TABLE} ({len(rows)} trainings)")
    figure = plot_long_range(out / TABLE, PUBLISHED if options.published and PUBLISHED.exists() else None)
    write_figure(out / FIGURE, figure)
    print(f"figure: {out / FIGURE}")


def make_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All trainings that the options ask for."""
    setting = SETTINGS[options.scale].get(options.task)
    if setting is None:
        raise SystemExit(f"scale {options.scale} has no recipe for {options.task}")
    data = dict(setting.data) | {key: v for key in _DRY if (v := getattr(options, key)) is not None}
    for distance in options.distances or setting.distances:
        arguments = (
            data
            | dict(setting.of_distance.get(distance, {}))
            | {DISTANCE[options.task]: distance, "seed": options.data_seed}
        )
        for text in options.regularizers or setting.recipes:
            for job in _of_regularizer(text, setting, options):
                for seed in options.seeds:
                    yield replace(job, data=arguments, seed=seed)


def _of_regularizer(text: str, setting: Setting, options: argparse.Namespace) -> Iterator[Job]:
    """Its trainings, but for distance and seed."""
    try:
        name, given = read_spec(text)
    except ValueError as error:
        raise SystemExit(f"--regularizers: {error}") from None
    recipe = setting.recipes.get(name)
    if recipe is None:
        raise SystemExit(f"{options.task} has no recipe for {name}; it has {', '.join(setting.recipes)}")
    chosen = {"lr": options.lr, "batch_size": options.batch_size, "stop_after_perfect": options.stop_after_perfect}
    training = dict(setting.training) | {key: value for key, value in chosen.items() if value is not None}
    epochs = options.epochs or recipe.epochs
    for weight in [recipe.weight] if name == "none" else options.weights or [recipe.weight]:
        plain = Job(
            options.task,
            {},
            options.model or setting.model,
            write_spec(name, {**recipe.options, **given}),
            weight,
            0,
            0.0,
            {**training, "epochs": epochs, "weight_decay": 0.0},
        )
        yield plain
        if name == "none" and options.controls:
            yield from _controls(plain, options)


def _controls(plain: Job, options: argparse.Namespace) -> Iterator[Job]:
    for value in options.weight_decay:
        yield replace(plain, training={**plain.training, "weight_decay": value}, control="weight decay")
    for value in options.dropout:
        yield replace(plain, dropout=value, control="dropout")
    for factor in options.epochs_factor:
        epochs = round(factor * plain.training["epochs"])
        yield replace(plain, training={**plain.training, "epochs": epochs}, control=f"{factor:g} × the epochs")
    if options.max_seconds is not None:
        longest = {"epochs": 10**6, "max_seconds": options.max_seconds}
        yield replace(plain, training={**plain.training, **longest}, control="equal time")


def dry(job: Job) -> Job:
    """The same on a few small batches, once."""
    training = {**job.training, "epochs": 1, "batch_size": _DRY_BATCH}
    return replace(job, data={**job.data, **_DRY}, training=training)


def _run_together(out: Path, jobs: list[Job], where: dict[str, Any], options: argparse.Namespace) -> bool:
    """Every training shared by all processes; whether this is the first one."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise SystemExit("--devices and --nodes need Lightning Fabric: install htf-tensors[train]") from error
    if options.workers > 1 or options.scheduler is not None:
        raise SystemExit("--devices and --nodes share each training; --workers and --scheduler spread whole ones")
    fabric = Fabric(
        accelerator="cpu" if options.device == "cpu" else "cuda",
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=options.strategy,
        precision=options.precision,
    )
    fabric.launch()
    first: bool = fabric.global_rank == 0
    for job in jobs:
        row = job.finished(out)
        if row is None:
            row = job.compute(job.folder(out), lambda share: None, **where, fabric=fabric)
            if first:
                job.save(out, row)
            fabric.barrier()
        if first:
            print(_line(row), flush=True)
            gather_table(out)
    return first


def _line(row: dict[str, Any]) -> str:
    what = f"{row['task']} {row['distance']}, {row['regularizer']} × {row['weight']:g}, {row['control'] or 'recipe'}"
    accuracies = ", ".join(f"{part} {row[part]:.3f}" for part in ("train", "validation", "test"))
    return f"{what}, seed {row['seed']}: {accuracies} after {row['epochs']} epochs, {row['seconds']:.0f} s"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_range",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", choices=list(TASKS), required=True)
    add("--scale", choices=list(SETTINGS), default="cpu")
    add("--distances", nargs="+", type=int, help="dashes of the path, or pixels; by default the recipe's")
    add("--regularizers", nargs="+", help=f"from {', '.join(REGULARIZERS)}; by default all that have a recipe; "
        "with options as in interaction:samples=4,patches=far,size=2")  # fmt: skip
    add("--weights", nargs="+", type=float, help="of the regularizers; by default each recipe's")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add("--model", choices=MODELS, help="by default the scale's")
    add("--controls", action="store_true", help="train the network without regularizer in other ways too")
    add("--weight-decay", nargs="*", type=float, default=[1e-3, 1e-2], help="controls")
    add("--dropout", nargs="*", type=float, default=[0.5], help="controls")
    add("--epochs-factor", nargs="*", type=float, default=[4.0], help="controls: so many times the epochs")
    add("--max-seconds", type=float, help="control: as many epochs as that time allows")
    add("--epochs", type=int, help="by default each recipe's")
    add("--lr", type=float)
    add("--batch-size", type=int)
    add("--stop-after-perfect", type=int, help="stop after so many epochs of perfect training accuracy")
    for part in _DRY:
        add(f"--{part}", type=int, help="images")
    add("--data-seed", type=int, default=0, help="of the images, the same for all trainings")
    add("--dry-run", action="store_true", help="every step on a few images")
    add("--out", type=Path, help="folder of the trainings, table and figure; by default runs/long_range_SCALE")
    add("--data-dir", help="folder of MNIST or CIFAR-10 files; otherwise HTF_DATA, or a download")
    add("--cache", help="folder to keep generated images in")
    add("--workers", type=int, default=1, help="processes that share the trainings")
    add_scheduler(parser)
    add("--threads", type=int, default=1, help="of torch in each process")
    add("--device", default="cpu")
    add("--devices", type=int, default=1, help="that share each training, per node")
    add("--nodes", type=int, default=1)
    add("--strategy", default="ddp", help="of Lightning Fabric")
    add("--precision", default="32-true", help="of Lightning Fabric")
    add("--no-published", dest="published", action="store_false", help="leave the published curves out of the figure")
    add("--no-progress", dest="progress", action="store_const", const=False, default=None)
    options = parser.parse_args(arguments)
    for part in _DRY:
        # Validation chooses the epoch, and test is what is reported.
        if (count := getattr(options, part)) is not None and count < 1:
            parser.error(f"--{part} is {count}; expected 1 at least")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
