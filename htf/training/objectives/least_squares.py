"""Mean squared errors over fixed batches: the objective of the probes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from htf.engine import Plan
from htf.training.digests import digest
from htf.training.graphs import is_replayable
from htf.training.objectives.base import Found, Objective, Place

Batch = tuple[Tensor | Plan, Tensor]
Inputs = TypeVar("Inputs", bound=Tensor | Plan)


class LeastSquares(Objective):
    """The mean squared error of every run, batch by batch; made by `least_squares`.

    Attributes
    ----------
    train, test : list of (inputs, targets)

    See Also
    --------
    htf.training.objectives.least_squares : makes it.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (100, 8), generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, :1] * x[:, 3:4]).float().expand(-1, 4)
    >>> objective = htf.training.objectives.least_squares(x.split(50), y.split(50))
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), 2, 3, runs=4, seed=0)
    >>> training = htf.training.Training(net, objective, optimizer="relative_adam", lr=0.3)
    >>> objective.errors(net, objective.train).shape  # of each run
    torch.Size([4])
    """

    def __init__(self, train: Sequence[Batch], test: Sequence[Batch] = (), clip: float | None = None) -> None:
        if not len(train):
            raise ValueError("train has no batches; expected at least one")
        self.train, self.test, self.clip, self.batches = train, test, clip, len(train)
        self._latest: tuple[int, list[int]] = (-1, [])

    def prepare(self, model: nn.Module, place: Place) -> None:
        super().prepare(model, place)
        runs = getattr(model, "runs", 1)
        self.train, self.test = of_runs(self.train, runs), of_runs(self.test, runs)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        x, y = self.train[self._order(epoch)[batch]]
        return Found((model(x) - y).square().mean(0), samples=len(y))

    def replayable(self, epoch: int, batch: int) -> Hashable:
        number = self._order(epoch)[batch]
        return number if is_replayable(self.train[number][0]) else None

    def _order(self, epoch: int) -> list[int]:
        if self._latest[0] != epoch:
            generator = Generator().manual_seed((self.place.seed << 20) + epoch)
            self._latest = epoch, torch.randperm(len(self.train), generator=generator, device="cpu").tolist()
        return self._latest[1]

    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        return {"test/loss": self.errors(model, self.test, self.clip)} if len(self.test) else {}

    @torch.no_grad()
    def errors(self, model: nn.Module, batches: Sequence[Batch], clip: float | None = None) -> Tensor:
        """Mean squared error of every run on some batches, (runs,), each sample's clipped at `clip`."""
        total, samples = torch.zeros_like(self.train[0][1][0]), 0
        for x, y in batches:
            squares = (model(x) - y).square()
            if clip is not None:
                # An overflow is an error like any other beyond the bound.
                squares = squares.nan_to_num(nan=clip, posinf=clip).clamp(max=clip)
            total += squares.sum(0)
            samples += len(y)
        return total / samples

    def describe(self) -> dict[str, Any]:
        """Reads all data."""
        about = {"batches": self.batches, "train": digest(self.train), "test": digest(self.test)}
        return {"objective": "least squares", "clip": self.clip, **about}


def of_runs(batches: Sequence[tuple[Inputs, Tensor]], runs: int) -> Sequence[tuple[Inputs, Tensor]]:
    """Batches with targets for every run, (batch, runs), of which (batch, 1) are for all.

    Raises
    ------
    ValueError
        For targets of another shape.
    """
    for _, y in batches:
        if y.ndim != 2 or y.shape[1] not in (1, runs):
            raise ValueError(
                f"targets of a batch have shape {tuple(y.shape)}; expected (batch, {runs})"
                + (", or (batch, 1) for all runs" if runs > 1 else "")
            )
    return [(x, y.expand(-1, runs)) for x, y in batches] if any(y.shape[1] != runs for _, y in batches) else batches


def least_squares(
    inputs: Sequence[Tensor | Plan],
    targets: Sequence[Tensor],
    *,
    test: tuple[Sequence[Tensor | Plan], Sequence[Tensor]] = ((), ()),
    clip: float | None = None,
) -> LeastSquares:
    """Fit outputs to targets by their mean squared error, batch by batch.

    Parameters
    ----------
    inputs : sequence of Tensor or Plan
        The batches, as the model takes them.  They are fixed; their order is drawn anew each epoch.
    targets : sequence of Tensor
        (batch, runs) each, or (batch, 1) for all runs, and for a model that is no factorization.
    test : (inputs, targets), optional
        Likewise; measured after each epoch as "test/loss".
    clip : float, optional
        Bound on a test sample's squared error.

    Returns
    -------
    Objective

    Raises
    ------
    ValueError
        For no batches, or other numbers of inputs than of targets; when a training is made of it, for other shapes.

    See Also
    --------
    htf.training.LeastSquaresFit : with runs that go back when they diverge.
    htf.training.objectives.regression : batches drawn anew each epoch.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (100, 8), generator=torch.Generator().manual_seed(0))
    >>> objective = htf.training.objectives.least_squares(x.split(50), (x[:, :1] * x[:, 3:4]).float().split(50))
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), 2, 3, seed=0)
    >>> history = htf.training.Training(net, objective, optimizer="relative_adam", lr=0.3).run(epochs=20)
    >>> history.loss.shape
    torch.Size([20, 1])
    """
    parts = [(list(x), list(y)) for x, y in ((inputs, targets), test)]
    for x, y in parts:
        if len(x) != len(y):
            raise ValueError(f"there are {len(x)} batches of inputs and {len(y)} of targets; expected equally many")
    train, tested = (list(zip(*part, strict=True)) for part in parts)
    return LeastSquares(train, tested, clip)
