"""Train errors of CP fits at the published ranks, beside those that were published.

    python -m benchmarks.published --data-dir data --passes 2000 --out runs/published

fits black and white images, one class against the rest, by CP networks of ranks 1, 5, 10 and 15: all ten classes of
MNIST and Fashion-MNIST, then three classes with random labels, and of random images.  Every fit makes an eighth of the
passes first, then a quarter, a half and all of them, so that whenever it is stopped all figures stand about alike; the
same command goes on where it was stopped, with more passes too.  Steps are those of
`htf.training.LevenbergMarquardt`, and a pass takes as long as an epoch of gradient descent.  Test images are not
looked at.

Below --out are published.csv, with a row for each class, published.json, with averages, distances from the published
errors, curves, settings, machine and versions, and published.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.probe import PUBLISHED, TOLD
from benchmarks.series import add_run_options, begin, command
from htf._files import write_figure, write_json
from htf._machine import describe_machine
from htf._tables import write_table
from htf.cli.arguments import int_range
from htf.jobs import collect, map_jobs

from .figure import plot_published
from .jobs import Fits
from .summary import COLUMNS, as_text, latest, summarize

NAME = "published"


def main(arguments: list[str] | None = None) -> None:
    """Fit what is not fitted yet, with more and more passes; write tables after each, and the figure."""
    options = _options(arguments)
    out = begin(options)
    run = Fits.within(out, data_dir=options.data_dir, coarse=options.coarse)
    todo = [] if options.collect else [part for part in parts(options) if part.finished(out) is None]
    for part in todo:
        for _ in map_jobs(run, [part], progress=options.progress):
            write(out)
    summary = write(out)
    write_figure(out / f"{NAME}.png", plot_published(summary["sets"]))
    print(as_text(summary))
    print(f"table: {out / NAME}.csv")


def parts(options: argparse.Namespace) -> Iterator[Fits]:
    """Jobs in their order: few passes of all of them before more of any."""
    for share in (8, 4, 2, 1):
        for data, twin in options.sets:
            classes = options.classes if twin == "original" else options.classes[: options.twin_classes]
            passes = max(options.passes // share, 1)
            for rank in options.ranks:
                yield Fits(data, twin, rank, tuple(classes), options.seed, passes, options.images)


def write(out: Path) -> dict[str, Any]:
    """Write table and summary of all jobs that are finished below a folder; returns the summary."""
    contents = latest(Fits.contents(out))
    collect(Fits, out, out / "all.csv")
    rows = [row for content in contents for row in Fits.rows(content)]
    write_table(out / f"{NAME}.csv", COLUMNS, rows)
    summary = summarize(contents)
    write_json(out / f"{NAME}.json", {**describe_machine(torch.device("cpu")), **summary})
    return summary


def _set(text: str) -> tuple[str, str]:
    data, _, twin = text.partition("/")
    if (data, twin) not in PUBLISHED and data != "digits":
        known = ", ".join("/".join(key) for key in PUBLISHED)
        raise argparse.ArgumentTypeError(f"{text!r} has no published errors; those that have are {known}")
    return data, twin or "original"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("published", __doc__)
    add = parser.add_argument
    order = ["mnist/original", "fashion_mnist/original", "mnist/random_labels", "mnist/random_images"]
    add("--sets", nargs="+", type=_set, default=[_set(text) for text in [*order, "fashion_mnist/random_labels"]],
        metavar="DATA/TWIN")  # fmt: skip
    add("--ranks", type=int_range, default=list(TOLD), help="1,5,10,15")
    add("--classes", type=int_range, default=list(range(10)), help="0:9 or 0,1,2")
    add("--twin-classes", type=int, default=3, help="how many of them with random labels or images")
    add("--passes", type=int, default=2000, help="products with all images and their transpose")
    add("--images", type=int, help="train images; by default all")
    add("--seed", type=int, default=0)
    add("--exact", dest="coarse", action="store_false", help="float32 within conjugate gradients too")
    add("--collect", action="store_true", help="fit nothing; write and print what is finished")
    add_run_options(parser, NAME, holds="fits, tables and figure", data="MNIST files", few="images")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.images, options.passes = 200, min(options.passes, 40)
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
