"""Time of a training step of a density of grey images, and of samples, beside cirkit where it is installed.

    python -m benchmarks.densities.speed --json docs/results/densities_speed.json

Quad trees of a width over 28 × 28 pixels with 256 levels and categorical leaves, on random images of MNIST.  A step of
ours is one of expectation maximization on a batch whose plan is made (the plan, made once for a batch of a data set, is
timed beside it).  cirkit 0.3 (pip install libcirkit) trains logarithms by Adam at rate 0.01, as its tutorials do:

cp-t    products before sums, which is our network: both have the same numbers of parameters, and with the same matrices
        must give the same log-likelihoods before anything is timed
cp      sums before products, its default and the one whose bits per dimension are published, which has a matrix more
        for every pixel

cirkit 0.3.1 raises all logarithms to -708 at least, so that likelihoods are compared on samples that are likelier.
Sides take turns in one run; ratios to ours are taken within a turn.  Peak memory is that of the process after our step,
before cirkit is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import htf
from benchmarks.fits import image_parts
from benchmarks.speed.peers import version_of
from benchmarks.speed.timing import CPU, made_by, mean_seconds, take_turns
from htf._files import write_json
from htf.nn import HTNetwork
from htf.nn.init import distributions
from htf.training import ExpectationMaximization, Training
from htf.training.objectives import likelihood

LEVELS = 256
KINDS = ("cp-t", "cp")


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    x = _samples(options)
    report = made_by() | {
        "peer": {"libcirkit": version_of("libcirkit")},
        "settings": {name: getattr(options, name) for name in ("source", "width", "side", "turns", "steps")},
        "steps": [compare(x[:batch], options) for batch in options.batches],
        "samples": sampling(options),
    }
    print(json.dumps(report, indent=1))
    if options.json:
        write_json(options.json, report)


def compare(x: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step on a batch of levels, ours first."""
    network = _network(options.side, options.width)
    plan = mean_seconds(lambda: network.plan(x), 1)
    training = Training(
        network,
        likelihood(x, batch_size=len(x)),
        optimizer=partial(ExpectationMaximization, smoothing=0.05 / 60_000),
        lr=0.3,
        schedule="constant",
    )
    peers: dict[str, Callable[[], Any]] = {}
    about: dict[str, dict[str, Any]] = {"htf": {"parameters": network.n_parameters()}}
    training.advance()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for kind in KINDS if find_spec("cirkit") is not None else ():
        circuit = _circuit(kind, options.side, options.width)
        about[kind] = {"parameters": sum(parameter.numel() for parameter in circuit.parameters())}
        if kind == "cp-t":
            about[kind] |= _check_equal(circuit, options)
        peers[kind] = _peer_step(circuit, x)
    times = take_turns([training.advance, *peers.values()], options.turns, options.steps, CPU)
    sides = {name: about[name] | found for name, found in zip(("htf", *peers), times, strict=True)}
    return {"batch": len(x), "plan_ms": 1e3 * plan, "peak_GiB": peak, "sides": sides}


def sampling(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one sample."""
    density = htf.models.TensorDensity(levels=LEVELS, width=options.width, epochs=1, device="cpu")
    density.fit(torch.randint(0, LEVELS, (16, options.side, options.side), dtype=torch.uint8))
    found = {"htf": mean_seconds(lambda: density.sample(options.samples, seed=0), 1) / options.samples}
    if find_spec("cirkit") is not None:
        from cirkit.backend.torch.queries import SamplingQuery  # type: ignore[import-not-found,unused-ignore]

        draw = SamplingQuery(_circuit("cp-t", options.side, options.width))
        # It draws all units of all leaves, each beside as many zeros as there are pixels.
        found["cp-t"] = mean_seconds(lambda: draw(options.peer_samples), 1) / options.peer_samples
    return found


def _samples(options: argparse.Namespace) -> Tensor:
    """Levels (n, pixels) of training images, of the upper left corner of so many pixels."""
    images = image_parts(options.source, max(options.batches), 0, 1, options.data_dir)["train"][0]
    return images[:, : options.side, : options.side].flatten(1).long()


def _network(side: int, width: int) -> HTNetwork:
    tree = htf.DimensionTree.grid(side, side)
    start = torch.randint(0, LEVELS, (64, side * side), generator=torch.Generator().manual_seed(0))
    return HTNetwork(tree, LEVELS, width, init=distributions(start), seed=0, dtype=torch.float32)


def _shared(width: int) -> dict[str, Tensor]:
    """One matrix of distributions for all leaves, mostly of level 0, one for other nodes, a column for the root."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"leaf": (LEVELS, width), "inner": (width, width), "root": (width, 1)}
    logits = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    logits["leaf"][0] += 8
    return {name: each.softmax(0) for name, each in logits.items()}


def _circuit(kind: str, side: int, width: int) -> Any:
    from cirkit.pipeline import PipelineContext  # type: ignore[import-not-found,unused-ignore]
    from cirkit.templates import data_modalities, utils  # type: ignore[import-not-found,unused-ignore]

    softmax = utils.Parameterization(activation="softmax", initialization="normal")
    symbolic = data_modalities.image_data(
        (1, side, side),
        region_graph="quad-tree-4",
        input_layer="categorical",
        num_input_units=width,
        sum_product_layer=kind,
        num_sum_units=width,
        input_params={"probs": softmax},
        sum_weight_param=softmax,
    )
    return PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True).compile(symbolic)


@torch.no_grad()
def _check_equal(circuit: Any, options: argparse.Namespace) -> dict[str, float]:
    """The largest relative difference of log-likelihoods where both sides have the same matrices everywhere."""
    network, matrices = _network(options.side, options.width), _shared(options.width)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, LEVELS, (64, options.side**2), generator=generator)
    x[torch.rand(x.shape, generator=generator) > 0.03] = 0
    for block, weight in zip(network._layout.blocks, network.weights, strict=True):
        name = "leaf" if block.level == 0 else "inner" if weight.shape[-1] > 1 else "root"
        weight.copy_(matrices[name])
    for parameter in circuit.parameters():
        name = "leaf" if parameter.shape[-1] == LEVELS else "inner" if parameter.shape[-2] > 1 else "root"
        parameter.copy_(matrices[name].T.log())
    ours, theirs = network.log_abs(x)[1].flatten(), circuit(x).flatten()
    difference = float(((ours - theirs) / theirs).abs().max())
    if difference > 1e-5:
        raise RuntimeError(f"log-likelihoods differ by {difference:.1e} of their size")
    return {"likelihoods_differ": difference}


def _peer_step(circuit: Any, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(circuit.parameters(), lr=0.01)

    def step() -> None:
        loss = -circuit(x).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.densities.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", choices=("mnist", "fashion_mnist", "digits"), default="mnist")
    add("--side", type=int, default=28, help="pixels of the images along each side")
    add("--width", type=int, default=64)
    add("--batches", nargs="+", type=int, default=[256, 1024], help="images")
    add("--samples", type=int, default=256, help="drawn from our density")
    add("--peer-samples", type=int, default=2, help="drawn from the peer, which needs 0.3 GB for each at width 64")
    add("--turns", type=int, default=5)
    add("--steps", type=int, default=2, help="of a turn")
    add("--threads", type=int, default=2)
    add("--data-dir", help="folder of MNIST; otherwise HTF_DATA, or a download")
    add("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
