"""One fit of the randomization benchmark: a job, what it does, and the row of the table that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom

from htf._machine import describe_machine
from htf.datasets import TWINS, ImageData, load
from htf.datasets._cifar import find_cifar10
from htf.datasets.corruption import corrupted_labels
from htf.datasets.long_range import LongRangeData, Split
from htf.datasets.twins import Twin
from htf.jobs import FolderJob, Progress, collect
from htf.training import Classification, ClassifySettings, early_stopping

from .networks import make_network
from .solvers import count_classes, solve

CORRUPTED = "corrupted_labels_"
# So much of the test accuracies of a model that knows nothing, which are binomial, lies in the interval of chance.
CHANCE_INTERVAL = 0.99
COLUMNS = (
    "source",
    "model",
    "variant",
    "corruption",
    "control",
    "judged_on",
    "train_images",
    "test_images",
    "seed",
    "lr",
    "batch_size",
    "width",
    "epochs",
    "epochs_to_fit",
    "train_loss",
    "train",
    "test",
    "chance_low",
    "chance_high",
    "parameters",
    "norm",
    "note",
    "seconds",
    "machine",
    "versions",
    "settings_sha256",
)


class Fitting(Classification):
    """A training that ends when the network says all labels of its training images, in evaluation mode."""

    @property
    def stopped(self) -> str:
        # Training images stand in the place of those for validation.
        fitted = self.batch == 0 and bool(self.history) and self.history[-1].validation_accuracy == 1.0
        return "perfect" if fitted else super().stopped


@dataclass(frozen=True)
class Job(FolderJob):
    """A fit.

    Attributes
    ----------
    source : str
        "mnist", "fashion_mnist", "digits" or "cifar10".
    images : dict
        Of `pick`: how many, and the seed.
    model : str
        A network, or a solver.
    variant : str
        A name in `htf.datasets.TWINS`, or "corrupted_labels_" and the share.
    seed : int
        Of the variant, of the network's start and of the order of images.
    control : str
        What is other than plain: "weight decay 0.0005", "dropout 0.5", "shifts 2", "early stopping 5", "all"; or "".
    judged_on : str
        "test", or "validation", where a learning rate is chosen.
    training : dict
        Of `ClassifySettings`, but for the seed; empty for solvers.  With "patience", the training ends when validation
        accuracy has not become better for so many epochs, and the best of them is judged.
    options : dict
        Of `make_network`: dropout and shift; or of the solver.
    """

    source: str
    images: dict[str, int]
    model: str
    variant: str
    seed: int
    control: str = ""
    judged_on: str = "test"
    training: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    kind = "benchmark of randomization.py"
    holds = "the row of a fit"
    columns = COLUMNS
    temporary = ("checkpoint*",)

    @property
    def label(self) -> str:
        parts = [self.source, self.model, self.variant, self.control.replace(" ", "-")]
        return "_".join([*filter(None, parts), f"seed{self.seed}"])

    @property
    def cost(self) -> float:
        """Relative cost, from seconds measured on 2,000 MNIST images."""
        n = self.images["train"] / 2000
        if not self.training:
            return 1.0 + n**3 / 8
        epochs = 8 if self.variant in ("original", "shuffled_pixels") else 25
        epochs = min(self.training["epochs"], epochs * (3 if "shifts" in self.control else 1))
        return n * epochs * {"mlp_1x512": 0.2, "mlp_3x512": 0.35}.get(self.model, 0.7)

    def compute(self, folder: Path | None, report: Progress, *, data_dir: str | None = None) -> dict[str, Any]:
        """The row of the table and curves by epoch; `data_dir` is the folder of the source."""
        data = make_data(self, data_dir)
        if not self.training:
            found = solve(self.model, data, self.options)
        elif "patience" in self.training:
            held = make_data(replace(self, judged_on="validation"), data_dir)
            found = self._train_until(data, held, folder, report)
        else:
            found = self._train(data, folder, report)
        return {"row": describe(self, data, found), "curves": found.get("curves", {}), "job": self.settings}

    def _train(self, data: ImageData, folder: Path | None, report: Progress) -> dict[str, Any]:
        task = as_task(data)
        network = make_network(self.model, task.image_size, count_classes(data), seed=self.seed, **self.options)
        training = Fitting(network, task, ClassifySettings(**self.training, seed=self.seed), out=folder)
        training.run_to_end(lambda: report(training.step / training.steps))
        result = training.result()
        last = result.history[-1]
        return {
            "epochs": result.epochs,
            "epochs_to_fit": result.epochs if last.validation_accuracy == 1.0 else None,
            "train_loss": last.train_loss,
            "train": last.validation_accuracy,
            "test": result.test_last,
            "parameters": sum(p.numel() for p in network.parameters()),
            "seconds": round(result.seconds, 2),
            "curves": {
                "train_loss": [round(epoch.train_loss, 5) for epoch in result.history],
                "train": [epoch.validation_accuracy for epoch in result.history],
            },
        }

    def _train_until(self, data: ImageData, held: ImageData, folder: Path | None, report: Progress) -> dict[str, Any]:
        """Stopped early: what is known of the best epoch on images that were held out, the test images of `held`."""
        task = replace(as_task(data), validation=as_task(held).test)
        network = make_network(self.model, task.image_size, count_classes(data), seed=self.seed, **self.options)
        settings = {name: value for name, value in self.training.items() if name != "patience"}
        rule = early_stopping(self.training["patience"])
        training = Classification(network, task, ClassifySettings(**settings, seed=self.seed), rules=rule, out=folder)
        training.run_to_end(lambda: report(training.step / training.steps))
        result = training.result()
        best = result.history[result.best_epoch - 1]
        return {
            "epochs": result.best_epoch,
            "epochs_to_fit": None,
            "train_loss": best.train_loss,
            # In training mode, before each step.
            "train": best.train_accuracy,
            "test": result.test_best_validation,
            "parameters": sum(p.numel() for p in network.parameters()),
            "note": f"stopped after {result.epochs} epochs",
            "seconds": round(result.seconds, 2),
        }

    def content(self, found: dict[str, Any]) -> dict[str, Any]:
        return found

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        if set(content) != {"row", "curves", "job"} or set(content["row"]) != set(COLUMNS):
            raise ValueError(f"keys are {', '.join(content)}")
        return [content["row"]]


def make_data(job: Job, data_dir: str | None = None) -> ImageData:
    """The images of a job; in the place of the test images those that judge it."""
    return _variant(job.variant)(pick(job.source, data_dir, judged_on=job.judged_on, **job.images), job.seed)


def _variant(name: str) -> Twin:
    if name.startswith(CORRUPTED):
        return corrupted_labels(float(name.removeprefix(CORRUPTED)))
    if name not in TWINS:
        raise ValueError(f"variant is {name!r}; known are {', '.join(TWINS)} and {CORRUPTED}0.2 and the like")
    return TWINS[name]


@lru_cache(maxsize=4)
def pick(
    source: str, data_dir: str | None, *, train: int, validation: int, test: int, seed: int, judged_on: str
) -> ImageData:
    """Images drawn at random: for training and validation from the train set, for testing from the test set."""
    data = _load(source, data_dir)
    there = len(data.train_labels), len(data.test_labels)
    if train + validation > there[0] or test > there[1]:
        raise ValueError(
            f"train, validation and test are {train}, {validation} and {test}; {source} has {there[0]} train images "
            f"and {there[1]} test images"
        )
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randperm(there[0], generator=generator)
    for_test = torch.randperm(there[1], generator=generator)[:test]
    fitted = replace(data, train_images=data.train_images[ours[:train]], train_labels=data.train_labels[ours[:train]])
    if judged_on == "validation":
        # From the end, so that they are the same however many are trained on.
        held = ours[there[0] - validation :]
        return replace(fitted, test_images=data.train_images[held], test_labels=data.train_labels[held])
    return replace(fitted, test_images=data.test_images[for_test], test_labels=data.test_labels[for_test])


@lru_cache(maxsize=1)
def _load(source: str, data_dir: str | None) -> ImageData:
    if source != "cifar10":
        return load(source, data_dir)
    # Channels last, so that the twins see (n, height, width) in front.
    parts = [torch.from_numpy(array) for pair in find_cifar10(data_dir).read() for array in pair]
    images, labels = ([parts[k].movedim(1, -1) for k in (0, 2)], [parts[k].long() for k in (1, 3)])
    return ImageData(source, images[0], labels[0], images[1], labels[1])


def as_task(data: ImageData) -> LongRangeData:
    """What `Classification` reads: training images also stand where it looks after each epoch."""

    def split(images: torch.Tensor, labels: torch.Tensor) -> Split:
        return Split(images[:, None] if images.ndim == 3 else images.movedim(-1, 1), labels, data.maximum)

    train = split(data.train_images, data.train_labels)
    return LongRangeData(data.name, train, train, split(data.test_images, data.test_labels), settings={})


def describe(job: Job, data: ImageData, found: dict[str, Any]) -> dict[str, Any]:
    """A row: what the job is, and what was found."""
    tested = len(data.test_labels)
    low, high = binom.interval(CHANCE_INTERVAL, tested, 1 / count_classes(data))
    machine = describe_machine(torch.device("cpu"))
    share = job.variant.removeprefix(CORRUPTED) if job.variant.startswith(CORRUPTED) else None
    row = {
        "source": job.source,
        "model": job.model,
        "variant": job.variant,
        "corruption": 0.0 if job.variant == "original" else None if share is None else float(share),
        "control": job.control,
        "judged_on": job.judged_on,
        "train_images": len(data.train_labels),
        "test_images": tested,
        "seed": job.seed,
        "lr": job.training.get("lr"),
        "batch_size": job.training.get("batch_size"),
        "width": job.options.get("width"),
        "chance_low": round(low / tested, 4),
        "chance_high": round(high / tested, 4),
        "machine": machine["device"],
        "versions": " ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "settings_sha256": job.digest,
    }
    return {column: row.get(column, found.get(column)) for column in COLUMNS}


def gather_table(out: Path, table: Path) -> list[dict[str, Any]]:
    """One CSV of all finished jobs in a folder, whoever did them; returns what they left, in the table's order."""
    collect(Job, out, table, key=_place)
    return sorted(Job.contents(out), key=lambda content: _place(content["row"]))


def _place(row: dict[str, Any]) -> list[Any]:
    key = ("source", "judged_on", "model", "train_images", "variant", "control", "lr", "seed", "settings_sha256")
    # Missing values first.
    return [(0, 0) if row[name] is None else (1, row[name]) for name in key]
