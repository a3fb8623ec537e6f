"""The rank-fit probe at its published size: ten classes, CP ranks 1 to 15, true and random labels, random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import htf
from benchmarks.speed.timing import kernels_of, seconds_of, synchronize
from htf.datasets import TWINS, ImageData, load, one_vs_all, quantize
from htf.training.graphs import CapturedGradients

from .limits import allowing_tf32
from .run import Bench

RANKS = tuple(range(1, 16))
TOLD = (1, 5, 10, 15)
LABELS = ("original", "random_labels")  # twins that share their images
RATE, BATCH, EPOCHS = 5e-4, 5_000, 10_000  # as published
PUBLISHED = {  # mean squared train errors at ranks 1, 5, 10, 15
    ("mnist", "original"): (0.023, 0.008, 0.004, 0.003),
    ("mnist", "random_images"): (0.089, 0.058, 0.032, 0.014),
    ("mnist", "random_labels"): (0.089, 0.074, 0.057, 0.043),
    ("fashion_mnist", "original"): (0.034, 0.017, 0.010, 0.008),
    ("fashion_mnist", "random_labels"): (0.089, 0.069, 0.048, 0.034),
}


@dataclass
class Fits:
    """All fits to one set of images, trained together.

    Attributes
    ----------
    name : str
        Of the data set.
    twins : tuple of str
        Blocks of columns of the targets.
    network : CPNetwork
        Runs: twins × classes × ranks.
    batches : list of (Plan, Tensor)
        Targets (batch, twins × classes), one column for all ranks.
    """

    name: str
    twins: tuple[str, ...]
    network: htf.nn.CPNetwork
    batches: list[tuple[htf.engine.Plan, Tensor]]

    def losses(self, plan: htf.engine.Plan, targets: Tensor) -> Tensor:
        """Mean squared error of each run, (runs,)."""
        return (self.network(plan).unflatten(1, (-1, len(RANKS))) - targets.unsqueeze(2)).square().mean(0).flatten()

    def multiplications(self) -> int:
        """Of matrix products in an epoch: codes times components, and the transpose for the gradients."""
        components = sum(self.network.ranks)
        return 2 * sum(len(plan) for plan, _ in self.batches) * self.network.order * components


def run(bench: Bench) -> dict[str, Any]:
    """Time epochs eagerly and as graphs, then train as far as the time goes; HT epochs beside."""
    rows: list[dict[str, str]] = []
    content: dict[str, Any] = {"rows": rows, "batch": BATCH, "rate": RATE}
    data = images_of(bench, "mnist")
    content["data"] = data.name
    content["epochs_ms"] = _epochs(bench, data, rows)
    content["ht"] = _ht(bench, data, rows)
    names = [name for name in ("mnist", "fashion_mnist") if bench.data_dir is not None] or ["mnist"]
    groups = [(name, twins) for name in names for twins in (LABELS, ("random_images",))]
    # Two sets of fits share the true images, so that they take twice the time of the others.
    shares = [len(twins) for _, twins in groups]
    trained = []
    for k, (name, twins) in enumerate(groups):
        left = bench.left() * shares[k] / sum(shares[k:])
        trained.append(_train(_fits(bench, images_of(bench, name), twins), bench, left, rows))
    content["trained"] = trained
    return content


def _epochs(bench: Bench, data: ImageData, rows: list[dict[str, str]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for tf32 in (False, True) if bench.device.type == "cuda" else (False,):
        with allowing_tf32(tf32):
            kind = "tf32" if tf32 else "float32"
            fits = _fits(bench, data, LABELS)
            limit = 2 * fits.multiplications() / bench.limits.get(f"{kind}_per_s", float("nan"))
            steps = {"eager": _eager(fits)}
            if bench.device.type == "cuda":
                found[f"{kind} kernels a step"] = (
                    kernels_of(partial(steps["eager"], *fits.batches[0]), bench.device) or 0
                )
                steps["graphs"] = _graphed(fits)
            for name, step in steps.items():
                seconds = seconds_of(partial(_epoch, step, fits.batches), bench.device, 1.0)
                found[f"{kind} {name}"] = 1e3 * seconds
                rows.append(
                    {
                        "what": f"CP probe epoch, {fits.network.runs} fits, {kind}, {name}",
                        "figure": f"{1e3 * seconds:.2f} ms",
                        "limit": f"{1e3 * limit:.2f} ms of matrix products",
                    }
                )
    return found


def _ht(bench: Bench, data: ImageData, rows: list[dict[str, str]]) -> dict[str, float]:
    images = quantize(data.train_images, 2, data.maximum).to(bench.device)
    targets = one_vs_all(data.train_labels, 6).to(bench.device).unsqueeze(1)
    network = htf.nn.HTNetwork(htf.DimensionTree.grid(*data.image_size), 2, 16, seed=0, device=bench.device)
    plans = [network.plan(part) for part in images.split(BATCH)]
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    memory = sum(2 * plan.peak_bytes for plan in plans) / bench.limits.get("bytes_per_s", float("nan"))
    batches = list(zip(plans, targets.split(BATCH), strict=True))

    def losses(plan: htf.engine.Plan, y: Tensor) -> Tensor:
        return (network(plan) - y).square().mean(0)

    found = {}
    steps: dict[str, Callable[[Any, Tensor], Tensor]] = {"eager": _stepping(losses, optimizer)}
    if bench.device.type == "cuda":
        steps["graphs"] = _capturing(losses, optimizer, batches)
    for name, step in steps.items():
        seconds = seconds_of(partial(_epoch, step, batches), bench.device)
        found[name] = 1e3 * seconds
        rows.append(
            {
                "what": f"HT probe epoch, width 16, one fit, {name}",
                "figure": f"{1e3 * seconds:.2f} ms",
                "limit": f"{1e3 * memory:.2f} ms to write and read activations",
            }
        )
    return found


def _train(fits: Fits, bench: Bench, seconds: float, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Full epochs until the time is up; the mean error over classes at the last of them."""
    with allowing_tf32(True):
        step = _graphed(fits) if bench.device.type == "cuda" else _eager(fits)
        synchronize(bench.device)
        until = bench.left() - 0.9 * seconds
        generator = torch.Generator().manual_seed(0)
        epochs, limit = 0, 5 if bench.tiny else EPOCHS
        while epochs < limit and (bench.left() > until or not epochs):
            for k in torch.randperm(len(fits.batches), generator=generator).tolist():
                step(*fits.batches[k])
            epochs += 1
            if epochs % 20 == 0:
                synchronize(bench.device)  # the host would run ahead of the clock
        with torch.no_grad():
            samples = sum(len(y) for _, y in fits.batches)
            errors = sum(fits.losses(plan, y) * len(y) for plan, y in fits.batches) / samples
    assert isinstance(errors, Tensor)
    by_rank = errors.view(len(fits.twins), -1, len(RANKS)).mean(1).tolist()
    found: dict[str, Any] = {"data": fits.name, "epochs": epochs, "finite": bool(errors.isfinite().all())}
    for twin, means in zip(fits.twins, by_rank, strict=True):
        found[twin] = dict(zip(RANKS, means, strict=True))
        told = ", ".join(f"{means[RANKS.index(rank)]:.4f}" for rank in TOLD)
        published = PUBLISHED.get((fits.name, twin))
        rows.append(
            {
                "what": f"{fits.name}, {twin}: train error at ranks {TOLD} after {epochs} epochs",
                "figure": told,
                "limit": "" if published is None else f"published, {EPOCHS:,} epochs: {', '.join(map(str, published))}",
            }
        )
    return found


