"""Cost of a training step: plain, with the papers' regularizer in the papers' code, and with this library's.

    python -m benchmarks.speed.long_range --imp-reg-htf CHECKOUT --json docs/results/long_range_cost.json

A step is forward, loss, regularizer, backward and a step of SGD with momentum on one batch; ours is that of
`htf.training.classify`.  The regularizers compare two random patches of 2×2 pixels.  All sides take turns, a few steps
each, and the number is the median over the turns; ratios are medians of ratios within a turn.  Without a checkout, the
papers' regularizer is that of this library (equal, see tests/regularizers) in a plain loop.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.long_range.recipes import MODELS, make_model, make_regularizer
from htf._files import write_json
from htf._machine import describe_machine, usable_device
from htf.datasets.long_range import LongRangeData, Split
from htf.regularizers import InputGradientChange, random_patches
from htf.training import Classification, ClassifySettings

from .peers import importable
from .timing import WARM, Step, take_turns

PLAIN, PAPERS = "plain", "input gradient change, the papers'"
OURS = (
    "igc",
    "igc:samples=16",
    "gradient_field:samples=8",
    "interaction:samples=4",
    "interaction:samples=8",
    "interaction:samples=16",
)


def main(arguments: list[str] | None = None) -> None:
    """Time all sides, print and write the report."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device = usable_device(options.device)
    data = _noise(options)
    with importable(options.imp_reg_htf) if options.imp_reg_htf else nullcontext():
        sides: dict[str, Step] = {PLAIN: _ours("none", data, options, device), PAPERS: _papers(data, options, device)}
        sides |= {spec: _ours(spec, data, options, device) for spec in options.ours}
        times = take_turns(list(sides.values()), options.turns, options.steps, device)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(device),
        "model": options.model,
        "images": [options.batch_size, options.channels, *options.size],
        "papers_code": options.imp_reg_htf is not None,
        "turns": options.turns,
        "steps_of_a_turn": options.steps,
        "steps": [{"what": what, **each} for what, each in zip(sides, times, strict=True)],
    }
    for row in report["steps"]:
        print(f"{row['what']:40} {row['ms']:9.1f} ms  {row['ratio']:5.2f}")
    if options.json:
        write_json(options.json, report)


def _noise(options: argparse.Namespace) -> LongRangeData:
    """So many images that no epoch ends while time is taken."""
    generator = torch.Generator().manual_seed(0)
    count = (options.turns * options.steps + WARM + 1) * options.batch_size
    images = torch.randint(0, 256, (count, options.channels, *options.size), dtype=torch.uint8, generator=generator)
    none = Split(images[:0], torch.zeros(0, dtype=torch.int64))
    return LongRangeData("noise", Split(images, torch.arange(count) % 2), none, none, {})


def _ours(spec: str, data: LongRangeData, options: argparse.Namespace, device: torch.device) -> Step:
    training = Classification(
        make_model(options.model, data),
        data,
        ClassifySettings(batch_size=options.batch_size),
        regularizer=make_regularizer(spec, 1.0, data, seed=0),
        device=device,
    )
    return training.advance


def _papers(data: LongRangeData, options: argparse.Namespace, device: torch.device) -> Step:
    """Their trainer's update, or the same with this library's regularizer."""
    model = make_model(options.model, data).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    size = options.batch_size
    batches = (
        (x.to(device), y.to(device)) for x, y in (data.train[k : k + size] for k in range(0, len(data.train), size))
    )
    if options.imp_reg_htf is not None:
        trainer = _papers_trainer(model, optimizer, device)
        return lambda: trainer.batch_update(0, next(batches), 1)
    regularizer = InputGradientChange(random_patches(2))

    def step() -> None:
        x, y = next(batches)
        x.requires_grad_()
        out = model(x)
        loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y.float()) + regularizer(model, x, y, out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _papers_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Any:
    from locality_bias.train import (  # type: ignore[import-not-found]
        input_grad_change_regularization_trainer as papers,
    )

    return papers.InputGradChangeRegularizationTrainer(
        model,
        optimizer,
        nn.BCEWithLogitsLoss(),
        papers.get_sample_rand_first_patch_func(2),
        papers.get_sample_rand_second_patch_func(2, 0),
        papers.get_shuffle_patch_func(),
        reg_coeff=1.0,
        device=device,
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imp-reg-htf", type=Path, help="checkout of asafmaman101/imp_reg_htf")
    parser.add_argument("--model", choices=MODELS, default="small_resnet")
    parser.add_argument("--size", nargs=2, type=int, default=[48, 48], help="height and width")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--ours", nargs="+", default=list(OURS), help="regularizers, see benchmarks/long_range/recipes.py"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
