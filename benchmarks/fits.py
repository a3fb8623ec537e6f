"""Fits of models to images: the parts, small grids of settings of which validation images choose, and all seeds."""

from __future__ import annotations

import argparse
import ast
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

import htf
from benchmarks.series import add_run_options, begin, do
from htf._files import write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range
from htf.datasets._cifar import find_cifar10
from htf.jobs import FolderJob, Progress

SOURCES = ("mnist", "fashion_mnist", "digits", "cifar10")
DRY = {"train": 120, "validation": 40, "test": 40}

Images = tuple[Tensor, Tensor]
Grid = dict[str, list[Any]]


@lru_cache(maxsize=1)
def image_parts(source: str, train: int, validation: int, test: int, data_dir: str | None) -> dict[str, Images]:
    """Images of bytes and labels of "train", "validation" and "test".

    The first two are disjoint, drawn from the data set's training images by one seed for all fits; the last are its
    first test images.
    """
    if source == "cifar10":
        arrays = [array for part in find_cifar10(data_dir).read() for array in part]
        x, y, test_x, test_y = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        y, test_y = y.long(), test_y.long()
    else:
        data = htf.datasets.load(source, data_dir)
        x, y, test_x, test_y = data.train_images, data.train_labels, data.test_images, data.test_labels
    if len(x) < train + validation:
        raise SystemExit(f"{source} has {len(x)} training images; {train} and {validation} were asked for")
    order = torch.randperm(len(x), generator=Generator().manual_seed(0))
    kept, aside = order[:train], order[train : train + validation]
    return {"train": (x[kept], y[kept]), "validation": (x[aside], y[aside]), "test": (test_x[:test], test_y[:test])}


def with_channels(images: Tensor) -> Tensor:
    """Images of `image_parts`, (n, height, width) or (n, channels, height, width), as floats with channels."""
    return (images[:, None] if images.ndim == 3 else images).float()


@dataclass(frozen=True)
class Fit(FolderJob):
    """One fit of a model; a subclass says how it is made and measured.

    Attributes
    ----------
    source : str
    images : dict
        How many there are for "train", "validation" and "test".
    model : str
    options : dict
        Of the model.
    seed : int
    """

    # What is measured of validation images, and which of two values of it is the better one.
    judge: ClassVar[str] = "validation"
    better: ClassVar[Callable[..., Any]] = max

    source: str
    images: dict[str, int]
    model: str
    options: dict[str, Any]
    seed: int

    @property
    def label(self) -> str:
        return f"{self.model}_seed{self.seed}"

    def compute(self, folder: Path | None, report: Progress, *, data_dir: str | None) -> dict[str, Any]:
        """Fit, and measure."""
        parts = image_parts(self.source, **self.images, data_dir=data_dir)
        began = time.perf_counter()
        fitted = self.fitted(parts)
        seconds = round(time.perf_counter() - began, 1)
        report(0.9)
        return {"seconds": seconds, "threads": torch.get_num_threads(), **self.measured(fitted, parts)}

    @abstractmethod
    def fitted(self, parts: dict[str, Images]) -> Any:
        """The fitted model."""

    @abstractmethod
    def measured(self, fitted: Any, parts: dict[str, Images]) -> dict[str, Any]:
        """Size and quality, among them what judges."""


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """All combinations of the values of a grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def fit_all(kind: type[Fit], options: argparse.Namespace, grids: dict[str, Grid]) -> list[dict[str, Any]]:
    """Fit every setting of the grids at the first seed, and those that are best at the other seeds.

    One setting is chosen per model, and per width if the widths are part of a curve.  The rows of all fits are written
    to NAME.json with the machine, those of chosen settings marked.
    """
    name, out = options.name, begin(options)
    run = kind.within(out, data_dir=options.data_dir)
    images = {part: DRY[part] if options.dry_run else getattr(options, part) for part in DRY}
    first, *others = options.seeds
    jobs = [
        kind(options.source, images, model, settings, first)
        for model in options.models
        for settings in combinations(grids[model] | options.grid)
    ]
    rows = _rows(run, jobs, options)
    chosen = []
    for key in dict.fromkeys(map(_curve, rows)):
        best = kind.better((row for row in rows if _curve(row) == key), key=lambda row: row[kind.judge])
        best["chosen"] = True
        chosen += [job for job in jobs if (job.model, job.options) == (best["model"], best["options"])]
    again = _rows(run, [replace(job, seed=seed) for job in chosen for seed in others], options)
    rows += [row | {"chosen": True} for row in again]
    write_json(
        out / f"{name}.json",
        {
            "source": options.source,
            "images": images,
            "chosen_by": kind.judge,
            "rows": rows,
            "machine": describe_machine(torch.device("cpu")),
        },
    )
    print(f"results: {out / name}.json ({len(rows)} fits)")
    return rows


def _rows(run: Any, jobs: Iterable[Fit], options: argparse.Namespace) -> list[dict[str, Any]]:
    def line(job: Fit, row: dict[str, Any]) -> str:
        numbers = {key: value for key, value in row.items() if isinstance(value, float) or key == "parameters"}
        return f"{job.model} {job.options}, seed {job.seed}: {numbers}"

    return [row for _, row in do(run, jobs, options, line)]


def _curve(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["options"].get("width")


def add_options(parser: argparse.ArgumentParser, name: str, models: Iterable[str]) -> None:
    """Options in common."""
    models = list(models)
    add = parser.add_argument
    parser.set_defaults(name=name)
    add("--source", choices=SOURCES, default="mnist")
    add("--train", type=int, default=55_000, help="images")
    add("--validation", type=int, default=5_000, help="other train images, by which settings are chosen")
    add("--test", type=int, default=10_000, help="images")
    add("--models", nargs="+", choices=models, default=models)
    add("--grid", nargs="*", type=_values, action=_Merged, default={},
        metavar="NAME=V1,V2", help="values of settings in place of the models' own, for all of them")  # fmt: skip
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2; the first one chooses settings")
    add_run_options(parser, name, holds="fits and results", data="the files of the source", few="images")


def _values(text: str) -> tuple[str, list[Any]]:
    """A setting and its values, from "width=32,64"."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not a setting with its values, such as width=32,64")
    return name, [_value(part) for part in values.split(",")]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class _Merged(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, dict(values))
