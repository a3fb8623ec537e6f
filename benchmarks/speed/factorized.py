"""Time of a training step of one layer: plain, factorized here, and by tensorly-torch where it is installed.

    python -m benchmarks.speed.factorized --json docs/results/factorized_speed.json

A step is forward, the sum of the squared outputs, backward and a step of SGD: a linear layer 784 -> 512 and a
convolution 64 -> 64 of 3×3 on images of 16×16, batches of 64, factors that hold a share of the weight's numbers.
tensorly-torch has the same ranks and its default contraction, "factorized"; it has no HT, and "ht" there is that of
`htf.tltorch`, which reconstructs the weight.  All sides take turns, a few steps each, and the number is the median over
the turns; ratios are medians of ratios to the plain layer within a turn.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tensorly as tl
import torch
from torch import Tensor, nn

from htf._files import write_json
from htf._machine import describe_machine, usable_device
from htf.nn import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.factorized.choice import NAMES

from .peers import version_of
from .timing import Step, take_turns

PLAIN, OURS, PEER = "plain", "htf", "tensorly-torch"
Ours = FactorizedLinear | FactorizedConv2d


def main(arguments: list[str] | None = None) -> None:
    """Time all sides, print and write the report."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device = usable_device(options.device)
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    # tensorly-torch computes with the backend that is set.
    with tl.backend_context("pytorch"):
        for kind in options.kinds:
            x = torch.randn(_input_shape(kind, options), generator=generator).to(device)
            for share in options.shares:
                rows += _measured(kind, share, x, options, device)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(device),
        "batch": options.batch,
        "features": options.features,
        "channels": options.channels,
        "image": options.image,
        "turns": options.turns,
        "steps_of_a_turn": options.steps,
        "steps": rows,
    }
    report["versions"] |= {name: version_of(name) for name in ("opt_einsum", "tensorly-torch")}
    if options.json:
        write_json(options.json, report)


def _measured(
    kind: str, share: float, x: Tensor, options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    sides: list[tuple[str, str, nn.Module]] = [(PLAIN, "", _plain(kind, options))]
    for name in options.formats:
        ours = _ours(kind, name, share, options)
        sides.append((OURS, name, ours))
        theirs = _peer(ours)
        if theirs is not None:
            sides.append((PEER, name, theirs))
    steps = [_step(layer.to(device), x) for _, _, layer in sides]
    times = take_turns(steps, options.turns, options.steps, device)
    rows = []
    for (side, name, layer), each in zip(sides, times, strict=True):
        row: dict[str, Any] = {
            "layer": kind,
            "share": share,
            "format": name,
            "side": side,
            "numbers": sum(p.numel() for p in layer.parameters()),
            "applies": getattr(layer, "applies", None),
            **each,
        }
        print("{layer:7} {share:4} {format:7} {side:15} {numbers:8} {ms:9.2f} ms {ratio:6.2f}".format(**row))
        rows.append(row)
    return rows


def _step(layer: nn.Module, x: Tensor) -> Step:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)

    def step() -> None:
        loss = layer(x).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _input_shape(kind: str, options: argparse.Namespace) -> Sequence[int]:
    if kind == "linear":
        return options.batch, options.features[0]
    return options.batch, options.channels[0], *options.image


def _plain(kind: str, options: argparse.Namespace) -> nn.Module:
    if kind == "linear":
        return nn.Linear(*options.features)
    return nn.Conv2d(options.channels[0], options.channels[1], 3, padding=1)


def _ours(kind: str, name: str, share: float, options: argparse.Namespace) -> Ours:
    if kind == "linear":
        return FactorizedLinear(*options.features, format=name, rank=share, seed=0)
    return FactorizedConv2d(options.channels[0], options.channels[1], 3, padding=1, format=name, rank=share, seed=0)


def _peer(ours: Ours) -> Any:
    """The layer of tensorly-torch of the same ranks, where there is one."""
    if find_spec("tltorch") is None or ours.format == "matrix":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tltorch import FactorizedConv, FactorizedLinear  # type: ignore[import-not-found,unused-ignore]

        import htf.tltorch  # noqa: F401

    rank: Any = ours.rank[0] if ours.format == "cp" else ours.rank
    layer: Any
    if isinstance(ours.shape[0], tuple):
        outs, ins = ours.shape
        kind = "blocktt" if ours.format == "tt" else ours.format
        layer = FactorizedLinear(ins, outs, factorization=kind, rank=rank)
        return layer
    if ours.format == "ht":
        return None  # balanced trees join other modes there
    # Its train is in the order (in, rows, columns, out).
    rank = rank[::-1] if ours.format == "tt" else rank
    layer = FactorizedConv(
        ours.shape[1], ours.shape[0], (3, 3), padding=1, bias=True, factorization=ours.format, rank=rank
    )
    layer.reset_parameters()
    return layer


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("linear", "conv"), default=["linear", "conv"])
    parser.add_argument("--formats", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--features", nargs=2, type=int, default=[784, 512], help="of the linear layer")
    parser.add_argument("--channels", nargs=2, type=int, default=[64, 64], help="of the convolution")
    parser.add_argument("--image", nargs=2, type=int, default=[16, 16], help="height and width")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