def _fits(bench: Bench, data: ImageData, twins: tuple[str, ...]) -> Fits:
    made = [TWINS[twin](data, 0) for twin in twins]
    images = quantize(made[0].train_images, 2, data.maximum).to(bench.device)
    labels = [twin.train_labels for twin in made]
    classes = range(2 if bench.tiny else 10)
    targets = torch.stack([one_vs_all(y, positive) for y in labels for positive in classes], 1).to(bench.device)
    order = images.shape[1]
    init = htf.nn.init.gaussian(1.0, 1e-3)
    ranks = list(RANKS) * targets.shape[1]
    network = htf.nn.CPNetwork([2] * order, ranks, init=init, seed=0, device=bench.device)
    plans = [network.plan(part) for part in images.split(BATCH)]
    return Fits(data.name, twins, network, list(zip(plans, targets.split(BATCH), strict=True)))


Step = Callable[[Any, Tensor], Tensor]


def _eager(fits: Fits) -> Step:
    return _stepping(fits.losses, torch.optim.Adam(fits.network.parameters(), lr=RATE, fused=True))


def _graphed(fits: Fits) -> Step:
    return _capturing(fits.losses, torch.optim.Adam(fits.network.parameters(), lr=RATE, fused=True), fits.batches)


def _epoch(step: Step, batches: list[tuple[Any, Tensor]]) -> None:
    for plan, y in batches:
        step(plan, y)


def _stepping(losses: Step, optimizer: torch.optim.Optimizer) -> Step:
    def step(plan: Any, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        found = losses(plan, y)
        found.sum().backward()
        optimizer.step()
        return found.detach()

    return step


def _capturing(losses: Step, optimizer: torch.optim.Optimizer, batches: list[tuple[Any, Tensor]]) -> Step:
    """A graph for each batch, all in one pool of memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    graphs: dict[int, CapturedGradients] = {}
    pool = None
    for plan, y in batches:
        graphs[id(plan)] = CapturedGradients(partial(losses, plan, y), parameters, pool)
        pool = graphs[id(plan)].pool

    def step(plan: Any, y: Tensor) -> Tensor:
        found = graphs[id(plan)]()
        optimizer.step()
        return found

    return step


def images_of(bench: Bench, name: str) -> ImageData:
    """A data set of the folder that was given, or as many blurred noises; few when tiny."""
    if bench.data_dir is not None:
        data = load(name, bench.data_dir)
        return data.take(300) if bench.tiny else data
    count = 300 if bench.tiny else 60_000
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 1, 14, 14, generator=generator)
    images = torch.nn.functional.interpolate(noise, scale_factor=2).squeeze(1).mul(255).to(torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData("blobs", images, labels, images[:10], labels[:10])
