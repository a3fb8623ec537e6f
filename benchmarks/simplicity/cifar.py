"""The CIFAR-10 part: over-parameterized networks, plain ones, and penalties on rank."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

import htf
from benchmarks.batches import Shuffled
from htf.datasets._cifar import find_cifar10
from htf.jobs import FolderJob, Progress, map_jobs
from htf.jobs.folder import digest_of
from htf.ranks import kernel_effective_rank
from htf.regularizers import WeightRank
from htf.surgery import overparameterize

DEPTHS = (1, 2, 4)
# From weights that hardly act to weights that hurt; which is taken, validation images say.
WEIGHTS = {
    "nuclear": (0.01, 0.1, 1.0),
    "log_det": (0.01, 0.1, 1.0),
    "effective_rank": (0.03, 0.3, 3.0),
}
FOLDER = "simplicity_cifar"
Data = dict[str, tuple[Tensor, Tensor]]
KERNEL_IMAGES = 512


@dataclass(frozen=True)
class Training(FolderJob):
    """One training.

    Attributes
    ----------
    depth : int
        Of every layer's linear over-parameterization; 1 is the plain network.
    penalty : str
        Of `WeightRank`, or "none".
    weight : float
        Of the penalty.
    seed : int
        Of the starting weights and the order of images.  The images are those of seed 0.
    train, validation, test : int
        Images.
    epochs, batch_size, lr
        Adam, the rate falling to 0 along a cosine; no augmentation.
    """

    kind = "CIFAR-10 part of the simplicity benchmark"
    holds = "the row of a training"
    pattern = "*.json"
    temporary = ("checkpoint*",)

    depth: int = 1
    penalty: str = "none"
    weight: float = 0.0
    seed: int = 0
    train: int = 5000
    validation: int = 2000
    test: int = 5000
    epochs: int = 12
    batch_size: int = 64
    lr: float = 1e-3

    @property
    def method(self) -> str:
        """What is compared."""
        if self.penalty != "none":
            return self.penalty
        return "plain" if self.depth == 1 else f"depth {self.depth}"

    @property
    def name(self) -> str:
        return f"{self.method.replace(' ', '_')}_{self.weight:g}_{self.seed}"

    def compute(self, folder: Path | None, report: Progress, *, data: Data) -> dict[str, Any]:
        """The row of the table."""
        which = {"method": self.method} | {n: getattr(self, n) for n in ("depth", "penalty", "weight", "seed")}
        return {**which, **train(self, data, folder, report), "chosen": 0}

    def content(self, found: dict[str, Any]) -> dict[str, Any]:
        return {"settings": self.settings, "row": found}

    @classmethod
    def rows(cls, content: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**content["row"], "settings_sha256": digest_of(content["settings"])}]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group("cifar")
    group.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    group.add_argument("--epochs", type=int, default=None, help="of each training")
    group.add_argument("--data-dir", default=None, help="folder of CIFAR-10; otherwise HTF_DATA, or it is downloaded")
    group.add_argument("--dry-run", action="store_true", help="every step on a few images, into a folder of its own")


def trainings(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per training: all weights of seed 0, then further seeds of the weight that is best on validation images."""
    common = Training() if options.epochs is None else Training(epochs=options.epochs)
    folder = options.out / FOLDER
    if options.dry_run:
        common, folder = replace(common, train=64, validation=32, test=32, epochs=1), folder / "dry_run"
    data = load(common, options.data_dir)
    first = list(candidates(common))
    run = type(common).within(folder, data=data)
    rows = [content["row"] for _, content in map_jobs(run, first, progress=options.progress)]
    again = []
    for method in dict.fromkeys(each.method for each in first):
        best = max((row for row in rows if row["method"] == method), key=lambda row: row["validation"])
        best["chosen"] = 1
        (training,) = [each for each in first if (each.method, each.weight) == (method, best["weight"])]
        again += [replace(training, seed=seed) for seed in range(1, options.seeds)]
    rows += [{**content["row"], "chosen": 1} for _, content in map_jobs(run, again, progress=options.progress)]
    return rows, {
        "settings": asdict(common) | {"seeds": options.seeds, "weights": {k: list(v) for k, v in WEIGHTS.items()}},
        "network": str(network(0)),
        "test": "accuracy after the last epoch; weights of penalties are those best on validation images at seed 0",
    }


