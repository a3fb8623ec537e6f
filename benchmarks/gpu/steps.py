"""Training steps that should run ahead on the device: what makes them wait for the host, if anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import htf
from benchmarks.speed.timing import synchronize

from .run import Bench


def synchronizations(bench: Bench) -> dict[str, str]:
    """From each step's name to what it waits for; "" for nothing, as always on a CPU."""
    found = {}
    for name, step in _steps(bench):
        for _ in range(3):  # regularizers look at values in calls 0, 1, 2, 4, ... only
            step()
        synchronize(bench.device)
        found[name] = _first_wait(step) if bench.device.type == "cuda" else ""
    return found


def _first_wait(step: Callable[[], Any]) -> str:
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return _place(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def _place(error: RuntimeError) -> str:
    """Where in the library a call waited."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/htf/" in file:
            place = f"{file.rsplit('/htf/', 1)[1]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{str(error).splitlines()[0][:80]} ({place or 'outside the library'})"


def _steps(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    device, tree = bench.device, htf.DimensionTree
    for name, network in (
        ("CP 2^64", htf.nn.CPNetwork((2,) * 64, [1, 7, 3], seed=0, device=device)),
        ("CP 16^3", htf.nn.CPNetwork((16,) * 3, 9, seed=0, device=device)),
        ("HT balanced", htf.nn.HTNetwork(tree.balanced(8), 4, 6, runs=2, seed=0, device=device)),
        ("HT grid", htf.nn.HTNetwork(tree.grid(8, 8), 2, 6, seed=0, device=device)),
        ("MF", htf.nn.MatrixFactorization((9, 7), 3, seed=0, device=device)),
    ):
        dims = network.dims
        generator = torch.Generator().manual_seed(0)
        indices = torch.stack([torch.randint(0, dim, (200,), generator=generator) for dim in dims], 1).to(device)
        vectors = torch.rand(40, len(dims), max(dims), generator=generator).to(device)
        yield f"{name}, plan", _step(network, network.plan(indices))
        yield f"{name}, vectors", _step(network, vectors)
        yield (
            f"{name}, GroupRMSprop",
            _step(network, network.plan(indices), htf.training.GroupRMSprop(network, lr=1e-3)),
        )
    relative = htf.nn.HTNetwork(tree.grid(8, 8), 2, 6, seed=0, device=device)
    pixels = torch.randint(0, 2, (200, 64), generator=torch.Generator().manual_seed(0)).to(device)
    yield "HT grid, RelativeAdam", _step(relative, relative.plan(pixels), htf.training.RelativeAdam(relative, step=0.1))
    for name in ("matrix", "tucker", "tt", "ht", "cp"):
        layer = htf.nn.FactorizedLinear(24, 16, format=name, rank=0.5, seed=0).to(device)
        yield f"linear, {name}", _step(layer, torch.rand(10, 24, device=device))
    deep = htf.nn.OverparamConv2d(4, 4, 3, depth=3, seed=0).to(device)
    yield "convolution, over-parameterized", _step(deep, torch.rand(2, 4, 8, 8, device=device))
    yield from _regularized(device)


def _regularized(device: torch.device) -> Iterator[tuple[str, Callable[[], Any]]]:
    model: nn.Module = htf.nn.small_resnet().to(device)
    x, y = torch.rand(8, 1, 32, 32, device=device), (torch.arange(8) % 2).to(device)
    patches = htf.regularizers.random_patches(2)
    for regularizer in (
        htf.regularizers.InputGradientChange(patches, seed=0),
        htf.regularizers.GradientFieldChange(2, samples=4, seed=0),
        htf.regularizers.Interaction(patches, samples=4, seed=0),
    ):

        def step(regularizer: Any = regularizer) -> None:
            images = x.detach().requires_grad_()
            out = model(images)
            loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y.float())
            (loss + regularizer(model, images, y, out)).backward()
            model.zero_grad()

        yield f"small ResNet, {type(regularizer).__name__}", step


def _step(model: nn.Module, inputs: Any, optimizer: torch.optim.Optimizer | None = None) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True) if optimizer is None else optimizer

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean(0).sum().backward()
        optimizer.step()

    return step
