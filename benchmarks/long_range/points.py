"""One training of the curves of images against distance: from scratch, or through growing distances.

Workers of a cluster import this module: start them with the checkout in PYTHONPATH.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from htf.datasets import pathfinder
from htf.datasets.long_range import LongRangeData
from htf.jobs import FolderJob, Progress, collect
from htf.nn import receptive_field
from htf.training import ClassifyResult, ClassifySettings, Stage, curriculum

from .jobs import make_data
from .link import relations
from .recipes import DISTANCE, warn_of_short_sight
from .remedies import PRETRAINING, Help, network_with, pretrain, regularizer_with, rules_with, shown_often

TABLE = "images.csv"
CURVE = ("task", "growing", "remedy", "setting", "kept")
COLUMNS = (
    *CURVE,
    "seed",
    "distance",
    "images",
    "whole",
    "reach",
    "reached",
    "train",
    "validation",
    "test",
    "test_alike",
    "epochs",
    "steps",
    "plain_steps",
    "seconds",
    "seconds_so_far",
    "share",
    "share_error",
    "share_of_dots",
    "share_of_dots_error",
    "stopped",
    "receptive_field",
    "parameters",
    "machine",
    "versions",
    "recipe",
    "settings_sha256",
)


@dataclass(frozen=True)
class Point(FolderJob):
    """A training with so many images.

    Attributes
    ----------
    task : str
    stages : tuple of dict
        Arguments of the task at each distance: one from scratch.
    remedy : str
        Of `benchmarks.long_range.remedies`.
    setting : float or None
        Of the remedy.
    help : dict
        The `Help` that the two make.
    kept : bool
        Whether it stays at the later distances.
    model : str
    plain_steps : (int, int)
        Time of the first stage and of each later one, at most, in steps of the network without help.
    reach : float
        Validation accuracy that is enough.
    whole : bool
        Whether training goes on when it is reached.
    alike : int
        Images of Pathfinder without the shortcut by angles that it is tested on besides.
    shown : int
        Images of a pass, after which validation looks: where there are fewer, each is shown several times.
    training : dict
        Of `ClassifySettings`.
    seed : int
    """

    task: str
    stages: tuple[dict[str, Any], ...]
    remedy: str
    setting: float | None
    help: dict[str, Any]
    kept: bool
    model: str
    plain_steps: tuple[int, int]
    reach: float
    whole: bool
    alike: int
    shown: int
    training: dict[str, Any]
    seed: int

    kind = "benchmark of images against distance"
    holds = "the rows of a training with so many images"
    columns = COLUMNS

    @property
    def images(self) -> int:
        """Train images at the first distance."""
        return int(self.stages[0]["train"])

    @property
    def distances(self) -> tuple[int, ...]:
        return tuple(stage[DISTANCE[self.task]] for stage in self.stages)

    @property
    def label(self) -> str:
        distances = "-".join(map(str, self.distances))
        return f"{self.task}_{distances}_{self.remedy}_{self.images}images_seed{self.seed}"

    @property
    def recipe(self) -> str:
        """Digest of all but seed, images and how long they are trained on: what the points of a curve share."""
        first = {**self.stages[0], "train": 0}
        return replace(self, stages=(first, *self.stages[1:]), whole=False, seed=0).digest[:8]

    @property
    def most(self) -> int:
        """Plain steps of all stages, at most."""
        return self.plain_steps[0] + (len(self.stages) - 1) * self.plain_steps[1]

    def with_images(self, images: int, whole: bool) -> Point:
        """The same with another number of train images at the first distance."""
        return replace(self, stages=({**self.stages[0], "train": images}, *self.stages[1:]), whole=whole)

    def helped(self, number: int) -> Help:
        """Help at a stage."""
        help_ = Help(**self.help)
        return help_ if number == 0 or self.kept else help_.network

    def compute(
        self,
        folder: Path | None,
        report: Progress,
        *,
        data_dir: str | None = None,
        cache: str | None = None,
        device: str = "cpu",
    ) -> list[dict[str, Any]]:
        """Train at the first distance, and at each next one while it is reached; a row for each distance."""
        made = [make_data(self.task, arguments, data_dir, cache) for arguments in self.stages]
        data = [shown_often(each, self.shown) for each in made]
        budgets = [self._steps(number, images) for number, images in enumerate(data)]
        planned, done = sum(sum(budget) for budget in budgets), 0

        def on_advance() -> None:
            nonlocal done
            done += 1
            report(min(done / planned, 1.0))

        stages = [self._stage(number, images, budgets[number][1]) for number, images in enumerate(data)]
        rows: list[dict[str, Any]] = []
        for number in range(len(stages)):
            # A stage more each time: those before are read from the folder, by a network that begins as it did.
            model, before = self._begun(made, budgets[0][0], folder, device, on_advance)
            out = None if folder is None else folder / "stages"
            result = curriculum(model, stages[: number + 1], out=out, device=device, on_advance=on_advance)
            found = result.stages[-1]
            steps = (budgets[number][0], found.epochs * self._batches(data[number]))
            row = self._row(number, model, made[number], found, steps, cache)
            row["seconds"] += 0.0 if number else before
            row["seconds_so_far"] = before + result.seconds
            rows.append(row)
            if not row["reached"]:
                break
        rows += [self._left_out(number) for number in range(len(rows), len(stages))]
        return [{name: _rounded(name, row.get(name)) for name in COLUMNS} for row in rows]

    def _batches(self, data: LongRangeData) -> int:
        return -(-len(data.train) // self.training["batch_size"])

    def _steps(self, number: int, data: LongRangeData) -> tuple[int, int]:
        """Steps of pretraining and of a whole stage: as many as take the time of its plain steps."""
        plain, help_ = self.plain_steps[bool(number)], self.helped(number)
        pretraining = 0
        if number == 0 and help_.masked:
            pretraining = max(1, round(plain / 2 / PRETRAINING))
            plain -= plain // 2
        batches = self._batches(data)
        return pretraining, batches * max(1, round(plain / help_.cost / batches))

    def _stage(self, number: int, data: LongRangeData, steps: int) -> Stage:
        help_ = self.helped(number)
        settings = ClassifySettings(
            **self.training,
            epochs=steps // self._batches(data),
            weight_decay=help_.weight_decay,
            seed=self.seed + 1000 * number,
        )
        rules = rules_with(help_, None if self.whole else self.reach)
        name = f"{self.task} {self.distances[number]}"
        return Stage(data, regularizer_with(help_, data, self.seed), settings, rules, name)

    def _begun(
        self,
        data: list[LongRangeData],
        steps: int,
        folder: Path | None,
        device: str,
        on_advance: Callable[[], None],
    ) -> tuple[nn.Module, float]:
        """The network that training begins with, and seconds of its pretraining."""
        help_ = self.helped(0)
        model = network_with(help_, self.model, data[0], self.seed)
        if not help_.masked:
            return model, 0.0
        return model, pretrain(model, help_, data[0], steps, self.seed, folder, device, on_advance)

    def _row(
        self,
        number: int,
        model: nn.Module,
        data: LongRangeData,
        found: ClassifyResult,
        steps: tuple[int, int],
        cache: str | None,
    ) -> dict[str, Any]:
        help_ = self.helped(number)
        # The field is that of networks of convolutions, and of none other.
        warn_of_short_sight(model, data)
        (share, *dots) = reversed(relations(model.eval(), data))
        validation = found.validation_best
        return {
            **self._told(number),
            "reached": validation is not None and validation >= self.reach,
            "train": found.history[found.best_epoch - 1].train_accuracy,
            "validation": validation,
            "test": found.test_best_validation,
            "test_alike": self._alike(model, data, cache),
            "epochs": found.epochs,
            "steps": sum(steps),
            "plain_steps": round(steps[0] * PRETRAINING + steps[1] * help_.cost),
            "seconds": found.seconds,
            "share": share["value"],
            "share_error": share["error"],
            "share_of_dots": dots[0]["value"] if dots else None,
            "share_of_dots_error": dots[0]["error"] if dots else None,
            "stopped": found.stopped,
            "receptive_field": min(receptive_field(model)),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "machine": found.machine["device"],
            "versions": " ".join(f"{name} {version}" for name, version in found.machine["versions"].items()),
        }

    def _told(self, number: int) -> dict[str, Any]:
        """What tells the row of a stage from others."""
        return {
            "task": self.task,
            "growing": len(self.stages) > 1,
            "remedy": self.remedy,
            "setting": self.setting,
            "kept": self.kept,
            "seed": self.seed,
            "distance": self.distances[number],
            "images": self.images,
            "whole": self.whole,
            "reach": self.reach,
            "recipe": self.recipe,
            "settings_sha256": self.digest,
        }

    def _left_out(self, number: int) -> dict[str, Any]:
        return {**self._told(number), "reached": False, "stopped": "an earlier distance was not reached"}

    @torch.no_grad()
    def _alike(self, model: nn.Module, data: LongRangeData, cache: str | None) -> float | None:
        """Accuracy on images of the same distance without the shortcut by angles."""
        if self.task != "pathfinder" or not self.alike:
            return None
        names = ("path_length", "size", "dash", "gap", "distractors", "seed")
        chosen = tuple((name, data.settings[name]) for name in names)
        images = alike_images(chosen, self.alike, cache)
        parameter = next(model.parameters())
        hits = 0
        for x, y in (images.test[k : k + 256] for k in range(0, self.alike, 256)):
            hits += int(((model(x.to(parameter.device))[:, 0] > 0).cpu() == y).sum())
        return hits / self.alike

    def content(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        return {"rows": found}

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = content["rows"]
        for row in rows:
            if set(COLUMNS) - set(row):
                raise ValueError(f"columns are {', '.join(row)}")
        return rows


@lru_cache(maxsize=4)
def alike_images(chosen: tuple[tuple[str, Any], ...], count: int, cache: str | None) -> LongRangeData:
    """Pathfinder's test images with angles drawn alike for both labels."""
    return pathfinder(**dict(chosen), train=1, validation=0, test=count, angles="alike", cache=cache)


