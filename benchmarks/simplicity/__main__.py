"""Effective rank against depth: the experiments of Huh et al., "The low-rank simplicity bias in deep networks".

    python -m benchmarks.simplicity --out docs/results

distribution   effective rank of the kernel of the last hidden features, on unseen inputs, against depth: many random
               networks at initialization and after training, linear, ReLU and tanh, by optimizer and initialization.
               Trained networks are compared at equal loss: each is measured when its squared error on the samples of a
               planted linear map is 5% of that of predicting 0.  Those that do not come so far are measured at the end,
               and counted in the column "missed".
kernels        the kernels themselves, samples in the order of hierarchical clustering.
least_squares  a planted linear map from noisy samples, fewer than inputs and more, by linear networks stopped at the
               loss that the map itself has: test error and effective rank against depth.
cifar          over-parameterized convolutional networks against plain ones and against penalties on the rank of
               weights, on a subset of CIFAR-10 (the longest part; not among the default ones).

Every part leaves simplicity_<part>.csv, a JSON of its settings, machine and versions, and a figure drawn from these
files alone (--figures draws them again).  All draws have fixed seeds.  Stopped parts go on after the rows that they
have, the kernels excepted, which take seconds.  The first three parts take about four minutes on one free core; widths
and numbers of samples are those of parts.py.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.series import command
from htf._files import check_writable, write_figure, write_json, write_tensors
from htf._machine import describe_machine
from htf._tables import write_table
from htf.jobs import FolderJob, Progress, map_jobs

from . import cifar, parts
from .plots import plot_effective_ranks, plot_kernels, plot_rank_penalties, plot_recovery
from .training import RATES

DEPTHS = (1, 2, 4, 8, 16, 32)
DEEPEST_TRAINED = 16
KERNEL_SIZE = 48
PARTIAL = "partial"  # folder of the rows of a run that is not done
PARTS = ("distribution", "kernels", "least_squares", "cifar")


def main(arguments: list[str] | None = None) -> None:
    """Compute the parts that are asked for, one after another."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    check_writable(options.out)
    for part in options.only:
        if not options.figures:
            began = time.perf_counter()
            rows, about = COMPUTE[part](options)
            table = _path(options, part, "csv")
            write_table(table, rows[0], rows)
            print(f"table: {table}")
            shutil.rmtree(_path(options, part, PARTIAL), ignore_errors=True)
            machine = describe_machine(torch.device("cpu"))
            write_json(
                _path(options, part, "json"),
                {"part": part, **about, "seconds": round(time.perf_counter() - began, 1), **machine},
            )
        figure = _path(options, part, "png")
        drawn = DRAW[part](_path(options, part, "safetensors" if part == "kernels" else "csv"))
        write_figure(figure, drawn)
        print(f"figure: {figure}")


