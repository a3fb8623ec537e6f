"""Accuracy against size on MNIST: factorized and over-parameterized layers cut to lower rank, and plain ones.

    python -m benchmarks.compression --data-dir data --seeds 0:2 --out runs/compression

trains a small CNN with hierarchical Tucker layers (ht), with products of two matrices (matrix), with over-parameterized
layers of depth 3 (deep), and with plain ones (plain), all drawn at random.  Each is then cut to 25, 15, 10 and 5 % of
the plain network's parameters by `htf.truncate`, the plain one by singular value decompositions (`htf.factorize` with
format "matrix"), always with one relative error for all layers.  Accuracy is measured as they are, and after one more
epoch.  The last 5,000 training images are for validation, on which settings are chosen.

Each finished training has a file of its own below --out, from which the table compression.csv is made; the same command
goes on where it was stopped.  settings.json has all settings, the machine and versions.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import htf
from htf._files import read_json, write_json
from htf._folders import claim_folder
from htf._machine import describe_machine, usable_device
from htf._tables import write_table
from htf.cli.arguments import int_range
from htf.nn._stand_in import StandIn
from htf.surgery import collapse, factorize, overparameterize, truncate
from htf.surgery.report import count_operations

TABLE, SETTINGS, JOBS = "compression.csv", "settings.json", "jobs"
VALIDATION = 5000
SHARES = (0.25, 0.15, 0.10, 0.05)


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
_ROWS = "the rows of a training"
Split = tuple[Tensor, Tensor]


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
    # The first and the last layer have few weights.
    return factorize(plain, name, rank=0.5, modules=["3", "7"], start="random", seed=seed)


def cut(model: nn.Module, name: str, budget: int) -> nn.Module:
    """A copy with no more parameters than that."""
    if name == "plain":
        return factorize(model, "matrix", budget=budget)
    model = copy.deepcopy(model)
    truncate(model, budget=budget)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, write the table."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device = usable_device(options.device)
    out = options.out / "dry_run" if options.dry_run else options.out
    training, validation, test = (_to(split, device) for split in splits(options))
    settings = {name: describe(name, options, len(training[1])) for name in options.variants}
    claim_folder(out, "benchmark of compression.py", {}).require_writable()
    write_json(out / SETTINGS, {**describe_machine(device), "variants": settings})
    files = {
        (name, seed): out / JOBS / f"{name}_seed{seed}_{digest(settings[name])}.json"
        for seed in options.seeds
        for name in options.variants
    }
    missing = {job: file for job, file in files.items() if not file.exists()}
    epochs = len(missing) * (options.epochs + len(SHARES))
    steps = epochs * -(-len(training[1]) // options.batch_size)
    with tqdm(total=steps, disable=not options.progress, unit="step", smoothing=0.05) as bar:
        for (name, seed), file in missing.items():
            bar.set_description(f"{name}, seed {seed}")
            rows = run(name, seed, (training, validation, test), options, bar.update)
            write_json(file, [{**row, "settings_sha256": digest(settings[name])} for row in rows], _ROWS)
            for row in rows:
                bar.write(_line(row))
    rows = gather_table(out)
    print(f"table: {out / TABLE} ({len(rows)} rows)")


def run(
    name: str, seed: int, data: tuple[Split, Split, Split], options: argparse.Namespace, step: Callable[[], object]
) -> list[dict[str, Any]]:
    """Train a variant, cut it to each share; a row for each."""
    (images, labels), validation, test = data
    chosen = recipe(name, options)
    model = variant(name, seed).to(images.device)
    draws = torch.Generator().manual_seed(seed)
    fit = Fit(images, labels, options.batch_size, chosen.weight_decay, draws, step)
    start = time.perf_counter()
    fit(model, options.epochs, chosen.lr)
    seconds = (time.perf_counter() - start) / options.epochs
    whole = {"variant": name, "seed": seed, "seconds_epoch": round(seconds, 2)}
    example, size = images[:1], count(network(seed))
    rows = [{**whole, "share": 1.0, **measure(model, example, validation, test)}]
    for share in SHARES:
        small = cut(model, name, int(share * size))
        row = {**whole, "share": share, **measure(small, example, validation, test)}
        fit(small, 1, chosen.tuning_lr)
        row |= {"validation_tuned": accuracy(small, *validation), "test_tuned": accuracy(small, *test)}
        rows.append(row)
    return rows


@dataclass
class Fit:
    """Training with AdamW on batches in random order, the rate falling along a cosine."""

    images: Tensor
    labels: Tensor
    batch_size: int
    weight_decay: float
    generator: Generator
    step: Callable[[], object]

    def __call__(self, model: nn.Module, epochs: int, lr: float) -> None:
        """Train in place."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=self.weight_decay)
        steps = epochs * -(-len(self.labels) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        model.train()
        for _ in range(epochs):
            order = torch.randperm(len(self.labels), generator=self.generator).to(self.labels.device)
            for batch in order.split(self.batch_size):
                optimizer.zero_grad()
                loss = cross_entropy(model(self.images[batch]), self.labels[batch])
                if not bool(loss.isfinite()):
                    raise FloatingPointError(f"the loss of {type(model).__name__} at rate {lr} is {float(loss)}")
                loss.backward()
                optimizer.step()
                schedule.step()
                self.step()


def measure(model: nn.Module, example: Tensor, validation: Split, test: Split) -> dict[str, Any]:
    """Sizes and accuracies."""
    replaced = any(isinstance(module, StandIn) for module in model.modules())
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


def recipe(name: str, options: argparse.Namespace) -> Recipe:
    """The variant's, but for what the options say."""
    given = {"weight_decay": options.weight_decay, "lr": options.lr}
    return replace(RECIPES[name], **{key: value for key, value in given.items() if value is not None})


def describe(name: str, options: argparse.Namespace, train: int) -> dict[str, Any]:
    """All settings of a variant but the seed."""
    sizes = {"epochs": options.epochs, "batch_size": options.batch_size, "train": train, "shares": list(SHARES)}
    return {"variant": name, **asdict(recipe(name, options)), **sizes}


def digest(settings: dict[str, Any]) -> str:
    """The beginning of their SHA-256."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def splits(options: argparse.Namespace) -> tuple[Split, Split, Split]:
    """Training, validation and test images in [0, 1] with their labels."""
    data = htf.datasets.load("mnist", options.data_dir)
    train = (data.train_images[:-VALIDATION], data.train_labels[:-VALIDATION])
    validation = (data.train_images[-VALIDATION:], data.train_labels[-VALIDATION:])
    parts = (train, validation, (data.test_images, data.test_labels))
    few = (options.batch_size * 2, 100, 100) if options.dry_run else (options.train, None, None)
    return tuple((x[:n, None].float() / data.maximum, y[:n]) for (x, y), n in zip(parts, few, strict=True))  # type: ignore[return-value]


def gather_table(out: Path) -> list[dict[str, Any]]:
    """One CSV of all finished trainings in a folder; returns its rows."""
    rows = [row for path in (out / JOBS).glob("*.json") for row in _read_rows(path)]
    order = list(RECIPES)
    rows.sort(key=lambda row: (order.index(row["variant"]), row["settings_sha256"], -row["share"], row["seed"]))
    write_table(out / TABLE, COLUMNS, rows)
    return rows


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(path, _ROWS)
    names = {f"{row['variant']}_seed{row['seed']}_{row['settings_sha256']}" for row in rows}
    if names != {path.stem}:
        raise ValueError(f"{path} holds rows of {', '.join(sorted(names)) or 'nothing'}")
    return rows


def _line(row: dict[str, Any]) -> str:
    tuned = f", after one more epoch {row['test_tuned']:.2%}" if "test_tuned" in row else ""
    size = f"{row['parameters']:,} parameters ({row['collapsed']:,} collapsed)"
    return (
        f"{row['variant']}, seed {row['seed']}, share {row['share']:.0%}: {size}, "
        f"validation {row['validation']:.2%}, test {row['test']:.2%}{tuned}"
    )


def _to(split: Split, device: torch.device) -> Split:
    return split[0].to(device), split[1].to(device)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--variants", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add("--epochs", type=int, default=5)
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, help="by default each recipe's")
    add("--weight-decay", type=float, help="by default each recipe's")
    add("--train", type=int, help="images; by default 55,000")
    add("--dry-run", action="store_true", help="every step on a few images")
    add("--out", type=Path, default=Path("runs") / "compression")
    add("--data-dir", help="folder of MNIST files; otherwise HTF_DATA, or a download")
    add("--threads", type=int, default=1)
    add("--device", default="cpu")
    add("--no-progress", dest="progress", action="store_false")
    options = parser.parse_args(arguments)
    options.epochs = 1 if options.dry_run else options.epochs
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
