"""Images per second of Pathfinder, side by side: this library and the papers' generator.

    python -m benchmarks.speed.pathfinder --imp-reg-htf CHECKOUT --json docs/results/pathfinder_speed.json

Both make images of 300 × 300 pixels with their defaults, which are the same marks: two curves, distractors, two dots.
The papers' generator runs as its command does, one PNG file per image included; it needs OpenCV.  The papers then
resize to 150 pixels, which is not timed; this library draws at any size, and is timed at 150 and 48 too.

A time is the shortest of some repetitions, between which the two sides take turns.  Without a checkout, the comparison
is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch

import htf
from htf._files import write_json

from .peers import importable
from .timing import Step, made_by, race

SIZES = (300, 150, 48)
SCRIPT = "pathfinder_raw_images_generator"


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    report = made_by()
    if options.imp_reg_htf is None:
        report["images per second"] = [measure(length, None, options) for length in options.path_lengths]
    else:
        with _generator(options.imp_reg_htf) as generator:
            report["versions"]["opencv"] = generator.cv2.__version__
            report["images per second"] = [measure(length, generator, options) for length in options.path_lengths]
    print(json.dumps(report, indent=1))
    if options.json:
        write_json(options.json, report)


def measure(length: int, generator: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second at one path length."""
    calls = {f"htf_{size}": (options.images, _seeded(_ours, length, size, options.images)) for size in SIZES}
    if generator is not None:
        calls["peer_300"] = options.peer_images, _seeded(_theirs, generator, length, options.peer_images)
    seconds = race([call for _, call in calls.values()], options.repeats)
    best = {name: each / count for each, (name, (count, _)) in zip(seconds, calls.items(), strict=True)}
    row: dict[str, Any] = {"path_length": length, **{name: round(1 / seconds, 1) for name, seconds in best.items()}}
    if generator is not None:
        row["ratio_at_300"] = round(best["peer_300"] / best["htf_300"], 1)
    print(row)
    return row


def _seeded(call: Callable[..., None], *arguments: Any) -> Step:
    """A step that makes other images each time."""
    seeds = count()
    return lambda: call(*arguments, next(seeds))


def _ours(length: int, size: int, images: int, seed: int) -> None:
    htf.datasets.pathfinder(length, size, train=images, validation=0, test=0, seed=seed)


def _theirs(generator: Any, length: int, images: int, seed: int) -> None:
    # Its random numbers are global ones.
    random.seed(seed)
    numpy.random.seed(seed)  # noqa: NPY002
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        sys.argv[1:] = ["--output_dir", folder, "--num_samples", str(images), "--path_lengths", str(length)]
        generator.main()
        made = len(list(Path(folder).rglob("*.png")))
    if made != images:
        raise AssertionError(f"the papers' generator made {made} images of {images}")


@contextmanager
def _generator(checkout: Path) -> Iterator[Any]:
    """The module of the papers' generator."""
    if not (checkout / f"{SCRIPT}.py").is_file():
        raise SystemExit(f"{checkout} is not a checkout: there is no {SCRIPT}.py")
    with importable(checkout), mock.patch.object(sys, "argv", sys.argv[:1]):
        yield import_module(SCRIPT)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imp-reg-htf", type=Path, help="checkout of asafmaman101/imp_reg_htf")
    parser.add_argument("--path-lengths", nargs="+", type=int, default=[3, 5, 7, 9])
    parser.add_argument("--images", type=int, default=512, help="of this library, per repetition")
    parser.add_argument("--peer-images", type=int, default=16, help="of the papers' generator, per repetition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
