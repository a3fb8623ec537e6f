"""Rank of codes: autoencoders with linear layers between code and decoder (Jing, Zbontar & LeCun 2020).

    python -m benchmarks.autoencoder --source shapes --seeds 0:2 --out runs/autoencoder

trains convolutional autoencoders by Adam on squared errors:

plain                       code and decoder alone
linear2, linear4, linear8   so many square linear layers in between, folded into one after training by htf.collapse
nuclear, l1, variational    plain, with a penalty on the code
ht, cp                      one linear layer in between, in a tensor format with half of the weights

"shapes" are discs made from six numbers (position, size, colour), so that the dimension of the data is known; the
others are the data sets of images.  Measured: the spectrum and the effective rank of the codes of validation images,
errors of reconstruction relative to the variance of the images, a linear classifier on the codes of 10 to 1,000
labelled images, and how far images that are decoded from the middle between two codes, and from a mixture of Gaussians,
are from the nearest training image, relative to the same for test images.

At the first seed the learning rate is chosen by the error of validation images.  The weight of a penalty is the largest
with that error within 10 % of the plain autoencoder's, at its rate; the least weight if there is none.  All rows are in
autoencoder_SOURCE.json, with settings, machine and versions; autoencoder_SOURCE.png and autoencoder_SOURCE_pictures.png
are drawn from it and from the folders of the fits.  The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.fits import DRY, SOURCES
from benchmarks.series import add_run_options, begin, command, do
from htf._files import read_tensors, write_figure, write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range

from .jobs import MODELS, PENALIZED, PICTURES, SHAPES, Coding
from .plots import plot_codes, plot_pictures
from .shapes import DIMENSION

RECIPES: dict[str, dict[str, int]] = {
    SHAPES: {"train": 4000, "validation": 1000, "test": 1000, "code": 32, "epochs": 100, "batch_size": 64},
    "images": {"train": 10_000, "validation": 2000, "test": 5000, "code": 64, "epochs": 20, "batch_size": 64},
}
# So much more error than the plain autoencoder a penalty may cost.
ALLOWED = 1.1
PICTURED = ("plain", "linear8")

Found = list[tuple[Coding, dict[str, Any]]]


def main(arguments: list[str] | None = None) -> None:
    """Choose rates and weights, train, write, draw."""
    options = _options(arguments)
    out = begin(options)
    first, *others = options.seeds
    chosen: dict[str, Coding] = {}
    found: Found = []
    for model in sorted(options.models, key=lambda name: name in PENALIZED):
        tried = _done(out, list(candidates(options, model, first, chosen.get("plain"))), options)
        chosen[model] = _best(tried, found, model)
        found += tried
    found += _done(out, [replace(job, seed=seed) for job in chosen.values() for seed in others], options)
    best = [replace(job, seed=0) for job in chosen.values()]
    rows = [row | {"chosen": replace(job, seed=0) in best} for job, row in found]
    name = f"autoencoder_{options.source}"
    settings = {key: getattr(options, key) for key in ("source", "seeds", "lrs", "weights", "allowed")}
    write_json(
        out / f"{name}.json",
        {
            "settings": settings,
            "dimension": DIMENSION if options.source == SHAPES else None,
            "rows": rows,
            "machine": describe_machine(torch.device("cpu")),
        },
    )
    write_figure(out / f"{name}.png", plot_codes(out / f"{name}.json"))
    drawn = {job.model: job.folder(out) / PICTURES for job in chosen.values() if job.model in PICTURED}
    pictures = {model: read_tensors(path, sealed=False)[0] for model, path in drawn.items()}
    if pictures:
        write_figure(out / f"{name}_pictures.png", plot_pictures(pictures))
    print(f"results: {out / name}.json ({len(rows)} fits)")


def candidates(options: argparse.Namespace, model: str, seed: int, plain: Coding | None) -> Iterable[Coding]:
    """Fits of a model from which validation chooses; penalized ones at the rate of the plain one if there is one."""
    images = {part: getattr(options, part) for part in ("train", "validation", "test")}
    for lr in [plain.lr] if plain and model in PENALIZED else options.lrs:
        for weight in sorted(options.weights) if model in PENALIZED else [0.0]:
            yield Coding(
                options.source, images, model, seed, options.code, options.epochs, options.batch_size, lr, weight
            )


def _best(tried: Found, before: Found, model: str) -> Coding:
    """The fit that validation chooses."""
    if model not in PENALIZED:
        return min(tried, key=lambda pair: pair[1]["validation_error"])[0]
    plain = [row["validation_error"] for job, row in before if job.model == "plain"]
    within = [job for job, row in tried if not plain or row["validation_error"] <= ALLOWED * min(plain)]
    return max(within, key=lambda job: job.weight) if within else min((job for job, _ in tried), key=lambda j: j.weight)


def _done(out: Path, jobs: list[Coding], options: argparse.Namespace) -> Found:
    return do(Coding.within(out, data_dir=options.data_dir), jobs, options, _line)


def _line(job: Coding, row: dict[str, Any]) -> str:
    labels = "".join(f", {n} labels {accuracy:.3f}" for n, accuracy in row["few_labels"].items())
    return (
        f"{job.model}, lr {job.lr:g}, weight {job.weight:g}, seed {job.seed}: error {row['validation_error']:.4f} "
        f"(test {row['test_error']:.4f}), effective rank {row['effective_rank']:.2f}{labels}, {row['seconds']:.0f} s"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("autoencoder", __doc__)
    add = parser.add_argument
    add("--source", choices=(SHAPES, *SOURCES), default=SHAPES)
    for part in ("train", "validation", "test"):
        add(f"--{part}", type=int, help="images; by default 4,000, 1,000 and 1,000 shapes, or 10,000, 2,000 and 5,000")
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--code", type=int, help="dimensions; by default 32 for shapes, 64 for others")
    add("--epochs", type=int, help="by default 100 for shapes, 20 for others")
    add("--batch-size", type=int)
    add("--lrs", nargs="+", type=float, default=[1e-3, 3e-3], help="to choose from")
    add("--weights", nargs="+", type=float, default=[1e-5, 1e-4, 1e-3, 1e-2], help="of penalties, to choose from")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2; the first one chooses settings")
    add_run_options(
        parser,
        "autoencoder",
        holds="fits, results and figures",
        data="the files of the source",
        few="images",
        workers=True,
    )
    options = parser.parse_args(arguments)
    recipe = RECIPES[SHAPES if options.source == SHAPES else "images"]
    if options.dry_run:
        recipe = recipe | DRY | {"epochs": 1}
    for name, value in recipe.items():
        if getattr(options, name) is None or (options.dry_run and name in DRY):
            setattr(options, name, value)
    if options.code < 2:
        parser.error(f"--code is {options.code}; expected at least 2 dimensions, of which some can be left unused")
    if min(options.weights) <= 0:
        parser.error(f"--weights are {options.weights}; expected above 0")
    options.allowed = ALLOWED
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
