"""Accuracy against parameters of classifiers: hierarchical, CP and tensor train networks, and small CNNs.

    python -m benchmarks.classifiers --source fashion_mnist --seeds 0:2 --out runs/classifiers_fashion

fits every setting of a small grid for each model at the first seed, chooses one for each model and width by the
accuracy on validation images, fits it from the other seeds, and measures it on test images.  Trees are multilinear
forms of the patches up to a positive factor per sample and node; "tt" is the linear tree, a tensor train (a matrix
product state) with the same leaves.  The cnn has two convolutions with pooling and a linear layer.

classifiers.json has the rows of all fits, the chosen ones marked, the machine and versions.  Each fit has a folder of
its own below --out, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.fits import Fit, Grid, Images, add_options, fit_all
from htf.models import TensorClassifier

from .controls import ConvNet, channels_first

TREE: Grid = {"width": [16, 32, 64], "dropout": [0.1, 0.2], "epochs": [20], "shifts": [1], "batch_size": [256]}
GRIDS: dict[str, Grid] = {
    "ht": TREE,
    "cp": TREE | {"width": [128, 512]},
    "tt": TREE | {"width": [16, 32]},
    "cnn": {"width": [8, 32], "lr": [2e-3, 4e-3], "epochs": [10]},
}


@dataclass(frozen=True)
class Job(Fit):
    """A classifier."""

    kind = "benchmark of classifiers"

    def fitted(self, parts: dict[str, Images]) -> Any:
        images, labels = parts["train"]
        if self.model == "cnn":
            return ConvNet(**self.options, seed=self.seed).fit(images, labels)
        model = TensorClassifier(format=self.model, **self.options, seed=self.seed, device="cpu")
        return model.fit(channels_first(images), labels)

    def measured(self, fitted: Any, parts: dict[str, Images]) -> dict[str, Any]:
        network = fitted if self.model == "cnn" else fitted.network
        parameters = network.n_parameters if self.model == "cnn" else network.n_parameters()
        return {"parameters": parameters, **{part: accuracy(fitted, *parts[part]) for part in ("validation", "test")}}


def accuracy(model: Any, images: Tensor, labels: Tensor) -> float:
    """Share of the images of bytes whose class is told."""
    if isinstance(model, ConvNet):
        return float((model.predict(images / 255) == labels).double().mean())
    return float(model.score(channels_first(images), labels))


def main(arguments: list[str] | None = None) -> None:
    """Choose, fit, write."""
    fit_all(Job, _options(arguments), GRIDS)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classifiers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "classifiers", GRIDS)
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.grid = {"width": [2], "epochs": [1]} | options.grid
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
