"""Accuracy against distance when the distance grows: each network goes on from the one that learned a shorter one.

    python -m benchmarks.long_range.growing --task pathfinder --out runs/growing

trains one network a start and seed through all distances (`htf.training.curriculum`), and leaves a row for each stage,
growing.csv, and the curves drawn from it, growing.png.  Starts are what helps at the first distance alone, any of
remedies.py, with a setting as in dropout=0.5; --kept keeps it in the later stages.  All starts have the same rule: a
stage ends once validation accuracy is --enough at the first distance and --enough-later at the others, or after the
recipe's epochs.  Accuracies are those of the epoch that is best on validation images.

Every training goes on where it was stopped; spread them by --workers or --scheduler as those of
`python -m benchmarks.long_range`.  --dry-run does every step on a few images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from htf._files import write_figure
from htf._machine import usable_device
from htf.cli.arguments import add_scheduler, int_range
from htf.datasets.long_range import LongRangeData
from htf.jobs import FolderJob, Progress, collect, map_jobs
from htf.training import ClassifySettings, CurriculumResult, Stage, curriculum

from .jobs import make_data
from .plots import plot_growing
from .recipes import DISTANCE, warn_of_short_sight
from .remedies import REMEDIES, Help, network_with, pretrain, read_remedy, regularizer_with, rules_with

TABLE, FIGURE = "growing.csv", "growing.png"
COLUMNS = (
    "task",
    "start",
    "kept",
    "seed",
    "stage",
    "distance",
    "images",
    "regularizer",
    "weight",
    "weight_decay",
    "epochs",
    "train",
    "validation",
    "test",
    "seconds",
    "seconds_so_far",
    "stopped",
    "machine",
    "versions",
    "recipe",
    "settings_sha256",
)
_DRY = {"train": 16, "validation": 8, "test": 8}


@dataclass(frozen=True)
class Ladder:
    """Distances of a task, and how they are learned.

    Attributes
    ----------
    distances, images : tuple of int
        Training images of each.
    data : dict
        Arguments of the task, but for distance and training images.
    of_distance : dict
        More of them, for some distances.
    model : str
    starts : tuple of str
        Remedies, by default.
    first, later : int
        Epochs of the first stage and of each later one, at most.
    """

    distances: tuple[int, ...]
    images: tuple[int, ...]
    data: Mapping[str, Any]
    model: str
    starts: tuple[str, ...]
    first: int
    later: int
    of_distance: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


LADDERS = {
    "pathfinder": Ladder(
        distances=(3, 5, 7, 9),
        images=(5_000, 8_000, 20_000, 20_000),
        data={"size": 48, "validation": 1_000, "test": 2_000},
        # With the 4 distractors of the default density, the plain network learns three dashes.
        of_distance={3: {"distractors": 8}},
        model="small_resnet",
        starts=("none", "weight_decay", "gradient_field"),
        first=60,
        later=8,
    ),
    "is_same_class": Ladder(
        distances=(4, 10, 16, 22, 28, 36, 44),
        images=(5_000,) * 7,
        data={"source": "mnist", "scale": 0.5, "canvas": (16, 80), "validation": 1_000, "test": 2_000},
        model="small_resnet",
        starts=("none", "weight_decay", "interaction"),
        first=60,
        later=8,
    ),
}


@dataclass(frozen=True)
class Growing(FolderJob):
    """A network that is trained through all distances.

    Attributes
    ----------
    task : str
    stages : tuple of dict
        Arguments of the task at each distance.
    start : dict
        Its `Help`, and the epochs of the first stage.
    called : str
        Its name.
    kept : bool
        Whether the start's help stays in the later stages.
    model : str
    later : int
        Epochs of a later stage.
    enough : tuple of float
        Validation accuracies that end the first stage and the later ones.
    training : dict
        Of `ClassifySettings`.
    seed : int
    """

    task: str
    stages: tuple[dict[str, Any], ...]
    called: str
    start: dict[str, Any]
    kept: bool
    model: str
    later: int
    enough: tuple[float, float]
    training: dict[str, Any]
    seed: int

    kind = "benchmark of growing distances"
    holds = "the rows of a training at growing distances"
    columns = COLUMNS

    @property
    def label(self) -> str:
        return "_".join([self.task, self.called, *(["kept"] if self.kept else []), f"seed{self.seed}"])

    @property
    def recipe(self) -> str:
        """Digest of all but the seed."""
        return replace(self, seed=0).digest[:8]

    def data(self, where: Mapping[str, Any]) -> list[LongRangeData]:
        """Images of all stages."""
        return [make_data(self.task, arguments, **where) for arguments in self.stages]

    @property
    def help(self) -> Help:
        """At the first distance."""
        return Help(**{name: value for name, value in self.start.items() if name != "epochs"})

    def helped(self, number: int) -> Help:
        """Help at a stage."""
        return self.help if number == 0 or self.kept else self.help.network

    def compute(
        self,
        folder: Path | None,
        report: Progress,
        *,
        data_dir: str | None = None,
        cache: str | None = None,
        device: str = "cpu",
    ) -> list[dict[str, Any]]:
        """Train through all stages; returns a row for each."""
        data = self.data({"data_dir": data_dir, "cache": cache})
        model = network_with(self.help, self.model, data[0], self.seed)
        warn_of_short_sight(model, data[-1])
        epochs, seconds = self.start["epochs"], 0.0
        if self.help.masked:
            batches = -(-len(data[0].train) // self.training["batch_size"])
            steps, epochs = batches * epochs // 2 or 1, epochs - epochs // 2
            seconds = pretrain(model, self.help, data[0], steps, self.seed, folder, device)
        stages = []
        for number, (arguments, images) in enumerate(zip(self.stages, data, strict=True)):
            help_ = self.helped(number)
            stages.append(
                Stage(
                    images,
                    regularizer_with(help_, images, self.seed),
                    ClassifySettings(
                        **self.training,
                        epochs=self.later if number else epochs,
                        weight_decay=help_.weight_decay,
                        seed=self.seed + 1000 * number,
                    ),
                    rules=rules_with(help_, self.enough[bool(number)]),
                    name=f"{self.task} {arguments[DISTANCE[self.task]]}",
                )
            )
        out = None if folder is None else folder / "stages"
        return self._rows(curriculum(model, stages, out=out, device=device), seconds)

    def _rows(self, result: CurriculumResult, pretraining: float) -> list[dict[str, Any]]:
        rows, seconds = [], pretraining
        for number, (arguments, stage) in enumerate(zip(self.stages, result.stages, strict=True)):
            help_, seconds = self.helped(number), seconds + stage.seconds
            found = (
                self.task,
                self.called,
                self.kept,
                self.seed,
                number + 1,
                arguments[DISTANCE[self.task]],
                arguments["train"],
                help_.spec,
                help_.weight,
                help_.weight_decay,
                stage.epochs,
                stage.history[stage.best_epoch - 1].train_accuracy,
                stage.validation_best,
                stage.test_best_validation,
                round(stage.seconds, 2),
                round(seconds, 2),
                stage.stopped,
                stage.machine["device"],
                " ".join(f"{name} {version}" for name, version in stage.machine["versions"].items()),
                self.recipe,
                self.digest,
            )
            rows.append(dict(zip(COLUMNS, found, strict=True)))
        return rows

    def content(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        return {"rows": found}

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = content["rows"]
        for row in rows:
            if set(COLUMNS) - set(row):
                raise ValueError(f"columns are {', '.join(row)}")
        return rows


def make_jobs(options: argparse.Namespace) -> Iterator[Growing]:
    """All trainings that the options ask for."""
    ladder = LADDERS[options.task]
    distances = options.distances or ladder.distances
    images: Sequence[int] = options.images or [
        dict(zip(ladder.distances, ladder.images, strict=True)).get(distance, ladder.images[-1])
        for distance in distances
    ]
    if len(images) not in (1, len(distances)):
        raise SystemExit(f"--images has {len(images)} numbers for {len(distances)} distances; expected 1 or as many")
    images = list(images) * (len(distances) if len(images) == 1 else 1)
    stages = tuple(
        {
            **ladder.data,
            **ladder.of_distance.get(distance, {}),
            DISTANCE[options.task]: distance,
            "train": count,
            "seed": options.data_seed + distance,
        }
        for distance, count in zip(distances, images, strict=True)
    )
    for text in options.starts or ladder.starts:
        try:
            called, setting = read_remedy("plain" if text == "none" else text, options.task)
        except ValueError as error:
            raise SystemExit(f"--starts: {error}") from None
        help_ = REMEDIES[called].help(options.task, setting)
        for seed in options.seeds:
            yield Growing(
                options.task,
                stages,
                "none" if called == "plain" else called,
                {"epochs": ladder.first, **help_.written},
                options.kept,
                ladder.model,
                ladder.later,
                (options.enough, options.enough_later),
                {"batch_size": 64, "lr": 0.01, "momentum": 0.9},
                seed,
            )


def dry(job: Growing) -> Growing:
    """The same on a few images, an epoch a stage."""
    return replace(
        job,
        stages=tuple({**stage, **_DRY} for stage in job.stages),
        start={**job.start, "epochs": 1},
        later=1,
        training={**job.training, "batch_size": 8},
    )


def gather(out: Path) -> list[dict[str, Any]]:
    """One CSV of all finished trainings in a folder; returns its rows."""
    return collect(
        Growing, out, out / TABLE, key=lambda row: (row["task"], row["start"], row["kept"], row["seed"], row["stage"])
    )


def main(arguments: list[str] | None = None) -> None:
    """Train, write the table, draw the figure."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    jobs = list(make_jobs(options))
    out = (options.out or Path("runs") / "growing").absolute()
    if options.dry_run:
        jobs, out = [dry(job) for job in jobs], out / "dry_run"
    where = {"data_dir": options.data_dir, "cache": options.cache}
    try:
        run = Growing.within(out, **where, device=str(usable_device(options.device)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"--out: {error}") from None
    for _, content in map_jobs(
        run,
        jobs,
        workers=options.workers,
        scheduler=options.scheduler,
        threads=options.threads,
        progress=options.progress,
    ):
        for row in content["rows"]:
            print(
                f"{row['task']} {row['distance']}, start {row['start']}, seed {row['seed']}: test {row['test']:.4f} "
                f"after {row['epochs']} epochs, {row['seconds_so_far']:.0f} s so far",
                flush=True,
            )
        gather(out)
    rows = gather(out)
    print(f"table: {out / TABLE} ({len(rows)} stages)")
    write_figure(out / FIGURE, plot_growing(out / TABLE))
    print(f"figure: {out / FIGURE}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_range.growing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", choices=list(LADDERS), required=True)
    add("--starts", nargs="+", help=f"from none, {', '.join(list(REMEDIES)[1:])}; as in dropout=0.5")
    add("--distances", nargs="+", type=int, help="from the shortest to the longest; by default the recipe's")
    add("--images", nargs="+", type=int, help="for training, of each distance or of all; by default the recipe's")
    add("--kept", action="store_true", help="keep the start's help at the later distances")
    add("--enough", type=float, default=0.94, help="validation accuracy that ends the first stage")
    add("--enough-later", type=float, default=0.98, help="validation accuracy that ends a later one")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add("--data-seed", type=int, default=0, help="of the images, the same for all trainings")
    add("--dry-run", action="store_true", help="every step on a few images")
    add("--out", type=Path, help="folder of the trainings, table and figure; by default runs/growing")
    add("--data-dir", help="folder of MNIST files; otherwise HTF_DATA, or a download")
    add("--cache", help="folder to keep generated images in")
    add("--workers", type=int, default=1, help="processes that share the trainings")
    add_scheduler(parser)
    add("--threads", type=int, default=1, help="of torch in each process")
    add("--device", default="cpu")
    add("--no-progress", dest="progress", action="store_const", const=False, default=None)
    options = parser.parse_args(arguments)
    if options.distances and sorted(set(options.distances)) != options.distances:
        parser.error(f"--distances are {options.distances}; expected growing ones")
    for name in ("enough", "enough_later"):
        if not 0.5 < getattr(options, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected above 0.5 and at most 1")
    if options.images and min(options.images) < 2:
        parser.error(f"--images are {options.images}; expected at least 2")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
