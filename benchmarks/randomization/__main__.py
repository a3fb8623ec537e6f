r"""Networks fit noise: the generalization controls of Zhang et al. 2017 on a subset of MNIST.

    python -m benchmarks.randomization --out runs/randomization

trains two multilayer perceptrons and a small convolutional network on the true labels, on labels of which a part is
corrupted, on random labels, and on images whose pixels are shuffled or random, each until all training labels are said
right or the epochs are used up; true and random labels also with weight decay, dropout and augmentation by shifts, and
with --patience and --all stopped early, and with all three at once.  --models adds a small residual network, "resnet".
Beside them stand the network of 2n + d weights that is constructed (htf.nn.finite_sample_network), the least squares
solution of least norm, gradient descent's way to it, and the interpolation of least norm by a Gaussian kernel; the last
two also on convolutions with random filters, where early stopping is compared with interpolation at each share of
random labels.

    python -m benchmarks.randomization --source cifar10 --epochs 60 --lrs 0.01 0.03 --patience 5 --all \
        --models mlp_1x512 mlp_3x512 cnn resnet --seeds 0:2 --workers 2 --out runs/randomization_cifar10

is the table of regularizers on CIFAR-10, which is printed at the end; it takes some 70 minutes on two cores.

The learning rate of a network, and the width of the kernel, are those that are best on validation images with true
labels; they serve all labels and images.  These fits are rows of the table too, judged on "validation".  Chance is the
interval that holds 99 % of the test accuracies of a model that knows nothing.

It leaves a table with a row for each fit, randomization.csv, settings, machine and the curves of the trainings,
randomization.json, and figures, randomization.png and randomization_early_stopping.png.  Each fit has a folder of its
own below --out, where it goes on if it was stopped, and the table is gathered from these, so that seeds can be added.
--dry-run does every step on a few images.  On one core a seed takes about half an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import scipy
import torch

from benchmarks.series import add_run_options, begin, command
from htf._files import write_figure, write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range
from htf.jobs import Progress, map_jobs

from .jobs import CORRUPTED, Job, gather_table
from .networks import NETWORKS
from .plots import plot_early_stopping, plot_randomization
from .regularizers import regularizer_table

NAME = "randomization"
Run = Callable[[Job, Progress], Any]
SOURCES = ("mnist", "fashion_mnist", "digits", "cifar10")
IMAGES = ("random_labels", "shuffled_pixels", "random_pixels", "gaussian_images")
_DRY = {"train": 60, "validation": 20, "test": 40}
_DRY_EPOCHS = 2


def main(arguments: list[str] | None = None) -> None:
    """Choose the rates, fit, write the table, draw the figure."""
    options = _options(arguments)
    out = begin(options)
    if options.dry_run:
        options.epochs, options.kernel_train, options.descent_train = _DRY_EPOCHS, [], 30
        options.train, options.validation, options.test = _DRY.values()
        options.filters = 4
    run = Job.within(out, data_dir=options.data_dir)
    rates = _best(run, options, {"lr": options.lrs}, options.models)
    widths = _best(run, options, {"width": options.widths}, ["gaussian_kernel", "convolutions_kernel"])
    fits = [*network_jobs(options, rates), *solver_jobs(options, widths)]
    for job, content in _map(run, fits, options):
        print(_line(job, content["row"]), flush=True)
        _write(out, options, rates | widths)
    contents = _write(out, options, rates | widths)
    print(f"table: {out / NAME}.csv ({len(contents)} fits)")
    figure = plot_randomization(out / f"{NAME}.csv", out / f"{NAME}.json")
    write_figure(out / f"{NAME}.png", figure)
    print(f"figure: {out / NAME}.png")
    stopping = plot_early_stopping(out / f"{NAME}.json")
    write_figure(out / f"{NAME}_early_stopping.png", stopping)
    print(f"figure: {out / NAME}_early_stopping.png")
    print(regularizer_table([content["row"] for content in contents]))


def network_jobs(options: argparse.Namespace, rates: dict[str, float]) -> Iterator[Job]:
    """Trainings of all networks on all variants, and those of true and random labels with regularizers."""
    variants = ["original", *(f"{CORRUPTED}{share:g}" for share in options.corruptions), *IMAGES]
    for seed in options.seeds:
        for model, lr in rates.items():
            for variant in variants:
                plain = _network_job(options, model, variant, seed, lr)
                yield plain
                if variant in ("original", "random_labels"):
                    yield from _controls(plain, options)


def _network_job(options: argparse.Namespace, model: str, variant: str, seed: int, lr: float) -> Job:
    training = {"lr": lr, "batch_size": options.batch_size, "epochs": options.epochs, "weight_decay": 0.0}
    return Job(options.source, _images(options), model, variant, seed, training=training)


def _controls(plain: Job, options: argparse.Namespace) -> Iterator[Job]:
    for value in options.weight_decay:
        yield replace(plain, training={**plain.training, "weight_decay": value}, control=f"weight decay {value:g}")
    for value in options.dropout:
        yield replace(plain, options={"dropout": value}, control=f"dropout {value:g}")
    for value in options.shifts:
        yield replace(plain, options={"shift": value}, control=f"shifts {value}")
    for value in options.patience:
        yield replace(plain, training={**plain.training, "patience": value}, control=f"early stopping {value}")
    if options.all:
        decayed = {**plain.training, "weight_decay": options.weight_decay[0]}
        changed = {"dropout": options.dropout[0], "shift": options.shifts[0]}
        yield replace(plain, training=decayed, options=changed, control="all")


def solver_jobs(options: argparse.Namespace, widths: dict[str, float]) -> Iterator[Job]:
    """The fits that are computed."""
    images = _images(options)
    few = images | {"train": min(options.descent_train, options.train)}
    width, filters = widths["gaussian_kernel"], {"filters": options.filters}
    for seed in options.seeds:
        for variant in ("original", "random_labels"):
            yield Job(options.source, images, "finite_sample", variant, seed, options={"seed": seed})
            yield Job(options.source, images, "gaussian_kernel", variant, seed, options={"width": width})
            yield Job(options.source, images, "least_squares", variant, seed)
            yield Job(options.source, few, "least_squares", variant, seed)
            steps = {"steps": options.descent_steps}
            yield Job(options.source, few, "gradient_descent", variant, seed, options=steps)
            drawn = filters | {"seed": seed}
            on_convolutions = drawn | {"width": widths["convolutions_kernel"]}
            yield Job(options.source, images, "convolutions_kernel", variant, seed, options=on_convolutions)
            yield Job(options.source, images, "convolutions_linear", variant, seed, options=drawn)
        for variant in ("original", *(f"{CORRUPTED}{share:g}" for share in options.corruptions)):
            yield Job(options.source, images, "early_stopping", variant, seed, options=filters | {"seed": seed})
    for train in options.kernel_train:
        more = images | {"train": train}
        yield Job(options.source, more, "gaussian_kernel", "original", options.seeds[0], options={"width": width})


def _images(options: argparse.Namespace) -> dict[str, int]:
    names = ("train", "validation", "test")
    return {name: getattr(options, name) for name in names} | {"seed": options.data_seed}


def _best(run: Run, options: argparse.Namespace, values: dict[str, list[float]], models: list[str]) -> dict[str, float]:
    """For each model the value of a setting that is best on validation images, the least of equals."""
    ((name, each),) = values.items()
    jobs = []
    for model in models:
        for value in sorted(each):
            if name == "lr":
                job = _network_job(options, model, "original", options.data_seed, value)
            else:
                given = {"filters": options.filters} if model.startswith("convolutions") else {}
                job = Job(options.source, _images(options), model, "original", options.data_seed,
                          options={**given, name: value})  # fmt: skip
            jobs.append(replace(job, judged_on="validation", control=f"{name} {value:g}"))
    rows = [content["row"] for _, content in _map(run, jobs, options)]
    found: dict[str, float] = {}
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        found[model] = max(sorted(mine, key=lambda row: row[name]), key=lambda row: row["test"])[name]
        print(f"{model}: {name} {found[model]:g} is the best of {', '.join(map(str, sorted(each)))}", flush=True)
    return found


def _map(run: Run, jobs: list[Job], options: argparse.Namespace) -> Iterator[tuple[Job, dict[str, Any]]]:
    return map_jobs(
        run,
        jobs,
        workers=options.workers,
        cost=lambda job: job.cost,
        threads=options.threads,
        progress=options.progress,
    )


def _write(out: Path, options: argparse.Namespace, chosen: dict[str, float]) -> list[dict[str, Any]]:
    contents = gather_table(out, out / f"{NAME}.csv")
    machine = describe_machine(torch.device("cpu"))
    machine["versions"]["scipy"] = scipy.__version__
    # Machine paths and what only steers the run say nothing about the results.
    left_out = ("out", "data_dir", "workers", "progress", "dry_run")
    settings = {name: value for name, value in vars(options).items() if name not in left_out}
    keys = ("model", "variant", "corruption", "control", "judged_on", "seed", "lr")
    named = [({key: c["row"][key] for key in keys}, c["curves"]) for c in contents if c["curves"]]
    found = {
        "curves": [about | curves for about, curves in named if "train_loss" in curves],
        "paths": [about | curves["path"] for about, curves in named if "path" in curves],
    }
    write_json(out / f"{NAME}.json", {"settings": settings, "chosen": chosen, "machine": machine, **found})
    return contents


def _line(job: Job, row: dict[str, Any]) -> str:
    fitted = f" after {row['epochs']} epochs" if row["epochs"] else ""
    what = ", ".join(filter(None, (job.model, job.variant, job.control, f"{row['train_images']} images")))
    chance = " (chance)" if row["chance_low"] <= row["test"] <= row["chance_high"] else ""
    return f"{what}, seed {job.seed}: train {row['train']:.4f}{fitted}, test {row['test']:.4f}{chance}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("randomization", __doc__)
    add = parser.add_argument
    add("--source", choices=SOURCES, default="mnist")
    add("--train", type=int, default=2000, help="images")
    add("--validation", type=int, default=1000, help="other train images, to choose rates and widths by")
    add("--test", type=int, default=2000, help="images")
    add("--data-seed", type=int, default=0, help="of the choice of images, and of the fits that choose rates")
    add("--models", nargs="+", choices=list(NETWORKS), default=[name for name in NETWORKS if name != "resnet"])
    add("--corruptions", nargs="*", type=float, default=[0.2, 0.4, 0.6, 0.8, 1.0], help="shares of random labels")
    add("--weight-decay", nargs="*", type=float, default=[5e-4])
    add("--dropout", nargs="*", type=float, default=[0.5])
    add("--shifts", nargs="*", type=int, default=[2], help="augmentation: pixels at most")
    add(
        "--patience",
        nargs="*",
        type=int,
        default=[],
        help="early stopping: epochs without a better validation accuracy",
    )
    add("--all", action="store_true", help="also the first weight decay, dropout and shifts at once")
    add("--lrs", nargs="+", type=float, default=[0.003, 0.01, 0.03], help="to choose from")
    add("--epochs", type=int, default=100, help="at most")
    add("--batch-size", type=int, default=64)
    add("--widths", nargs="+", type=float, default=[0.25, 0.35, 0.5, 0.7, 1.0],
        help="of the kernel, in median distances, to choose from")  # fmt: skip
    add("--kernel-train", nargs="*", type=int, default=[10000], help="images of further kernel fits")
    add("--filters", type=int, default=1024, help="random convolutions, each with eight features")
    add("--descent-train", type=int, default=100, help="images of gradient descent on least squares")
    add("--descent-steps", type=int, default=30000)
    add("--seeds", type=int_range, default="0", help="0:2 or 0,1,2")
    add_run_options(
        parser, NAME, holds="fits, table and figure", data="the files of the source", few="images", workers=True
    )
    options = parser.parse_args(arguments)
    if options.all and not (options.weight_decay and options.dropout and options.shifts):
        parser.error("--all is given; expected at least one value of --weight-decay, --dropout and --shifts")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
