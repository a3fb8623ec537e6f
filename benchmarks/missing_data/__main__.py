"""Accuracy where pixels are missing, after Sharir, Tamari, Cohen & Shashua, "Tensorial mixture models" (2016).

    python -m benchmarks.missing_data --train 10000 --validation 1000 --test 2000 --seeds 0:2 --out runs/missing_data

Pixels of test images are missing at independent rates from 0.25 to 0.99, or in one to three squares of width 7, 11 or
15.

generative      htf.models.GenerativeClassifier: argmax over the classes of P(known pixels | class); it never sees a
                mask in training, and nothing is imputed
discriminative  the same network trained by cross entropy with pixels missing at random, which it sums over
cnn             two convolutions, trained on whole images; missing pixels are zeros, or their means over training images
cnn_masked      the same, trained with pixels missing at random, as zeros: the only one but "discriminative" that knows
                in training that pixels will be missing

Settings are chosen by the mean accuracy over all masks on validation images.  missing_data.json has the rows of all
fits, with the accuracy for each mask, the machine and versions; missing_data.png is drawn from it alone (--figure draws
it again).

    python -m benchmarks.missing_data --pairs --test 2000 --seeds 0:2 --out runs/missing_data_pairs

is a two-class setting in the manner of theirs, whose details could not be checked against the paper: 300 training
images of each digit, and 0 to 150 of the pixels of a test image that are not zero are missing.  One model of all digits
decides between the two of each pair; accuracies are means over the pairs, in missing_data_pairs.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from benchmarks.classifiers.controls import ConvNet
from benchmarks.fits import Fit, Grid, Images, add_options, fit_all
from htf._files import read_json, write_figure
from htf.models import GenerativeClassifier
from htf.plotting import plot_missing_data

from .discriminative import Marginalized
from .masks import independent, protocol
from .pairs import COUNTS, few_of_each, of_pairs, protocol_of_pairs

NAME = "missing_data"
GRIDS: dict[str, Grid] = {
    "generative": {
        "leaf": ["categorical"],
        "levels": [4, 8],
        "width": [64],
        "epochs": [6],
        "batch_size": [64],
        "lr": [0.3],
        "smoothing": [0.01],
    },
    "discriminative": {"levels": [4], "width": [32], "epochs": [5], "lr": [0.01, 0.03]},
    "cnn": {"width": [16], "epochs": [10], "lr": [2e-3, 4e-3]},
    "cnn_masked": {"width": [16], "epochs": [10], "lr": [2e-3, 4e-3]},
}


@dataclass(frozen=True)
class Job(Fit):
    """A classifier, measured under all masks."""

    kind = "benchmark of missing data"

    def fitted(self, parts: dict[str, Images]) -> Any:
        images, labels = parts["train"]
        if self.model == "generative":
            return GenerativeClassifier(**self.options, seed=self.seed, device="cpu").fit(images, labels)
        if self.model == "discriminative":
            return Marginalized(**self.options, seed=self.seed).fit(images, labels)
        generator = Generator().manual_seed(self.seed)
        change = partial(_without_some, generator=generator) if self.model == "cnn_masked" else None
        return ConvNet(**self.options, seed=self.seed, change=change).fit(images, labels)

    def measured(self, fitted: Any, parts: dict[str, Images]) -> dict[str, Any]:
        mean = parts["train"][0].double().mean(0).float() / 255
        fillings = {
            "cnn": {"zero": torch.zeros_like(mean), "mean": mean},
            "cnn_masked": {"zero": torch.zeros_like(mean)},
        }
        found: dict[str, Any] = {}
        for filling, values in fillings.get(self.model, {"": None}).items():
            for seed, part in enumerate(("validation", "test")):
                images, labels = parts[part]
                height, width = images.shape[1:]
                # Masks of test images are others than those of validation images.
                of_masks = {
                    name: float((_told(fitted, images, missing, values) == labels).double().mean())
                    for name, missing in protocol(len(images), height, width, seed)
                }
                found[f"{part}_{filling}".rstrip("_")] = of_masks
        means = [sum(each.values()) / len(each) for name, each in found.items() if name.startswith("validation")]
        network = fitted.network
        parameters = network.n_parameters() if self.model == "generative" else fitted.n_parameters
        return {"parameters": parameters, "accuracies": found, "validation": max(means)}


@dataclass(frozen=True)
class PairJob(Job):
    """A classifier of few images, measured on pairs of classes with pixels missing that are not zero."""

    kind = "benchmark of missing data, pairs of classes"

    def fitted(self, parts: dict[str, Images]) -> Any:
        return super().fitted({**parts, "train": few_of_each(*parts["train"])})

    def measured(self, fitted: Any, parts: dict[str, Images]) -> dict[str, Any]:
        found = {
            part: {
                name: of_pairs(fitted, *parts[part], missing) for name, missing in protocol_of_pairs(parts[part][0], k)
            }
            for k, part in enumerate(("validation", "test"))
        }
        network = fitted.network
        parameters = network.n_parameters() if self.model == "generative" else fitted.n_parameters
        return {
            "parameters": parameters,
            "accuracies": found,
            "validation": sum(found["validation"].values()) / len(COUNTS),
        }


def _told(model: Any, images: Tensor, missing: Tensor, values: Tensor | None) -> Tensor:
    if values is not None:
        found: Tensor = model.predict(torch.where(missing, values, images / 255))
        return found
    return torch.as_tensor(model.predict(images, missing=missing))


def _without_some(x: Tensor, generator: Generator) -> Tensor:
    """Images of which a share of the pixels, drawn from 0 to 0.95 for each, is zero."""
    rates = 0.95 * torch.rand(len(x), 1, 1, generator=generator)
    return x.masked_fill(independent(len(x), x.shape[2], x.shape[3], rates, generator).unsqueeze(1), 0)


def main(arguments: list[str] | None = None) -> None:
    """Choose, fit, write, draw."""
    options = _options(arguments)
    if options.pairs:
        options.name = f"{NAME}_pairs"
        fit_all(PairJob, options, GRIDS)
        return
    if not options.figure:
        fit_all(Job, options, GRIDS)
    out: Path = options.out / "dry_run" if options.dry_run else options.out
    draw(out / f"{NAME}.json")


def draw(results: Path) -> None:
    """Write the figure of a file of results beside it."""
    write_figure(results.with_suffix(".png"), plot(results))
    print(f"figure: {results.with_suffix('.png')}")


def plot(results: Path) -> Figure:
    """Accuracies of the chosen settings against what is missing, from a file of results."""
    curves: dict[str, dict[str, list[float]]] = {}
    for row in read_json(results)["rows"]:
        if row.get("chosen"):
            for name, of_masks in row["accuracies"].items():
                part, _, filling = name.partition("_")
                if part == "test":
                    label = " ".join(filter(None, (row["model"].replace("_", " "), filling)))
                    for mask, value in of_masks.items():
                        curves.setdefault(label, {}).setdefault(mask, []).append(value)
    return plot_missing_data(curves)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.missing_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, NAME, GRIDS)
    parser.add_argument("--figure", action="store_true", help="draw again, from the results that are there")
    parser.add_argument("--pairs", action="store_true", help="decide between two classes, of few training images")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.grid = {"width": [2], "epochs": [1]} | options.grid
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
