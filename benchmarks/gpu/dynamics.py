"""Training iterations of matrix, CP and HT factorizations at the papers' sizes: one seed, ten together, as graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import htf
from benchmarks.speed.timing import kernels_of, seconds_of
from htf.datasets import CompletionProblem, tensor_completion
from htf.nn.init import gaussian
from htf.training import Training, objectives

from .run import Bench

SEEDS = 10
WARM = 30  # steps in which graphs are captured


def run(bench: Bench) -> dict[str, Any]:
    """Milliseconds of an iteration of `htf.training.fit`, and whether graphs change a bit of it."""
    rows, found, equal = [], [], True
    for name, problem, make in _cases(bench):
        times: dict[tuple[str, int], float] = {}
        count = None
        for runs in (1, SEEDS):
            for kind in ("eager", "graphs") if bench.device.type == "cuda" else ("eager",):
                with without_graphs() if kind == "eager" else _as_it_is():
                    training = _begun(make(runs), problem)
                times[kind, runs] = 1e3 * seconds_of(training.advance, bench.device, 0.1 if bench.tiny else 0.5)
                if runs == 1 and kind == "eager":
                    count = kernels_of(training.advance, bench.device)
        if bench.device.type == "cuda":
            same = _equal(make, problem)
            equal &= same
            rows.append({"what": f"{name}, 60 steps, graphs and eager", "figure": "equal" if same else "DIFFERENT"})
        for kind in ("eager", "graphs"):
            if (kind, 1) not in times:
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
    return {"ok": equal, "rows": rows, "iterations": found}


@contextmanager
def without_graphs() -> Iterator[None]:
    """Trainings that begin here take every step operation by operation."""
    with mock.patch("htf.training._gradients.LEAST_REPLAYS", 10**12):
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _begun(network: Any, problem: CompletionProblem) -> Training:
    """A training after its first steps, that records nothing for long."""
    training = Training(network, objectives.entries(problem), optimizer="group_rmsprop", lr=1e-3, every=10**9)
    training.begin(steps=10**9)
    for _ in range(WARM):
        training.advance()
    return training


def _equal(make: Callable[[int], Any], problem: CompletionProblem) -> bool:
    graphed, eager = make(2), make(2)
    with_graphs = htf.training.fit(graphed, problem, lr=1e-3, steps=60)
    with without_graphs():
        plain = htf.training.fit(eager, problem, lr=1e-3, steps=60)
    pairs = zip(graphed.parameters(), eager.parameters(), strict=True)
    return torch.equal(with_graphs.loss, plain.loss) and all(torch.equal(a, b) for a, b in pairs)


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
