"""One training of the long-range benchmarks: a job, what it does, and the row of the table that it leaves.

Workers of a cluster import this module: start them with the checkout in PYTHONPATH.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from htf._files import read_json, write_json
from htf.datasets.long_range import LongRangeData
from htf.jobs import FolderJob, Progress, collect
from htf.nn import receptive_field
from htf.training import Classification, ClassifyResult, ClassifySettings, load_trained

from .recipes import DISTANCE, TASKS, make_model, make_regularizer, read_spec, warn_of_short_sight

TABLE = "long_range.csv"
_JOB = "a training of long_range.py"
POINT = ("task", "distance", "model", "regularizer", "weight", "control", "weight_decay", "dropout")
COLUMNS = (
    "task",
    "distance",
    "model",
    "regularizer",
    "weight",
    "control",
    "seed",
    "weight_decay",
    "dropout",
    "epochs",
    "best_epoch",
    "train",
    "validation",
    "test",
    "test_last",
    "seconds",
    "stopped",
    "receptive_field",
    "parameters",
    "machine",
    "versions",
    "recipe",
    "settings_sha256",
)


@dataclass(frozen=True)
class Job(FolderJob):
    """A training.

    Attributes
    ----------
    task : str
    data : dict
        Arguments of the task, distance and seed included.
    model, regularizer : str
        See `benchmarks.long_range.recipes`.
    weight : float
        Of the regularizer.
    seed : int
        Of the model's start, of the order of images and of the regularizer.
    dropout : float
    training : dict
        Of `ClassifySettings`, but for the seed.
    control : str
        What is other than in the recipe: "weight decay", "dropout", "4 × the epochs", "equal time"; or "".
    """

    task: str
    data: dict[str, Any]
    model: str
    regularizer: str
    weight: float
    seed: int
    dropout: float
    training: dict[str, Any]
    control: str = ""

    kind = "benchmark of long_range.py"
    holds = "the row of a training"
    columns = COLUMNS

    @property
    def distance(self) -> int:
        """What the curves are drawn against."""
        return int(self.data[DISTANCE[self.task]])

    @property
    def training_settings(self) -> ClassifySettings:
        """Of the training, with its seed."""
        return ClassifySettings(**self.training, seed=self.seed)

    @property
    def recipe(self) -> str:
        """Digest of all but the seed: what trainings have in common whose mean makes sense."""
        return replace(self, seed=0).digest[:8]

    @property
    def point(self) -> dict[str, Any]:
        """What tells its point of the curves from others, as columns of the table."""
        told = (self.task, self.distance, self.model, self.regularizer, self.weight, self.control)
        return dict(zip(POINT, (*told, self.training_settings.weight_decay, self.dropout), strict=True))

    @property
    def label(self) -> str:
        parts = [self.task, self.distance, self.model, read_spec(self.regularizer)[0], f"{self.weight:g}"]
        parts += ["-".join(self.control.replace("×", "x").split())] if self.control else []
        return "_".join(map(str, [*parts, f"seed{self.seed}"]))

    @property
    def cost(self) -> float:
        """Relative cost, from measured ratios to a plain step."""
        name, options = read_spec(self.regularizer)
        batch, images = self.training_settings.batch_size, self.data["train"]
        share = min(options.get("samples") or batch, batch) / batch
        grid = options.get("samples", 8) * options.get("grid", 4) ** 2 / batch
        ratio = {"igc": 1 + 6 * share, "gradient_field": 1 + 6 * share, "interaction": 1 + grid}.get(name, 1.0)
        # Where time is the limit, epochs are not.
        epochs = min(self.training_settings.epochs, 1000)
        return float(epochs * images * (1 + (ratio - 1) / options.get("interval", 1)))

    def compute(
        self,
        folder: Path | None,
        report: Progress,
        *,
        data_dir: str | None = None,
        cache: str | None = None,
        device: str = "cpu",
        fabric: Any = None,
    ) -> dict[str, Any]:
        """Train.

        Parameters
        ----------
        data_dir : str, optional
            Of the sources of images.
        cache : str, optional
            Folder of generated images.
        device : str
        fabric : lightning_fabric.Fabric, optional
            Launched, for a job that several processes share.

        Returns
        -------
        dict
            The row of the table.
        """
        data = make_data(self.task, self.data, data_dir, cache)
        model = make_model(self.model, data, dropout=self.dropout, seed=self.seed)
        warn_of_short_sight(model, data)
        training = Classification(
            model,
            data,
            self.training_settings,
            regularizer=make_regularizer(self.regularizer, self.weight, data, self.seed),
            out=folder,
            device=None if fabric is not None else device,
            fabric=fabric,
        )
        limit = self.training_settings.max_seconds or float("inf")
        training.run_to_end(lambda: report(max(training.step / training.steps, min(training.seconds / limit, 1.0))))
        row = _describe(self, model, training.result())
        if folder is not None and training.processes.rank == 0:
            write_json(folder / "job.json", asdict(self), _JOB)
        return row

    def content(self, found: dict[str, Any]) -> dict[str, Any]:
        return found

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        if set(COLUMNS) - set(content):
            raise ValueError(f"columns are {', '.join(content)}")
        return [content]


def make_data(
    task: str, arguments: Mapping[str, Any], data_dir: str | None = None, cache: str | None = None
) -> LongRangeData:
    """The images of a job."""
    arguments = {**arguments, **({"data_dir": data_dir} if task == "is_same_class" else {})}
    return _make_data(task, json.dumps(arguments, sort_keys=True), cache)


@lru_cache(maxsize=2)
def _make_data(task: str, arguments: str, cache: str | None) -> LongRangeData:
    return TASKS[task](**json.loads(arguments), cache=cache)


def _describe(job: Job, model: nn.Module, result: ClassifyResult) -> dict[str, Any]:
    field = receptive_field(model) if any(isinstance(m, nn.Conv2d) for m in model.modules()) else None
    return {
        **job.point,
        "seed": job.seed,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "train": result.history[-1].train_accuracy,
        "validation": result.validation_best,
        "test": result.test_best_validation,
        "test_last": result.test_last,
        "seconds": round(result.seconds, 2),
        "stopped": result.stopped,
        "receptive_field": None if field is None else min(field),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": result.machine["device"],
        "versions": " ".join(f"{name} {version}" for name, version in result.machine["versions"].items()),
        "recipe": job.recipe,
        "settings_sha256": job.digest,
    }


def check_points(out: Path, jobs: Iterable[Job]) -> None:
    """Refuse jobs that would share a point of the curves with trainings of other settings, before any is trained.

    Raises
    ------
    ValueError
        Naming the folder and the point.
    """
    recipes = {tuple(row[name] for name in POINT): row["recipe"] for row in Job.contents(out)}
    for job in jobs:
        point = job.point
        recipe = recipes.setdefault(tuple(point.values()), job.recipe)
        if recipe != job.recipe:
            what = ", ".join(f"{name} {value}" for name, value in point.items() if value)
            raise ValueError(
                f"{out} has trainings of recipe {recipe}, and those of {job.recipe} would be the same point of the "
                f"curves: {what}; expected a folder for each"
            )


def gather_table(out: Path) -> list[dict[str, Any]]:
    """One CSV of all finished jobs in a folder, whoever did them; returns its rows."""
    order = (*COLUMNS[:7], COLUMNS[-1])
    return collect(
        Job, out, out / TABLE, key=lambda row: (row["regularizer"] != "none", *(row[name] for name in order))
    )


def load_job(
    folder: Path, which: str = "best", *, data_dir: str | None = None, cache: str | None = None
) -> tuple[Job, nn.Module, LongRangeData]:
    """A finished job with its trained model, in evaluation mode, and its images; see `htf.training.load_trained`."""
    try:
        job = Job(**read_json(folder / "job.json", _JOB))
    except TypeError as error:
        raise ValueError(f"{folder / 'job.json'} does not hold {_JOB} ({error})") from error
    data = make_data(job.task, job.data, data_dir, cache)
    model = make_model(job.model, data, dropout=job.dropout, seed=job.seed)
    load_trained(model, folder, which)
    return job, model.eval(), data
