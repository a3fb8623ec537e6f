"""Training iterations of matrix, CP and HT factorizations at the papers' sizes: one seed, ten together, as graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import htf
from benchmarks.speed.timing import kernels_of, seconds_of
from htf.datasets import CompletionProblem, tensor_completion
from htf.nn.init import gaussian
from htf.training import GroupRMSprop
from htf.training.graphs import CapturedGradients

from .run import Bench

SEEDS = 10


def run(bench: Bench) -> dict[str, Any]:
    """Milliseconds of an iteration: forward, loss, backward, step of `GroupRMSprop`."""
    rows, found = [], []
    for name, problem, make in _cases(bench):
        times: dict[tuple[str, int], float] = {}
        for runs in (1, SEEDS):
            network = make(runs)
            plan, targets = network.plan(problem.indices), problem.values.to(network.dtype).unsqueeze(1)
            optimizer = GroupRMSprop(network, lr=1e-3)

            def losses(network: Any = network, plan: Any = plan, targets: Any = targets) -> torch.Tensor:
                return (network(plan) - targets).square().mean(0)

            steps: dict[str, Callable[[], Any]] = {"eager": _eager(losses, network, optimizer)}
            if bench.device.type == "cuda":
                try:
                    steps["graphs"] = _graphed(losses, network, optimizer)
                except RuntimeError as error:
                    rows.append(
                        {"what": f"{name}, {runs} seeds, graphs", "figure": f"not captured: {str(error)[:200]}"}
                    )
            for kind, step in steps.items():
                times[kind, runs] = 1e3 * seconds_of(step, bench.device, 0.1 if bench.tiny else 0.5)
            if runs == 1:
                count = kernels_of(steps["eager"], bench.device)
        for kind in ("eager", "graphs"):
            if (kind, 1) not in times or (kind, SEEDS) not in times:
                continue
            one, ten = times[kind, 1], times[kind, SEEDS]
            found.append({"what": name, "kind": kind, "one_ms": one, "ten_ms": ten, "kernels": count})
            rows.append(
                {
                    "what": f"{name}, iteration, {kind}",
                    "figure": f"{one:.3f} ms; {SEEDS} seeds {ten:.3f} ms, {ten / one:.2f} times",
                    "limit": "" if count is None else f"{count} kernels eagerly",
                }
            )
    return {"rows": rows, "iterations": found}


def _eager(losses: Callable[[], torch.Tensor], network: Any, optimizer: GroupRMSprop) -> Callable[[], None]:
    def step() -> None:
        for parameter in network.parameters():
            parameter.grad = None
        losses().sum().backward()
        optimizer.step()

    return step


def _graphed(losses: Callable[[], torch.Tensor], network: Any, optimizer: GroupRMSprop) -> Callable[[], None]:
    captured = CapturedGradients(losses, network.parameters())

    def step() -> None:
        captured()
        optimizer.step()

    return step


def _cases(bench: Bench) -> list[tuple[str, CompletionProblem, Callable[[int], Any]]]:
    device, small = bench.device, bench.tiny
    observed = 100 if small else 2048
    start: dict[str, Any] = {"init": gaussian(std=0.05), "seed": 0, "device": device}
    dim, components, width = (16, 8, 8) if small else (64, 256, 512)
    matrix = tensor_completion((dim, dim), "matrix", rank=5, observed=observed, norm=dim, seed=0, device=device)
    cube = tensor_completion((16,) * 3, "cp", rank=5, observed=observed, norm=64, seed=0, device=device)
    tree = tensor_completion((8,) * 4, "ht", rank=5, observed=observed, norm=64, seed=0, device=device)
    return [
        (
            f"MF {dim}x{dim}, depth 3",
            matrix,
            lambda runs: htf.nn.MatrixFactorization((dim, dim), 3, runs=runs, **start),
        ),
        (
            f"CP 16^3, {components} components",
            cube,
            lambda runs: htf.nn.CPNetwork((16,) * 3, components, runs=runs, **start),
        ),
        (f"HT 8^4, width {width}", tree, lambda runs: htf.nn.HTNetwork(tree.tree, 8, width, runs=runs, **start)),
    ]
