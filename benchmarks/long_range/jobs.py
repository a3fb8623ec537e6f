"""One training of the long-range benchmarks: a job, what it does, and the row of the table that it leaves.

Workers of a cluster import this module: start them with the checkout in PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from htf._files import read_json, write_json
from htf._tables import write_table
from htf.datasets.long_range import LongRangeData
from htf.jobs import claimed
from htf.nn import receptive_field
from htf.training import Classification, ClassifyResult, ClassifySettings, load_trained

from .recipes import DISTANCE, TASKS, make_model, make_regularizer, read_spec

JOBS, ROW, TABLE = "jobs", "row.json", "long_range.csv"
_ROW, _JOB = "the row of a training", "a training of long_range.py"
POINT = ("task", "distance", "model", "regularizer", "weight", "control", "weight_decay", "dropout")
Report = Callable[[float], None]
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
class Job:
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

    @property
    def distance(self) -> int:
        """What the curves are drawn against."""
        return int(self.data[DISTANCE[self.task]])

    @property
    def settings(self) -> ClassifySettings:
        """Of the training."""
        return ClassifySettings(**self.training, seed=self.seed)

    @property
    def digest(self) -> str:
        """SHA-256 of all that the job is."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def recipe(self) -> str:
        """Digest of all but the seed: what trainings have in common whose mean makes sense."""
        return replace(self, seed=0).digest[:8]

    @property
    def point(self) -> dict[str, Any]:
        """What tells its point of the curves from others, as columns of the table."""
        told = (self.task, self.distance, self.model, self.regularizer, self.weight, self.control)
        return dict(zip(POINT, (*told, self.settings.weight_decay, self.dropout), strict=True))

    @property
    def name(self) -> str:
        """Of its folder, and in messages."""
        parts = [self.task, self.distance, self.model, read_spec(self.regularizer)[0], f"{self.weight:g}"]
        parts += ["-".join(self.control.replace("×", "x").split())] if self.control else []
        return "_".join(map(str, [*parts, f"seed{self.seed}", self.digest[:8]]))

    @property
    def cost(self) -> float:
        """Relative cost, from measured ratios to a plain step."""
        name, options = read_spec(self.regularizer)
        batch, images = self.settings.batch_size, self.data["train"]
        share = min(options.get("samples") or batch, batch) / batch
        grid = options.get("samples", 8) * options.get("grid", 4) ** 2 / batch
        ratio = {"igc": 1 + 6 * share, "gradient_field": 1 + 6 * share, "interaction": 1 + grid}.get(name, 1.0)
        # Where time is the limit, epochs are not.
        epochs = min(self.settings.epochs, 1000)
        return float(epochs * images * (1 + (ratio - 1) / options.get("interval", 1)))


@dataclass(frozen=True)
class RunJob:
    """Does a job in a folder of its own, where it goes on if it was stopped; what is finished is read.

    Parameters
    ----------
    out : Path
        Folder of all jobs.
    data_dir : str, optional
        Of the sources of images.
    cache : str, optional
        Folder of generated images.
    device : str
    fabric : lightning_fabric.Fabric, optional
        Launched, for a job that several processes share.
    """

    out: Path
    data_dir: str | None = None
    cache: str | None = None
    device: str = "cpu"
    fabric: Any = None

    def __call__(self, job: Job, report: Report) -> dict[str, Any]:
        """The row of the table."""
        folder = self.out / JOBS / job.name
        if self.fabric is not None:
            return self._row(job, folder, report)
        with claimed(folder / "lock", report):
            return self._row(job, folder, report)

    def _row(self, job: Job, folder: Path, report: Report) -> dict[str, Any]:
        if (folder / ROW).exists():
            return read_row(folder)
        data = make_data(job, self.data_dir, self.cache)
        model = make_model(job.model, data, dropout=job.dropout, seed=job.seed)
        training = Classification(
            model,
            data,
            job.settings,
            regularizer=make_regularizer(job.regularizer, job.weight, data, job.seed),
            out=folder,
            device=None if self.fabric is not None else self.device,
            fabric=self.fabric,
        )
        limit = job.settings.max_seconds or float("inf")
        training.run_to_end(lambda: report(max(training.step / training.steps, min(training.seconds / limit, 1.0))))
        row = _describe(job, model, training.result())
        if training.processes.rank == 0:
            write_json(folder / "job.json", asdict(job), _JOB)
            write_json(folder / ROW, row, _ROW)
        training.processes.together()
        return row


def make_data(job: Job, data_dir: str | None = None, cache: str | None = None) -> LongRangeData:
    """The images of a job."""
    arguments = job.data | ({"data_dir": data_dir} if job.task == "is_same_class" else {})
    return _make_data(job.task, json.dumps(arguments, sort_keys=True), cache)


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


def _finished(out: Path) -> list[dict[str, Any]]:
    return [read_row(path.parent) for path in (out / JOBS).glob(f"*/{ROW}")]


def read_row(folder: Path) -> dict[str, Any]:
    """The row that a job left in its folder, or a ValueError if the file is damaged or of another job."""
    row: dict[str, Any] = read_json(folder / ROW, _ROW)
    if not isinstance(row, dict) or set(COLUMNS) - set(row):
        raise ValueError(f"{folder / ROW} does not hold {_ROW}")
    if not folder.name.endswith(str(row["settings_sha256"])[:8]):
        raise ValueError(f"{folder / ROW} is of another job than the folder, with settings {row['settings_sha256']!r}")
    return row


def check_points(out: Path, jobs: Iterable[Job]) -> None:
    """Refuse jobs that would share a point of the curves with trainings of other settings, before any is trained.

    Raises
    ------
    ValueError
        Naming the folder and the point.
    """
    recipes = {tuple(row[name] for name in POINT): row["recipe"] for row in _finished(out)}
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
    rows = _finished(out)
    rows.sort(key=lambda row: (row["regularizer"] != "none", *(row[name] for name in (*COLUMNS[:7], COLUMNS[-1]))))
    write_table(out / TABLE, COLUMNS, rows)
    return rows


def load_job(
    folder: Path, which: str = "best", *, data_dir: str | None = None, cache: str | None = None
) -> tuple[Job, nn.Module, LongRangeData]:
    """A finished job with its trained model, in evaluation mode, and its images; see `htf.training.load_trained`."""
    try:
        job = Job(**read_json(folder / "job.json", _JOB))
    except TypeError as error:
        raise ValueError(f"{folder / 'job.json'} does not hold {_JOB} ({error})") from error
    data = make_data(job, data_dir, cache)
    model = make_model(job.model, data, dropout=job.dropout, seed=job.seed)
    load_trained(model, folder, which)
    return job, model.eval(), data
