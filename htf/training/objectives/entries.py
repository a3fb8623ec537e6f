"""Entries or measurements of a tensor, all in every step: the objective of `htf.training.fit`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.nn import Factorization
from htf.training.graphs import is_replayable
from htf.training.losses import Loss
from htf.training.objectives.base import Found, Objective, Place
from htf.training.objectives.observations import Observations, observe


class Entries(Objective):
    """The mean loss over all observations of a problem; made by `entries`.

    Attributes
    ----------
    observations : Observations
        Inputs, targets and test entries; there once a training has been made.
    loss : Loss

    See Also
    --------
    htf.training.objectives.entries : makes it.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=150)
    >>> objective = htf.training.objectives.entries(problem)
    >>> net = htf.nn.CPNetwork((6, 6, 6), rank=3, runs=2, seed=0)
    >>> training = htf.training.Training(net, objective, optimizer="adam", lr=0.02)
    >>> objective.test_error(net).shape  # at the test entries, of each run
    torch.Size([2])
    """

    def __init__(
        self, problem: CompletionProblem | SensingProblem | tuple[Tensor, Tensor], loss: str | Loss = "l2"
    ) -> None:
        self.problem = problem
        self.loss = loss if isinstance(loss, Loss) else Loss(loss)
        self.observations: Observations

    def prepare(self, model: nn.Module, place: Place) -> None:
        if not isinstance(model, Factorization):
            raise TypeError(f"model is a {type(model).__name__}; entries are those of a CP, HT or matrix factorization")
        self.bind(model)

    def bind(self, network: Factorization) -> None:
        """Check that the problem fits a network, and plan for it."""
        self.observations = observe(network, self.problem)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        return Found(self.loss(model(self.observations.inputs), self.observations.targets))

    def replayable(self, epoch: int, batch: int) -> Hashable:
        return 0 if is_replayable(self.observations.inputs) else None

    @torch.no_grad()
    def test_error(self, network: Factorization) -> Tensor:
        """Relative error of each run at the test entries, (runs,); NaN if there are none."""
        if self.observations.test_inputs is None:
            return torch.full((network.runs,), torch.nan, dtype=torch.float64, device=network.device)
        outputs = network(self.observations.test_inputs)
        return (outputs - self.observations.test_targets).norm(dim=0) / self.observations.test_targets.norm(dim=0)

    def loss_of_ends(self, ends: Tensor) -> Tensor:
        """Losses of the runs, by their end matrices (runs, d, d')."""
        return self.loss(self.observations.read_matrices(ends), self.observations.targets)

    def describe(self) -> dict[str, Any]:
        return self.observations.about | {"loss": self.loss.describe()}


def entries(problem: CompletionProblem | SensingProblem | tuple[Tensor, Tensor], *, loss: str | Loss = "l2") -> Entries:
    """Fit a factorization to entries or measurements of a tensor, all of them in every step.

    Parameters
    ----------
    problem : CompletionProblem, SensingProblem or (inputs, targets)
        As for `htf.training.fit`.
    loss : {"l2", "l1", "huber"} or Loss

    Returns
    -------
    Objective

    Raises
    ------
    ValueError
        For an unknown loss; when a training is made of it, for a problem that does not fit the network.

    See Also
    --------
    htf.training.fit : the same, with `GroupRMSprop` by default.
    htf.ht_completion : by alternating least squares.
    htf.datasets.tensor_completion : problems.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=150, norm=15)
    >>> net = htf.nn.CPNetwork((6, 6, 6), rank=4, seed=0)
    >>> objective = htf.training.objectives.entries(problem, loss="huber")
    >>> history = htf.training.Training(net, objective, optimizer="adam", lr=0.05).run(steps=100)
    >>> bool(history.loss[-1] < 0.1 * history.loss[0])
    True
    """
    return Entries(problem, loss)