def distribution(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per case and depth."""
    deepest = {True: max(options.depths), False: min(DEEPEST_TRAINED, max(options.depths))}
    cases = parts.cases()
    todo = [(c, depth) for c in cases for depth in options.depths if depth <= deepest[c.optimizer == "none"]]
    costs = [depth if case.rank else 0.2 for case, depth in todo]
    rows = _computed(
        "distribution",
        todo,
        costs,
        options,
        lambda case, d: parts.distribution_row(case, d, options.nets, options.steps),
    )
    verdicts = parts.verdicts(rows)
    for each in verdicts:
        fell = "falls" if each["falls"] else f"does not fall to depth {', '.join(each['does_not_fall_to_depth'])}"
        means = " ".join(f"{float('nan') if m is None else m:.2f}" for m in each["mean"].values())
        which = " ".join(str(each[name]) for name in ("stage", "activation", "init", "optimizer", "rank"))
        print(f"{which}: {means}; {fell}" + (f"; {each['missed']} missed the loss" if each["missed"] else ""))
    claimed = [each for each in verdicts if each["claimed"]]
    print(f"falls in {sum(each['falls'] for each in claimed)} of {len(claimed)} rows of which it is claimed")
    return rows, {
        "measure": "effective rank, exp of the entropy of the eigenvalues of the Gram matrix of cosines",
        "interval": "mean_low to mean_high: 95% bootstrap of the mean; q2.5 to q97.5: quantiles over networks",
        **_settings(options),
        "optimizers": RATES,
        "bound": parts.BOUND,
        "cases": [asdict(case) for case in cases],
        "verdicts": verdicts,
    }


def kernels(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per picture, and the pictures in a file beside the table."""
    rows, pictures = [], {}
    todo = [(a, d) for a in parts.ACTIVATIONS for d in options.depths if d <= DEEPEST_TRAINED]
    for activation, depth in _watched(todo, options, [depth for _, depth in todo]):
        for stage, kernel, rank in parts.kernels(depth, activation, KERNEL_SIZE):
            # Cosines to two digits are more than an eye can tell.
            pictures[f"{stage}/{activation}/{depth}"] = (kernel * 127).round().to(torch.int8)
            rows.append({"stage": stage, "activation": activation, "depth": depth, "effective_rank": round(rank, 5)})
    ranks = {f"{r['stage']}/{r['activation']}/{r['depth']}": r["effective_rank"] for r in rows}
    write_tensors(_path(options, "kernels", "safetensors"), pictures, {"effective_rank": ranks})
    return rows, {**_settings(options), "samples": KERNEL_SIZE, "seed": 0}


def least_squares(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per planted map, number of samples and depth."""
    depths = (0, *(depth for depth in options.depths if depth <= 8))
    todo = [(task, count, depth) for count in parts.SAMPLE_COUNTS for task in parts.TASKS for depth in depths]
    costs = [0.5 + depth for *_, depth in todo]
    rows = _computed(
        "least_squares",
        todo,
        costs,
        options,
        lambda task, count, d: parts.recovery_row(task, count, d, options.nets, 2 * options.steps),
    )
    about = {
        "noise": parts.NOISE,
        "loss_bound": parts.NOISE_SHARE,
        "interval": "95% bootstrap of the mean over networks",
    }
    return rows, {**_settings(options), **about, "depth 0": "least squares of least norm"}


COMPUTE: dict[str, Callable[[argparse.Namespace], tuple[list[dict[str, Any]], dict[str, Any]]]] = {
    "distribution": distribution,
    "kernels": kernels,
    "least_squares": least_squares,
    "cifar": cifar.trainings,
}
DRAW = {
    "distribution": plot_effective_ranks,
    "kernels": plot_kernels,
    "least_squares": plot_recovery,
    "cifar": plot_rank_penalties,
}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "nets": options.nets,
        "network_seeds": f"0 to {options.nets - 1}",
        "data_seed": parts.DATA_SEED,
        "width": parts.WIDTH,
        "train": parts.TRAIN,
        "test": parts.TEST,
        "steps": options.steps,
        "depths": list(options.depths),
    }


@dataclass(frozen=True)
class Row(FolderJob):
    """A row of a part, kept until all are there.

    Attributes
    ----------
    part : str
    item : tuple
        Arguments of the function that computes it.
    common : dict
        Settings of the run.
    """

    kind = "rows of a part of the simplicity benchmark"
    pattern = "*.json"

    part: str
    item: tuple[Any, ...]
    common: dict[str, Any]

    def compute(self, folder: Path | None, report: Progress, *, of: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return of(*self.item)


def _computed(
    part: str, todo: list[Any], costs: list[float], options: argparse.Namespace, compute: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row per item; those that an interrupted run of the same settings has left are read."""
    jobs = [Row(part, item, _settings(options)) for item in todo]
    run = Row.within(_path(options, part, PARTIAL), of=compute)
    by_name = {job.name: cost for job, cost in zip(jobs, costs, strict=True)}
    results = map_jobs(run, jobs, cost=lambda job: by_name[job.name], progress=options.progress)
    # The columns, without what tells jobs apart.
    own = {"part", "item", "common", "settings_sha256"}
    return [{name: value for name, value in content.items() if name not in own} for _, content in results]


def _watched(todo: list[Any], options: argparse.Namespace, costs: list[float]) -> Iterable[Any]:
    """The items one by one, with a bar that tells the time left by what each costs."""
    with tqdm(total=sum(costs), disable=not options.progress, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        for item, cost in zip(todo, costs, strict=True):
            yield item
            bar.update(cost)


def _path(options: argparse.Namespace, part: str, suffix: str) -> Path:
    return Path(options.out) / f"simplicity_{part}.{suffix}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("simplicity", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS[:3]), help="parts to compute")
    parser.add_argument("--nets", type=int, default=128, help="random networks per row")
    parser.add_argument("--steps", type=int, default=parts.STEPS, help="most steps of a training of parts 1 to 3")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="layers")
    parser.add_argument("--figures", action="store_true", help="draw the figures of saved tables again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/simplicity"), help="folder of tables and figures")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bars")
    cifar.add_arguments(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
