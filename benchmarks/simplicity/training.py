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
# Networks that are done are taken out of the batch when no more than this share is left.
KEEP = 0.75


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


Measure = Callable[[DeepNetwork, Tensor], Tensor]


def train_to(
    net: DeepNetwork, x: Tensor, y: Tensor, optimizer: str, bound: float, steps: int, measure: Measure
) -> Outcome:
    """Train by full batches until each network's squared error is at most `bound` times that of predicting 0.

    Networks are measured at the first step at which they have reached it, so that depths are compared at equal loss.
    `measure` is given a network of those that have, and their numbers.
    """
    aim = _Bound(net.runs, x, y, bound, steps, measure)
    make = partial(_optimizer, optimizer)
    while not aim.done:
        rate = RATES[optimizer] * (min(1.0, DEEP / net.depth) if optimizer in PLAIN else 1.0)
        training = Training(net, aim, optimizer=make, lr=rate, rules=aim.few_are_left)
        training.run(steps + 1 - aim.now)
        if not aim.done:
            # Networks that are done are left out; the optimizer of the others stays as it stands.
            left = aim.leave_out()
            make = partial(_optimizer, optimizer, before=(training.optimizer, list(net.parameters()), left))
            net = net.select(left)
    assert aim.values is not None
    return Outcome(aim.values, aim.loss, aim.step)


class _Bound(Objective):
    """Squared errors of networks, each of which is measured once its own is below the bound.

    Attributes
    ----------
    members : Tensor
        (networks that are left,), their numbers.
    now : int
        Steps before the next.
    """

    def __init__(self, runs: int, x: Tensor, y: Tensor, bound: float, steps: int, measure: Measure) -> None:
        self.x, self.y, self._bound, self._steps, self._measure = x, y, bound, steps, measure
        self.step = torch.full((runs,), -1)
        self.loss = torch.full((runs,), torch.nan)
        self.values: Tensor | None = None
        self.members = torch.arange(runs)
        self.now = 0

    @property
    def done(self) -> bool:
        return self.now > self._steps or bool((self.step >= 0).all())

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        assert isinstance(model, DeepNetwork)
        loss = (model(self.x) - self.y).square().sum((1, 2)) / self.y.square().sum((-2, -1))
        fixed, left = loss.detach(), self.step[self.members] < 0
        reached = (fixed <= self._bound) & left
        # What has not reached it by the last step is measured there.
        new = left if self.now == self._steps else reached
        if bool(new.any()):
            which = self.members[new]
            with torch.no_grad():
                found = self._measure(model.select(new), which)
            if self.values is None:
                self.values = found.new_full((len(self.step), *found.shape[1:]), torch.nan)
            self.values[which], self.loss[which] = found, fixed[new]
            self.step[self.members[reached]] = self.now
        self.now += 1
        return Found(_Finite.apply(loss).sum())  # type: ignore[no-untyped-call]

    def few_are_left(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """The rule that ends a training: all are done, or so few are left that others only cost time."""
        left = self.step[self.members] < 0
        return "few are left" if self.done or int(left.sum()) <= KEEP * len(left) else ""

    def leave_out(self) -> Tensor:
        """Forget the data of networks that are done; which of them are left, (networks until now,) of bool."""
        left = self.step[self.members] < 0
        self.members = self.members[left]
        self.x, self.y = (each[left] if each.ndim == 3 else each for each in (self.x, self.y))
        return left


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


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _ClippedSGD,
    "momentum": partial(_ClippedSGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}


def _optimizer(
    name: str,
    parameters: list[nn.Parameter],
    lr: float,
    before: tuple[torch.optim.Optimizer, list[nn.Parameter], Tensor] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer, with the memory of one of more networks for those that are left."""
    made = _OPTIMIZERS[name](parameters, lr=lr)
    if before is not None:
        stepper, old, left = before
        for was, now in zip(old, parameters, strict=True):
            made.state[now] = {
                key: value[left] if isinstance(value, Tensor) and value.shape == was.shape else value
                for key, value in stepper.state[was].items()
            }
    return made
