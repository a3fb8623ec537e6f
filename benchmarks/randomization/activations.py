"""Networks of 2n + d weights by activation: how exactly they take their values, and how well conditioned that is.

    python -m benchmarks.randomization.activations --json docs/results/finite_sample.json

For random points, n of d dimensions, with labels 0 to 9 drawn for them: the largest error at the points, the condition
number of the hidden units and the largest output weight of `htf.nn.finite_sample_network`, in float64.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.series import command
from htf._files import write_json
from htf._machine import describe_machine
from htf.nn import finite_sample_network

ACTIVATIONS = ("relu", "leaky_relu", "elu", "tanh", "sigmoid")


def measure(points: int, dimensions: int, activation: str, seed: int) -> dict[str, Any]:
    """A row of the table."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, dimensions, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (points,), generator=generator)
    network = finite_sample_network(x, y, activation=activation, seed=seed)
    with torch.no_grad():
        return {
            "points": points,
            "dimensions": dimensions,
            "activation": activation,
            "seed": seed,
            "error": float((network(x) - y).abs().max()),
            "condition": float(torch.linalg.cond(network.hidden(x))),
            "largest_weight": float(network.w.abs().max()),
        }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for points in options.points:
        for dimensions in options.dimensions:
            for activation in ACTIVATIONS:
                found = [measure(points, dimensions, activation, seed) for seed in options.seeds]
                rows += found
                worst = {name: max(row[name] for row in found) for name in ("error", "condition")}
                print(
                    f"n {points:5}, d {dimensions:4}, {activation:10}: error at most {worst['error']:.1e}, condition "
                    f"number at most {worst['condition']:.1e}",
                    flush=True,
                )
    if options.json is not None:
        write_json(options.json, {"machine": describe_machine(torch.device("cpu")), "rows": rows})


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("randomization.activations", __doc__)
    add = parser.add_argument
    add("--points", nargs="+", type=int, default=[10, 100, 1000])
    add("--dimensions", nargs="+", type=int, default=[1, 10, 784])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--threads", type=int, default=1)
    add("--json", type=Path, help="file to write the rows to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
