"""Many small networks trained at once, each until its own loss is below a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from htf.nn import DeepNetwork
from htf.ranks import kernel_effective_rank
from htf.training import Training
from htf.training.objectives import Found, Objective

# Adaptive steps do well at every depth; plain ones must be shorter the deeper the network.
RATES = {"sgd": 0.3, "momentum": 0.05, "adam": 2e-3, "rmsprop": 1e-3}
PLAIN = ("sgd", "momentum")
DEEP = 4  # layers beyond which plain steps shrink as 1 / depth
Measure = Callable[[DeepNetwork, Tensor], Tensor]


@dataclass(frozen=True)
class Outcome:
    """How training ended, a value per network.

    Attributes
    ----------
    values : Tensor
        (runs, ...); what was measured when the bound was reached, or after the last step.
    loss : Tensor
        (runs,); at that time.
    step : Tensor
        (runs,); -1 where the bound was not reached.
    """

    values: Tensor
    loss: Tensor
    step: Tensor

    @property
    def missed(self) -> int:
        """How many did not reach the bound."""
        return int((self.step < 0).sum())


def train_to(
    net: DeepNetwork, x: Tensor, y: Tensor, optimizer: str, bound: float, steps: int, measure: Measure
) -> Outcome:
    """Train by full batches until each network's squared error is at most `bound` times that of predicting 0.

    Networks are measured at the first step at which they have reached it, so that depths are compared at equal loss.
    `measure` is given a network of those that have, and their numbers.
    """
    aim = _Bound(net.runs, x, y, bound, steps, measure)
    rate = RATES[optimizer] * (min(1.0, DEEP / net.depth) if optimizer in PLAIN else 1.0)
    # One step more, whose loss is that of the last.
    Training(net, aim, optimizer=OPTIMIZERS[optimizer], lr=rate, rules=aim.all_measured).run(steps + 1)
    assert aim.values is not None
    return Outcome(aim.values, aim.loss, aim.step)


class _Bound(Objective):
    """Squared errors of networks, each of which is measured once its own is below the bound, or at the last step."""

    def __init__(self, runs: int, x: Tensor, y: Tensor, bound: float, steps: int, measure: Measure) -> None:
        self.x, self.y, self._bound, self._steps, self._measure = x, y, bound, steps, measure
        self.step = torch.full((runs,), -1)
        self.loss = torch.full((runs,), torch.nan)
        self.values: Tensor | None = None

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        assert isinstance(model, DeepNetwork)
        loss = (model(self.x) - self.y).square().sum((1, 2)) / self.y.square().sum((-2, -1))
        fixed, left = loss.detach(), self.step < 0
        reached = (fixed <= self._bound) & left
        new = left if epoch == self._steps else reached
        if bool(new.any()):
            with torch.no_grad():
                found = self._measure(model.select(new), new.nonzero()[:, 0])
            if self.values is None:
                self.values = found.new_full((len(new), *found.shape[1:]), torch.nan)
            self.values[new], self.loss[new], self.step[reached] = found, fixed[new], epoch
        return Found(_Finite.apply(loss).sum())  # type: ignore[no-untyped-call]

    def all_measured(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """The rule that ends the training."""
        return "all are measured" if bool((self.step >= 0).all()) else ""


def kernel_ranks(features: Tensor) -> Tensor:
    """Effective rank of each network's kernel, (runs,); NaN for a network that has diverged."""
    finite = features.isfinite().flatten(1).all(1)
    ranks = kernel_effective_rank(torch.where(finite[:, None, None], features, 0.0))
    return torch.where(finite, ranks, torch.nan)


def bootstrap(values: Tensor, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """The 95% interval of the mean, by resampling networks."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


class _Finite(torch.autograd.Function):
    """Losses with those that are not finite as 0, and the gradients of all: networks that diverge do not end others."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return torch.where(loss.isfinite(), loss, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _ClippedSGD(torch.optim.SGD):
    """Each network's gradient is shortened to norm 1, which leaves the networks independent."""

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt().clamp_min(1.0)
        for gradient in gradients:
            gradient /= norms[:, None, None]
        return super().step(closure)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _ClippedSGD,
    "momentum": partial(_ClippedSGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}
