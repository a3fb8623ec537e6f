"""Training steps of a ResNet-18 on images of the long-range tasks, with each regularizer, against plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import htf
from benchmarks.speed.timing import seconds_of
from htf.regularizers import GradientFieldChange, InputGradientChange, Interaction, random_patches

from .limits import allowing_tf32
from .run import Bench


def run(bench: Bench) -> dict[str, Any]:
    """Milliseconds of a step of SGD with momentum on a batch of 64 images of 150×150, and ratios to plain."""
    size, batch = (32, 8) if bench.tiny else (150, 64)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 1, size, size, generator=generator).to(bench.device)
    y = (torch.arange(batch) % 2).to(bench.device)
    rows, found = [], []
    for tf32 in (False, True) if bench.device.type == "cuda" else (False,):
        plain = None
        for name, regularizer in _regularizers().items():
            if bench.left() < 1:
                rows.append({"what": name, "figure": "no time left"})
                continue
            with allowing_tf32(tf32):
                ms = 1e3 * seconds_of(_step(bench, regularizer, x, y), bench.device, 0.05 if bench.tiny else 0.5)
            plain = ms if plain is None else plain
            kind = "tf32" if tf32 else "float32"
            found.append({"what": name, "kind": kind, "ms": ms, "ratio": ms / plain})
            what = f"{'small ResNet' if bench.tiny else 'ResNet-18'}, {batch} images of {size}x{size}, {kind}, {name}"
            rows.append({"what": what, "figure": f"{ms:.2f} ms", "limit": f"{ms / plain:.2f} plain steps"})
    return {"rows": rows, "steps": found}


def _regularizers() -> dict[str, Any]:
    patches = random_patches(2)
    return {
        "plain": None,
        "InputGradientChange": InputGradientChange(patches, seed=0),
        "InputGradientChange, 16 samples": InputGradientChange(patches, samples=16, seed=0),
        "GradientFieldChange, 8 samples": GradientFieldChange(2, samples=8, seed=0),
        "Interaction, 8 samples": Interaction(patches, samples=8, seed=0),
    }


def _step(bench: Bench, regularizer: Any, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    torch.manual_seed(0)
    model: nn.Module = htf.nn.small_resnet() if bench.tiny else htf.nn.resnet18(channels=1)
    model.to(bench.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    twice = isinstance(regularizer, InputGradientChange) and regularizer.samples is None

    def step() -> None:
        images = x.detach().requires_grad_(twice)
        out = model(images)
        loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y.float())
        if regularizer is not None:
            loss = loss + regularizer(model, images, y, out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
