"""Cost of a training step with over-parameterized layers: plain, ours, our layers' chain, and the peer's layers.

    python -m benchmarks.speed.overparam --overparam CHECKOUT --json docs/results/overparam_speed.json

A step is forward, cross entropy, backward and a step of SGD with momentum on one batch of random images; the net is
`htf.nn.small_resnet`, of 16-16-32-64-64 channels.  In "effective weight" every convolution and linear layer is
over-parameterized by `htf.overparameterize`, as it trains by default; "chain" runs the factors of the same layers in
turn; "overparam" are the layers of minyoungg/overparam, which run the chain in training, of the same hidden widths.

All sides take turns, a few steps each, and the number is the median over the turns; ratios are medians of ratios within
a turn.  Memory is measured in a fresh process for every side: by how much its resident set during some steps exceeds
that before the model was made (on a GPU: the most that torch had allocated), data and optimizer included; on Linux.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from htf._files import write_json
from htf._machine import describe_machine, usable_device
from htf.nn import OverparamConv2d, OverparamLinear, small_resnet
from htf.surgery import overparameterize

from .peers import importable
from .timing import WARM, Step, take_turns

ROOT = Path(__file__).parents[2]
PLAIN, EFFECTIVE, CHAIN, PEER = "plain", "effective weight", "chain", "overparam"


def main(arguments: list[str] | None = None) -> None:
    """Measure all sides, print and write the report."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(_memory(options))
        return
    device = usable_device(options.device)
    rows = [row for size in options.sizes for row in _compare(size, options)]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(device),
        "batch_size": options.batch_size,
        "strides": options.strides,
        "turns": options.turns,
        "steps_of_a_turn": options.steps,
        "memory": "not measured"
        if options.no_memory
        else "largest resident set of a fresh process during steps, less that before the model was made"
        if device.type == "cpu"
        else "largest allocation by torch in a fresh process",
        "rows": rows,
    }
    if options.json:
        write_json(options.json, report)


def _compare(size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time and memory of each side at one size of images."""
    sides = [(PLAIN, 1)] + [(what, depth) for what in (EFFECTIVE, CHAIN, PEER) for depth in options.depths]
    sides = [side for side in sides if side[0] != PEER or options.overparam]
    models = [_model(what, depth, options) for what, depth in sides]
    steps = [_step(model, size, options) for model in models]
    times = take_turns(steps, options.turns, options.steps, usable_device(options.device))
    memory = [0 if options.no_memory else _memory_apart(what, depth, size, options) for what, depth in sides]
    rows = []
    for k, (what, depth) in enumerate(sides):
        row: dict[str, Any] = {"what": what, "depth": depth, "size": size}
        row["parameters"] = sum(parameter.numel() for parameter in models[k].parameters())
        row |= times[k]
        text = f"{size}×{size}  {what:17} depth {depth} {row['ms']:9.1f} ms  {row['ratio']:5.2f}"
        if not options.no_memory:
            row["memory_mb"], row["memory_ratio"] = memory[k] / 1e6, memory[k] / memory[0]
            text += f"{row['memory_mb']:9.1f} MB  {row['memory_ratio']:5.2f}"
        print(text)
        rows.append(row)
    return rows


def _model(what: str, depth: int, options: argparse.Namespace) -> nn.Module:
    model: nn.Module = small_resnet(3, 10, strides=options.strides, seed=0)
    if what == PEER:
        _peer(model, depth, options.overparam)
    elif what != PLAIN:
        model = overparameterize(model, depth, seed=0)
    if what == CHAIN:
        for layer in model.modules():
            if isinstance(layer, OverparamConv2d | OverparamLinear):
                layer.forward = layer.chain  # type: ignore[method-assign]
    return model.to(usable_device(options.device)).train()


def _peer(model: nn.Module, depth: int, checkout: Path) -> None:
    with importable(checkout):
        from overparam.utils import overparameterize  # type: ignore[import-not-found]

        overparameterize(model, depth=depth, width=1)


def _step(model: nn.Module, size: int, options: argparse.Namespace) -> Step:
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    images = torch.randn(options.batch_size, 3, size, size, generator=generator).to(device)
    labels = torch.randint(10, (options.batch_size,), generator=generator).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _memory_apart(what: str, depth: int, size: int, options: argparse.Namespace) -> int:
    """Bytes that a side needs, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.overparam", "--memory-of", what]
    command += ["--depths", str(depth), "--sizes", str(size)]
    for name in ("batch_size", "threads", "steps", "device", "overparam"):
        if getattr(options, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--strides", *map(str, options.strides)]
    # Freed memory goes back to the system at once, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {what} failed:\n{done.stderr}")
    return int(done.stdout)


def _memory(options: argparse.Namespace) -> int:
    """Bytes that a side needs in this process, which must have done nothing else yet."""
    cuda = options.device.startswith("cuda")
    before = 0 if cuda else _resident("VmRSS")
    model = _model(options.memory_of, options.depths[0], options)
    step = _step(model, options.sizes[0], options)
    if not cuda:
        # Importing may have needed more than a step does.
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(WARM + options.steps):
        step()
    return torch.cuda.max_memory_allocated() if cuda else _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Of this process, as Linux tells it: VmRSS now, VmHWM at most since the last reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overparam", type=lambda text: Path(text).absolute(), help="checkout of minyoungg/overparam")
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 48], help="height and width of the images")
    parser.add_argument("--strides", nargs=5, type=int, default=[2, 1, 2, 2, 1], help="of the stem and the blocks")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    parser.add_argument("--memory-of", choices=[PLAIN, EFFECTIVE, CHAIN, PEER], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
