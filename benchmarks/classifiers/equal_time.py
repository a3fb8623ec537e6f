"""Accuracy of a tree and of TensorKrowch's matrix product state after equal times of training.

    python -m benchmarks.classifiers.equal_time --seconds 600 --json docs/results/classifiers_equal_time.json

The matrix product state is that of TensorKrowch's tutorial (pip install tensorkrowch): 784 pixels as vectors of length
3, bonds of 10, 236,220 parameters for MNIST, batches of 64, Adam at a constant rate with weight decay 1e-6.  The tree
reads patches of 4 × 4 pixels and is as wide as leaves it no more parameters; how many epochs it has, by a schedule of
one cycle, is told by the time of an epoch on a tenth of the images.  Time is that of the processor on all threads, so
that other work on the machine counts for neither.  Of several --rates each side takes that which is best on validation
images at the first seed.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from benchmarks.fits import Images, image_parts
from benchmarks.speed.peers import version_of
from benchmarks.speed.timing import made_by
from htf._files import write_json
from htf.cli.arguments import int_range
from htf.models import TensorClassifier

BATCH, BOND, DIM = 64, 10, 3  # of the matrix product state
PARTS = ("validation", "test")


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    parts = image_parts(options.source, options.train, options.validation, options.test, options.data_dir)
    sides: dict[str, tuple[Any, list[float]]] = {"tree": (_tree, options.rates)}
    if find_spec("tensorkrowch") is not None:
        sides["matrix product state"] = (_mps, options.peer_rates)
    rows = []
    for name, (fit, rates) in sides.items():
        first, *others = options.seeds
        tried = [_row(name, fit, parts, rate, first, options) for rate in rates]
        best = max(tried, key=lambda row: row["validation"])
        best["chosen"] = True
        again = [_row(name, fit, parts, best["lr"], seed, options) | {"chosen": True} for seed in others]
        rows += [*tried, *again]
    report = made_by() | {
        "peer": {"tensorkrowch": version_of("tensorkrowch")},
        "source": options.source,
        "images": {part: len(images) for part, (images, _) in parts.items()},
        "seconds_asked": options.seconds,
        "rows": rows,
    }
    if options.json:
        write_json(options.json, report)
    print(json.dumps(report, indent=1))


def _row(
    name: str, fit: Any, parts: dict[str, Images], rate: float, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    found = {"model": name, "lr": rate, "seed": seed, **fit(parts, rate, seed, options)}
    print(found, flush=True)
    return found


def _tree(parts: dict[str, Images], rate: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    x, y = parts["train"]
    settings: dict[str, Any] = {"patch": 4, "width": options.width, "dropout": options.dropout, "lr": rate}
    settings |= {"batch_size": 256, "seed": seed, "device": "cpu"}
    few = torch.randperm(len(x), generator=Generator().manual_seed(seed))[: max(len(x) // 10, 64)]
    for _ in range(2):  # the first one has all that is done once
        began = time.process_time()
        TensorClassifier(**settings, epochs=1).fit(x[few], y[few])
        once = time.process_time() - began
    epochs = max(1, int(options.seconds * len(few) / len(x) / once))
    began = time.process_time()
    model = TensorClassifier(**settings, epochs=epochs).fit(x, y)
    seconds = time.process_time() - began
    found = {part: model.score(*parts[part]) for part in PARTS}
    return {"parameters": model.network.n_parameters(), "epochs": epochs, "seconds": seconds, **found}


def _mps(parts: dict[str, Images], rate: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    import tensorkrowch

    x, y = parts["train"]
    pixels = x[0].numel()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = tensorkrowch.models.MPSLayer(
            n_features=pixels + 1,
            in_dim=DIM,
            out_dim=int(y.max()) + 1,
            bond_dim=BOND,
            init_method="randn_eye",
            std=1e-6,
        )
        model.trace(torch.zeros(1, pixels, DIM))
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-6)
        generator, steps, order = Generator().manual_seed(seed), 0, torch.empty(0, dtype=torch.long)
        began = time.process_time()
        while time.process_time() - began < options.seconds:
            if len(order) < BATCH:
                order = torch.randperm(len(x), generator=generator)
            chosen, order = order[:BATCH], order[BATCH:]
            optimizer.zero_grad()
            cross_entropy(model(_vectors(x[chosen])), y[chosen]).backward()
            optimizer.step()
            steps += 1
        seconds = time.process_time() - began
        with torch.no_grad():
            found = {part: _accuracy(model, *parts[part]) for part in PARTS}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "epochs": steps * BATCH / len(x), "seconds": seconds, **found}


def _vectors(images: Tensor) -> Tensor:
    """Vectors (n, pixels, 3) of powers of the pixels of images of bytes."""
    x = images.flatten(1).float() / 255
    return torch.stack([x**power for power in range(DIM)], 2)


def _accuracy(model: Any, images: Tensor, labels: Tensor) -> float:
    told = torch.cat([model(_vectors(part)).argmax(1) for part in images.split(500)])
    return float((told == labels).double().mean())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classifiers.equal_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", choices=("mnist", "fashion_mnist", "digits"), default="mnist")
    add("--train", type=int, default=55_000, help="images")
    add("--validation", type=int, default=5_000, help="other train images, by which rates are chosen")
    add("--test", type=int, default=10_000, help="images")
    add("--seconds", type=float, default=600, help="of training, for each fit")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2; the first one chooses rates")
    add("--width", type=int, default=88, help="of the tree; 88 is the most that 236,220 parameters allow")
    add("--dropout", type=float, default=0.1, help="of the tree")
    add("--rates", nargs="+", type=float, default=[1e-2], help="of the tree")
    add("--peer-rates", nargs="+", type=float, default=[1e-4], help="of the matrix product state")
    add("--threads", type=int, default=2)
    add("--data-dir", help="folder of the files of the source; otherwise HTF_DATA, or a download")
    add("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
