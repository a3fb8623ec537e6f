"""Training iterations of factorizations on completion, side by side: this library and the papers' code.

    python -m benchmarks.speed.dynamics --imp-reg-htf CHECKOUT --json docs/results/dynamics_speed.json

An iteration is forward, loss, backward and a step of the optimizer, without any evaluation, on all 2,048 observed
entries.  Sizes are the defaults of that code: a matrix of 64×64 at depth 3, a CP tensor of order 3 and dimension 16
with all its 256 components, a hierarchical tensor of order 4, dimension 8 and widths 512.  Both sides train on the
same entries from equal starting weights, and the losses of their first iterations must agree before anything is timed.
Starts are larger than the papers', so that losses move within a few iterations; times do not depend on it.

Then this library by itself: ten runs trained together against one.

A time is the shortest of some repetitions, between which the two sides take turns.  Without a checkout, the comparison
is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import htf
from htf._files import write_json
from htf.dynamics import CPStudy, HTStudy, MatrixStudy, StudySettings
from htf.nn import Factorization
from htf.nn.init import gaussian
from htf.training import Training, fit, objectives

from .peers import importable
from .timing import made_by, race

RATE = 1e-2  # of GroupRMSprop, the papers'
CHECKED = 20  # iterations whose losses are compared
TOGETHER = 10
NEVER = 10**9
# Outputs of about 1: entries of this size, by the widths that they pass through.
SIZES: dict[str, tuple[StudySettings, float]] = {
    "mf": (MatrixStudy(), 0.25),
    "cp": (CPStudy(components=256), 0.4),
    "ht": (HTStudy(width=512), 0.26),
}
WIDTHS: dict[str, dict[str, list[int]]] = {
    "mf": {"dim": [16, 32, 64]},
    "cp": {"components": [16, 64, 256]},
    "ht": {"width": [16, 64, 256, 512]},
}


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    report = made_by(torch.device(options.device))
    if options.imp_reg_htf is not None:
        with importable(options.imp_reg_htf):
            report["against imp_reg_htf"] = {form: against(form, options) for form in options.only}
    report["runs together"] = {form: together(form, options) for form in options.only}
    print(json.dumps(report, indent=1))
    if options.json:
        write_json(options.json, report)


# -- against the papers' code ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A model of the papers' code, its trainer's update and its parameters in the order of the network's matrices."""

    update: Callable[[], float]
    parameters: list[Tensor]


