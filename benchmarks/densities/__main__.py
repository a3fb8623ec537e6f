"""Bits per dimension of densities of grey images, against published circuits.

    python -m benchmarks.densities --source mnist --seeds 0 --out runs/densities

fits every setting of a small grid for each model at the first seed, chooses one for each model and width by the bits
per dimension of validation images, fits it from the other seeds, and measures it on test images.

quad     a quad tree over 256 grey levels, by expectation maximization in batches
tt       the linear tree, a tensor train
born     the square of a signed tensor, by Adam

densities.json has the rows of all fits, the chosen ones marked, each with its curve of validation bits per dimension
against seconds, the machine and versions.  Bits published for MNIST and Fashion-MNIST, of CP circuits on a quad tree
(width 16, 64, 256, 512), are in the file too.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.fits import Fit, Grid, Images, add_options, fit_all
from htf.models import TensorDensity

SHARED: Grid = {"levels": [256], "epochs": [10], "batch_size": [256]}
GRIDS: dict[str, Grid] = {
    "quad": {"width": [16, 64], "lr": [0.3], "smoothing": [0.01, 0.05], **SHARED},
    "tt": {"width": [16], "lr": [0.3], "smoothing": [0.01, 0.05], **SHARED},
    "born": {"width": [16], "lr": [0.003, 0.01], **SHARED},
}
KINDS: dict[str, dict[str, Any]] = {"quad": {}, "tt": {"format": "tt"}, "born": {"squared": True}}
# Means of five seeds (uni-circ-le), quad trees of CP layers of so many units.
PUBLISHED = {
    "mnist": {16: 1.283, 64: 1.217, 256: 1.184, 512: 1.175},
    "fashion_mnist": {16: 3.589, 64: 3.442, 256: 3.392, 512: 3.381},
}


@dataclass(frozen=True)
class Job(Fit):
    """A density."""

    kind = "benchmark of densities"
    judge = "validation"
    better = min

    def fitted(self, parts: dict[str, Images]) -> TensorDensity:
        density = TensorDensity(**KINDS[self.model], **self.options, seed=self.seed, device="cpu")
        return density.fit(parts["train"][0], validation=parts["validation"][0])

    def measured(self, fitted: TensorDensity, parts: dict[str, Images]) -> dict[str, Any]:
        history = fitted.history_
        bits = -history["validation"]["log_likelihood"][:, 0] / (fitted.n_features_in_ * math.log(2))
        seconds = history["train"]["seconds"][:, 0]
        return {
            "parameters": fitted.network.n_parameters(),
            "curve": [[round(s, 1), round(b, 5)] for s, b in zip(seconds.tolist(), bits.tolist(), strict=True)],
            **{part: fitted.bits_per_dim(parts[part][0]) for part in ("train", "validation", "test")},
            "published": PUBLISHED.get(self.source, {}).get(fitted.width) if self.model == "quad" else None,
        }


def main(arguments: list[str] | None = None) -> None:
    """Choose, fit, write."""
    fit_all(Job, _options(arguments), GRIDS)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.densities",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "densities", GRIDS)
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.grid = {"width": [2], "epochs": [1]} | options.grid
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