def _rounded(name: str, value: Any) -> Any:
    return round(value, 2) if name.startswith("seconds") and value is not None else value


def check_recipes(out: Path, points: Iterable[Point]) -> None:
    """Refuse trainings that would be points of a curve of another recipe, before any is trained.

    Raises
    ------
    ValueError
        Naming the folder and the curve.
    """
    recipes: dict[tuple[Any, ...], str] = {}
    for content in Point.contents(out):
        for row in Point.rows(content):
            recipes.setdefault(curve_of(row), row["recipe"])
    for point in points:
        for number in range(len(point.stages)):
            row = point._told(number)
            if recipes.setdefault(curve_of(row), point.recipe) != point.recipe:
                raise ValueError(
                    f"{out} has trainings of recipe {recipes[curve_of(row)]}, and those of {point.recipe} would be "
                    f"points of the same curve: {told(row)}; expected a folder for each"
                )


def curve_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells curves apart, but for the setting, of which a table has one, and the seed."""
    return tuple(str(row[name]) for name in ("task", "growing", "remedy", "kept", "distance"))


def told(row: Mapping[str, Any]) -> str:
    """A curve in words."""
    growing = ", growing" if str(row["growing"]) == "True" else ""
    return f"{row['task']} {row['distance']}{growing}, {row['remedy']}"


def gather(out: Path) -> list[dict[str, Any]]:
    """One CSV of all finished trainings in a folder; returns its rows."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        names = ("task", "growing", "remedy", "kept", "distance", "images", "seed", "whole")
        return (*(row[name] for name in names), math.inf if row["setting"] is None else row["setting"])

    return collect(Point, out, out / TABLE, key=key)