def against(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times of one iteration on both sides, after a check that losses agree."""
    settings, std = SIZES[form]
    network = _network(settings, std, 1, options.device)
    problem = settings.problem(options.device)
    peer = _PEERS[form](settings, problem, torch.device(options.device))
    with torch.no_grad():
        for theirs, ours in zip(peer.parameters, _matrices(network, form), strict=True):
            theirs.copy_(ours)
    history = fit(network, problem, lr=RATE, steps=CHECKED, every=1)
    losses = torch.tensor([peer.update() for _ in range(CHECKED)], dtype=torch.float64)
    difference = float(((history.loss[:CHECKED, 0] - losses).abs() / losses).max())
    if not difference < 1e-3:
        raise AssertionError(f"{form}: losses differ by {difference:.1e} of their size: {history.loss[:, 0]}, {losses}")
    times = _milliseconds([_iteration(network, problem), peer.update], options)
    found = {
        "what": settings.sentence(),
        "htf_ms": times[0],
        "peer_ms": times[1],
        "ratio": times[1] / times[0],
        "losses": [float(losses[0]), float(losses[-1])],
        "largest_relative_difference_of_losses": difference,
    }
    print(form, {key: found[key] for key in ("htf_ms", "peer_ms", "ratio")})
    return found


def _peer_of_matrices(settings: StudySettings, problem: htf.datasets.CompletionProblem, device: torch.device) -> Peer:
    """Deep linear network; entries are read by dense measurement matrices."""
    from common.train.optim import GroupRMSprop  # type: ignore[import-not-found]
    from matrix_factorization.models.dln_model_factory import DLNModelFactory  # type: ignore[import-not-found]
    from matrix_factorization.trainers.dln_matrix_sensing_trainer import (  # type: ignore[import-not-found]
        DLNMatrixSensingTrainer,
    )

    assert isinstance(settings, MatrixStudy)
    model = DLNModelFactory.create_same_dim_deep_linear_network(*settings.shape, depth=settings.depth).to(device)
    measurements = torch.zeros(settings.observed, *settings.shape, device=device)
    measurements[torch.arange(settings.observed), problem.indices[:, 0], problem.indices[:, 1]] = 1
    optimizer = GroupRMSprop(model.parameters(), lr=RATE)
    trainer = DLNMatrixSensingTrainer(model, optimizer, torch.nn.MSELoss(), device=device)
    return _peer(trainer, (measurements, problem.values.float()), list(model.layers))


def _peer_of_tensors(settings: StudySettings, problem: htf.datasets.CompletionProblem, device: torch.device) -> Peer:
    """CP or hierarchical factorization; entries are read by one-hot vectors."""
    from common.train.optim import GroupRMSprop
    from common.train.trainers import SupervisedTrainer  # type: ignore[import-not-found]
    from tensor_factorization.models import (  # type: ignore[import-not-found]
        CPTensorFactorization,
        HierarchicalTensorFactorization,
    )

    if isinstance(settings, CPStudy):
        model = CPTensorFactorization(list(settings.shape), rank=settings.components)
        parameters = list(model.factors)
    else:
        assert isinstance(settings, HTStudy)
        model = HierarchicalTensorFactorization(list(settings.shape), layer_widths=[settings.width, settings.width])
        parameters = [p for layer in model.per_hidden_layer_parameter_lists for p in layer]
        parameters.append(model.output_layer_parameters)
    model.to(device)
    encoded = torch.nn.functional.one_hot(problem.indices, settings.dim).float()
    trainer = SupervisedTrainer(model, GroupRMSprop(model.parameters(), lr=RATE), torch.nn.MSELoss(), device=device)
    return _peer(trainer, (encoded, problem.values.float()), parameters)


_PEERS = {"mf": _peer_of_matrices, "cp": _peer_of_tensors, "ht": _peer_of_tensors}


def _peer(trainer: Any, batch: tuple[Tensor, Tensor], parameters: list[Tensor]) -> Peer:
    def update() -> float:
        return float(trainer.batch_update(0, batch, 1)["loss"])

    return Peer(update, parameters)


def _matrices(network: Factorization, form: str) -> list[Tensor]:
    """Matrices of the only run, as the papers' code orders them: the last layer first, or leaves first."""
    matrices = list(network.parameters_for(0).values())
    return matrices[::-1] if form == "mf" else matrices


# -- runs together --------------------------------------------------------------------------------------


def together(form: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times of one iteration of one run, and of ten trained together, at several sizes."""
    default, std = SIZES[form]
    ((name, values),) = WIDTHS[form].items()
    rows = []
    for value in values:
        # No more observed entries than half of all.
        observed = min(default.observed, value**2 // 2) if name == "dim" else default.observed
        changed: dict[str, Any] = {name: value, "observed": observed}
        settings = replace(default, **changed)
        problem = settings.problem(options.device)
        each = [_iteration(_network(settings, std, runs, options.device), problem) for runs in (1, TOGETHER)]
        alone, all_ms = _milliseconds(each, options)
        row = {name: value, "one_ms": alone, f"{TOGETHER}_ms": all_ms, "cost_in_runs": all_ms / alone}
        print(form, row)
        rows.append(row)
    return rows


# -- both -----------------------------------------------------------------------------------------------


def _network(settings: StudySettings, std: float, runs: int, device: str) -> Factorization:
    start: dict[str, Any] = {"init": gaussian(std=std), "seed": 0, "runs": runs, "device": device}
    if isinstance(settings, MatrixStudy):
        return htf.nn.MatrixFactorization(settings.shape, settings.depth, **start)
    if isinstance(settings, CPStudy):
        return htf.nn.CPNetwork(settings.shape, settings.components, **start)
    assert isinstance(settings, HTStudy)
    return htf.nn.HTNetwork(settings.tree, settings.dim, settings.width, **start)


def _iteration(network: Factorization, problem: htf.datasets.CompletionProblem) -> Callable[[], None]:
    """One step of the loop of `htf.training.fit`."""
    training = Training(network, objectives.entries(problem), optimizer="group_rmsprop", lr=RATE, every=NEVER)
    training.begin(steps=NEVER)
    # The first records the start; the next is beyond anything that is timed.
    training.advance()
    return training.advance


def _milliseconds(calls: list[Callable[[], Any]], options: argparse.Namespace) -> list[float]:
    return [1e3 * each for each in race(calls, options.repeats, options.seconds, torch.device(options.device))]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imp-reg-htf", type=Path, help="checkout of asafmaman101/imp_reg_htf")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one repetition, about")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