def candidates(common: Training) -> Iterator[Training]:
    """Every method and weight at seed 0."""
    for depth in DEPTHS:
        yield replace(common, depth=depth)
    for penalty, weights in WEIGHTS.items():
        for weight in weights:
            yield replace(common, penalty=penalty, weight=weight)


def train(job: Training, data: Data, folder: Path | None, report: Progress) -> dict[str, Any]:
    """Accuracies and effective ranks at the end of a training."""
    model: nn.Module = network(job.seed)
    if job.depth > 1:
        model = overparameterize(model, job.depth, start="random", seed=job.seed)
    objective = Shuffled(*data["train"], job.batch_size, job.seed, drop_last=True)
    steps = job.epochs * objective.batches
    training = htf.training.Training(
        model,
        objective,
        optimizer="adam",
        lr=job.lr,
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        regularizer=None if job.penalty == "none" else WeightRank(job.penalty, job.weight),
        out=folder,
        seed=job.seed,
    )
    training.run(job.epochs, on_advance=lambda: report(training.step / steps))
    with torch.no_grad():
        *below, _ = model.children()
        hidden = nn.Sequential(*below)
        features = torch.cat([hidden(part) for part in data["test"][0][:KERNEL_IMAGES].split(256)])
    measure = WeightRank("effective_rank")
    measure(model)
    return {
        **{part: round(accuracy(model, *data[part]), 5) for part in ("train", "validation", "test")},
        "kernel_effective_rank": round(float(kernel_effective_rank(features)), 5),
        "weight_effective_rank": round(measure.last or 0.0, 5),
    }


def network(seed: int) -> nn.Sequential:
    """Three convolutions and two linear layers, initialized after He et al. 2015 with zero biases."""
    model = nn.Sequential(
        *(_convolution(3, 32), nn.ReLU(), nn.MaxPool2d(2)),
        *(_convolution(32, 64), nn.ReLU(), nn.MaxPool2d(2)),
        *(_convolution(64, 64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), skip_init(nn.Linear, 1024, 128), nn.ReLU(), skip_init(nn.Linear, 128, 10)),
    )
    generator = Generator().manual_seed(seed)
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return model


def load(settings: Training, data_dir: str | None) -> Data:
    """Images, by the train part's mean and deviation of each channel, and labels; parts are drawn by seed 0."""
    train, test = find_cifar10(data_dir).read()
    order = np.random.default_rng(0).permutation(len(train[1]))
    if len(order) < settings.train + settings.validation:
        raise SystemExit(f"CIFAR-10 as found has {len(order)} training images; expected more")
    held = settings.train + settings.validation
    parts = {
        "train": tuple(each[order[: settings.train]] for each in train),
        "validation": tuple(each[order[settings.train : held]] for each in train),
        "test": tuple(each[: settings.test] for each in test),
    }
    tensors = {
        name: (torch.from_numpy(images).float() / 255, torch.from_numpy(labels.astype(np.int64)))
        for name, (images, labels) in parts.items()
    }
    mean = tensors["train"][0].mean((0, 2, 3), keepdim=True)
    deviation = tensors["train"][0].std((0, 2, 3), keepdim=True)
    return {name: ((images - mean) / deviation, labels) for name, (images, labels) in tensors.items()}


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose class is right."""
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(256), y.split(256), strict=True))
    return right / len(y)


def _convolution(before: int, width: int) -> nn.Conv2d:
    layer = skip_init(nn.Conv2d, before, width, 3, padding=1)
    assert isinstance(layer, nn.Conv2d)
    return layer
