"""One training of the compression benchmark: a network, its copies of lower rank, and a row for each."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import htf
from benchmarks.batches import Shuffled
from htf.jobs import FolderJob, Progress
from htf.jobs.folder import digest_of
from htf.nn import FactorizedConv2d, FactorizedLinear, OverparamConv2d, OverparamLinear
from htf.surgery import collapse, factorize, overparameterize, truncate
from htf.surgery.report import count_operations
from htf.training import Training

VALIDATION = 5000
SHARES = (0.25, 0.15, 0.10, 0.05)
REPLACED = (FactorizedConv2d, FactorizedLinear, OverparamConv2d, OverparamLinear)


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained.

    Attributes
    ----------
    weight_decay : float
        Of AdamW, on all parameters.
    lr, tuning_lr : float
        At the start of training and of the epoch after truncation; they fall to 0 along a cosine.
    """

    weight_decay: float
    lr: float = 2e-3
    tuning_lr: float = 5e-4


# Products of many factors begin with small gradients, and stand larger steps.
RECIPES = {"ht": Recipe(0.05, lr=5e-3), "matrix": Recipe(0.05), "deep": Recipe(0.05), "plain": Recipe(0.05)}
COLUMNS = (
    "variant",
    "seed",
    "share",
    "parameters",
    "collapsed",
    "operations",
    "validation",
    "test",
    "validation_tuned",
    "test_tuned",
    "seconds_epoch",
    "settings_sha256",
)
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Job(FolderJob):
    """A variant, trained and cut.

    Attributes
    ----------
    variant : str
    seed : int
        Of the starting weights and the order of images.
    weight_decay, lr, tuning_lr : float
        See `Recipe`.
    epochs, batch_size : int
    train : int
        Images.
    shares : tuple of float
        Of the plain network's parameters, to which it is cut.
    """

    kind = "benchmark of compression.py"
    holds = "the rows of a training"
    pattern = "jobs/*.json"
    columns = COLUMNS
    temporary = ("*/checkpoint*",)

    variant: str
    seed: int
    weight_decay: float
    lr: float
    tuning_lr: float
    epochs: int
    batch_size: int
    train: int
    shares: tuple[float, ...]

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings but the seed."""
        return {name: value for name, value in self.settings.items() if name != "seed"}

    @property
    def digest(self) -> str:
        """Of all but the seed, which the name has."""
        return digest_of(self.recipe)

    @property
    def label(self) -> str:
        return f"{self.variant}_seed{self.seed}"

    def compute(
        self, folder: Path | None, report: Progress, *, data_dir: str | None, few: bool, device: str
    ) -> list[dict[str, Any]]:
        """Train, cut to each share, train for another epoch; a row for each."""
        training, validation, test = splits(data_dir, self.train, few, device)
        model = variant(self.variant, self.seed).to(device)
        fit = partial(self._trained, training, folder, report)
        seconds = fit(model, 0, self.epochs, self.lr) / self.epochs
        whole = {"variant": self.variant, "seed": self.seed, "seconds_epoch": round(seconds, 2)}
        example, size = training[0][:1], count(network(self.seed))
        rows = [{**whole, "share": 1.0, **measure(model, example, validation, test)}]
        for k, share in enumerate(self.shares):
            small = cut(model, self.variant, int(share * size))
            row = {**whole, "share": share, **measure(small, example, validation, test)}
            fit(small, self.epochs + k, 1, self.tuning_lr)
            rows.append(row | {"validation_tuned": accuracy(small, *validation), "test_tuned": accuracy(small, *test)})
        return rows

    def _trained(
        self, data: Split, folder: Path | None, report: Progress, model: nn.Module, begun: int, epochs: int, lr: float
    ) -> float:
        """Train in place with AdamW, the rate falling along a cosine, after so many epochs of the job; seconds."""
        objective = Shuffled(*data, self.batch_size, self.seed, skip=begun)
        training = Training(
            model,
            objective,
            optimizer=partial(torch.optim.AdamW, weight_decay=self.weight_decay),
            lr=lr,
            schedule=partial(CosineAnnealingLR, T_max=epochs * objective.batches),
            out=None if folder is None else folder / f"from_epoch_{begun}",
            seed=self.seed,
        )
        steps = (self.epochs + len(self.shares)) * objective.batches
        training.run(epochs, on_advance=lambda: report((begun * objective.batches + training.step) / steps))
        return training.seconds

    def content(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "settings_sha256": self.digest[:8]} for row in found]

    @classmethod
    def rows(cls, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return content


def make_job(name: str, seed: int, options: dict[str, Any], epochs: int, batch_size: int, train: int) -> Job:
    """A variant by its recipe, but for those of the options that are given."""
    chosen = asdict(RECIPES[name]) | {key: value for key, value in options.items() if value is not None}
    return Job(name, seed, **chosen, epochs=epochs, batch_size=batch_size, train=train, shares=SHARES)


def network(seed: int) -> nn.Sequential:
    """The plain network: 225,034 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1600, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )


def variant(name: str, seed: int) -> nn.Module:
    """A network to be trained."""
    plain = network(seed)
    if name == "plain":
        return plain
    if name == "deep":
        return overparameterize(plain, depth=3, start="random", seed=seed)
    # Three modes a side, as in the published figures.  The first and the last layer have few weights.
    shape = None if name == "matrix" else 3
    return factorize(plain, name, rank=0.5, shape=shape, modules=["3", "7"], start="random", seed=seed)


def cut(model: nn.Module, name: str, budget: int) -> nn.Module:
    """A copy with no more parameters than that."""
    if name == "plain":
        return factorize(model, "matrix", budget=budget)
    model = copy.deepcopy(model)
    truncate(model, budget=budget)
    return model


def measure(model: nn.Module, example: Tensor, validation: Split, test: Split) -> dict[str, Any]:
    """Sizes and accuracies."""
    replaced = any(isinstance(module, REPLACED) for module in model.modules())
    sizes = {"parameters": count(model), "collapsed": count(collapse(model) if replaced else model)}
    counted = count_operations(model, example) or {}
    return {
        **sizes,
        "operations": counted[""],
        "validation": accuracy(model, *validation),
        "test": accuracy(model, *test),
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found, in evaluation mode."""
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return right / len(labels)


def count(model: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@lru_cache(maxsize=1)
def splits(data_dir: str | None, train: int | None, few: bool, device: str) -> tuple[Split, Split, Split]:
    """Training, validation and test images in [0, 1] with their labels; the last two of 100 images if few."""
    data = htf.datasets.load("mnist", data_dir)
    training = (data.train_images[:-VALIDATION], data.train_labels[:-VALIDATION])
    validation = (data.train_images[-VALIDATION:], data.train_labels[-VALIDATION:])
    parts = (training, validation, (data.test_images, data.test_labels))
    counts = (train, *([100, 100] if few else [None, None]))
    found = [
        ((x[:n, None].float() / data.maximum).to(device), y[:n].to(device))
        for (x, y), n in zip(parts, counts, strict=True)
    ]
    return found[0], found[1], found[2]


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the table is sorted by."""
    return list(RECIPES).index(row["variant"]), row["settings_sha256"], -row["share"], row["seed"]
