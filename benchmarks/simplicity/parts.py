"""The parts on small networks: what is drawn, trained and measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from htf.nn import DeepNetwork
from htf.ranks import cluster_order, kernel_matrix

from .training import bootstrap, kernel_ranks, train_to

WIDTH = 32  # of inputs, hidden layers and outputs
TRAIN, TEST = 64, 128  # samples; kernels are of the latter, on which nothing is trained
BOUND, STEPS = 0.05, 600
ACTIVATIONS = ("linear", "relu", "tanh")
INITS = ("normal", "uniform", "orthogonal")
OPTIMIZERS = ("adam", "rmsprop", "momentum", "sgd")
DATA_SEED = 10_000
QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)


@dataclass(frozen=True)
class Case:
    """One row of the experiment: networks alike but for depth and seed.

    Attributes
    ----------
    activation, init : str
        As `DeepNetwork` takes them.
    optimizer : str
        "none" for networks at initialization.
    rank : int
        Of the planted linear map; 0 at initialization.
    claimed : bool
        Whether the effective rank is said to fall with depth.  A product of orthogonal matrices is orthogonal, so that
        of an orthogonal linear network at initialization cannot, nor can that of tanh while its units are near linear.
    """

    activation: str
    init: str = "normal"
    optimizer: str = "none"
    rank: int = 0
    claimed: bool = True


def cases() -> list[Case]:
    """All rows: at initialization, then after training."""
    isometric = {(activation, "orthogonal") for activation in ("linear", "tanh")}
    kinds = [(a, i, (a, i) not in isometric) for a in ACTIVATIONS for i in INITS]
    start = [Case(a, i, claimed=claimed) for a, i, claimed in kinds]
    by_optimizer = [Case(a, "normal", optimizer, 1) for a in ACTIVATIONS for optimizer in OPTIMIZERS]
    by_init = [Case(a, i, "adam", 1, claimed) for a, i, claimed in kinds if i != "normal"]
    by_rank = [Case(a, "normal", "adam", 4) for a in ACTIVATIONS]
    return [*start, *by_optimizer, *by_init, *by_rank]


def planted(rank: int, runs: int, seed: int, flat: bool = False) -> Tensor:
    """Random linear maps, (runs, WIDTH, WIDTH), of Frobenius norm √WIDTH: of a rank, or orthogonal if `flat`."""
    generator = Generator().manual_seed(seed)
    if flat:
        return torch.linalg.qr(torch.randn(runs, WIDTH, WIDTH, generator=generator))[0]
    left = torch.randn(runs, WIDTH, rank, generator=generator)
    maps = left @ torch.randn(runs, rank, WIDTH, generator=generator)
    # All of one norm, so that noise is the same share of what each map gives.
    return maps * math.sqrt(WIDTH) / torch.linalg.matrix_norm(maps, keepdim=True)


def samples(count: int, seed: int, runs: int | None = None) -> Tensor:
    """Standard normal inputs, (count, WIDTH), or of each run its own."""
    shape = (count, WIDTH) if runs is None else (runs, count, WIDTH)
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def distribution_row(case: Case, depth: int, nets: int, steps: int = STEPS) -> dict[str, Any]:
    """Effective ranks of the kernels of the last hidden features of many networks, on inputs they have not seen."""
    net = DeepNetwork(
        WIDTH, WIDTH, depth, WIDTH, activation=case.activation, init=case.init, runs=nets, seed=range(nets)
    )
    test = samples(TEST, DATA_SEED)
    if case.optimizer == "none":
        with torch.no_grad():
            ranks, missed = kernel_ranks(net.features(test)), 0
    else:
        x = samples(TRAIN, DATA_SEED + 1)
        y = x @ planted(case.rank, 1, DATA_SEED + 2)[0].mT
        outcome = train_to(net, x, y, case.optimizer, BOUND, steps, lambda n, _: kernel_ranks(n.features(test)))
        ranks, missed = outcome.values, outcome.missed
    which = {"stage": "initialization" if case.optimizer == "none" else "trained"}
    which |= {name: getattr(case, name) for name in ("activation", "init", "optimizer", "rank")}
    return {**which, "depth": depth, "claimed": int(case.claimed), "nets": nets, "missed": missed, **spread(ranks)}


def spread(values: Tensor) -> dict[str, Any]:
    """Mean with its 95% bootstrap interval, quantiles over networks, and how many networks have no value."""
    good = values[values.isfinite()].double()
    if not len(good):
        nothing: dict[str, Any] = dict.fromkeys(("mean", "mean_low", "mean_high", *map(_quantile, QUANTILES)))
        return {"diverged": len(values), **nothing}
    low, high = bootstrap(good)
    found = good.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    numbers = {"mean": float(good.mean()), "mean_low": low, "mean_high": high}
    numbers |= {_quantile(q): value for q, value in zip(QUANTILES, found, strict=True)}
    return {"diverged": len(values) - len(good), **{name: round(value, 5) for name, value in numbers.items()}}


def _quantile(q: float) -> str:
    return f"q{100 * q:g}"


def verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case, whether the mean falls from each depth to the next, its intervals apart."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        which = ("stage", "activation", "init", "optimizer", "rank", "claimed")
        groups.setdefault(tuple((name, row[name]) for name in which), []).append(row)
    found = []
    for key, members in groups.items():
        members.sort(key=lambda row: row["depth"])
        pairs = list(pairwise(members))
        unclear = [
            str(b["depth"]) for a, b in pairs if None in (a["mean"], b["mean"]) or b["mean_high"] >= a["mean_low"]
        ]
        missed = sum(row["missed"] for row in members)
        means = {str(row["depth"]): row["mean"] for row in members}
        found.append(
            {**dict(key), "falls": not unclear, "does_not_fall_to_depth": unclear, "missed": missed, "mean": means}
        )
    return found


def kernels(depth: int, activation: str, size: int) -> Iterator[tuple[str, Tensor, float]]:
    """The kernel of one network at initialization and after training, in clustered order, with its effective rank."""
    test = samples(size, DATA_SEED)
    x = samples(TRAIN, DATA_SEED + 1)
    y = x @ planted(1, 1, DATA_SEED + 2)[0].mT
    net = DeepNetwork(WIDTH, WIDTH, depth, WIDTH, activation=activation, seed=0)
    for stage in ("initialization", "trained"):
        if stage == "trained":
            features = train_to(net, x, y, "adam", BOUND, STEPS, lambda n, _: n.features(test)).values
        else:
            with torch.no_grad():
                features = net.features(test)
        kernel = kernel_matrix(features[0])
        order = cluster_order(kernel)
        yield stage, kernel[order][:, order], float(kernel_ranks(features))


# Fewer samples than inputs, where a linear map is not determined, and twice as many, where noise is fitted.
SAMPLE_COUNTS = (24, 64)
NOISE = 0.3
# The loss that the planted map itself has, on average.
NOISE_SHARE = NOISE**2 / (1 + NOISE**2)
TASKS = ("1", "4", "16", "flat")


def recovery_row(task: str, count: int, depth: int, nets: int, steps: int = 2 * STEPS) -> dict[str, Any]:
    """Error of a planted map learned from noisy samples by linear networks, and its effective rank.

    Depth 0 stands for the least-squares solution of least norm, which is not trained.
    """
    flat = task == "flat"
    truth = planted(1 if flat else int(task), nets, DATA_SEED + 3, flat)
    x = samples(count, DATA_SEED + 4, nets)
    clean = x @ truth.mT
    y = clean + NOISE * torch.randn(clean.shape, generator=Generator().manual_seed(DATA_SEED + 5))

    def measure(ends: Tensor, which: Tensor) -> Tensor:
        error = (ends - truth[which]).square().sum((1, 2)) / truth[which].square().sum((1, 2))
        return torch.stack([error, matrix_ranks(ends)], 1)

    if depth == 0:
        values, missed = measure((torch.linalg.pinv(x.double()) @ y.double()).mT.float(), torch.arange(nets)), 0
    else:
        net = DeepNetwork(WIDTH, WIDTH, depth, WIDTH, runs=nets, seed=range(nets))
        outcome = train_to(net, x, y, "adam", NOISE_SHARE, steps, lambda n, which: measure(n.end_matrices(), which))
        values, missed = outcome.values, outcome.missed
    row: dict[str, Any] = {"task": task, "samples": count, "depth": depth, "nets": nets, "missed": missed}
    row["true_effective_rank"] = round(float(matrix_ranks(truth).mean()), 5)
    for name, column in zip(("test_error", "effective_rank"), values.T, strict=True):
        low, high = bootstrap(column.double())
        numbers = {name: float(column.mean()), f"{name}_low": low, f"{name}_high": high}
        row |= {key: round(value, 5) for key, value in numbers.items()}
    return row


def matrix_ranks(matrices: Tensor) -> Tensor:
    """Effective rank of each matrix, by its singular values."""
    s = torch.linalg.svdvals(matrices.double())
    p = s / s.sum(1, keepdim=True)
    return torch.special.entr(p).sum(1).exp().to(matrices.dtype)
