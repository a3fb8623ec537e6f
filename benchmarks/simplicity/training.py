"""Many small networks trained at once, each until its own loss is below a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from htf.nn import DeepNetwork
from htf.ranks import kernel_effective_rank

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


def train_to(
    net: DeepNetwork,
    x: Tensor,
    y: Tensor,
    optimizer: str,
    bound: float,
    steps: int,
    measure: Callable[[DeepNetwork, Tensor], Tensor],
) -> Outcome:
    """Train by full batches until each network's squared error is at most `bound` times that of predicting 0.

    Networks are measured at the first step at which they have reached it, so that depths are compared at equal loss.
    `measure` is given a network of those that have, and their numbers.
    """
    stepper = _optimizer(net, optimizer)
    step = torch.full((net.runs,), -1)
    ends = torch.full((net.runs,), torch.nan)
    values: Tensor | None = None
    members = torch.arange(net.runs)
    for now in range(steps + 1):
        loss = (net(x) - y).square().sum((1, 2)) / y.square().sum((-2, -1))
        fixed, left = loss.detach(), step[members] < 0
        reached = (fixed <= bound) & left
        # What has not reached it by the last step is measured there.
        new = left if now == steps else reached
        if bool(new.any()):
            with torch.no_grad():
                found = measure(net.select(new), members[new])
            if values is None:
                values = found.new_full((len(step), *found.shape[1:]), torch.nan)
            values[members[new]], ends[members[new]] = found, fixed[new]
            step[members[reached]] = now
        if bool((step >= 0).all()) or now == steps:
            break
        stepper.zero_grad()
        loss.sum().backward()
        if optimizer in PLAIN:
            _clip_each(net)
        stepper.step()
        left = step[members] < 0
        if int(left.sum()) <= KEEP * len(left):
            net, stepper = _without(net, stepper, optimizer, left)
            members = members[left]
            x, y = (each[left] if each.ndim == 3 else each for each in (x, y))
    assert values is not None
    return Outcome(values, ends, step)


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


def _optimizer(net: DeepNetwork, name: str) -> torch.optim.Optimizer:
    rate = RATES[name] * (min(1.0, DEEP / net.depth) if name in PLAIN else 1.0)
    if name in PLAIN:
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9 if name == "momentum" else 0.0)
    return {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[name](net.parameters(), lr=rate)


def _clip_each(net: DeepNetwork) -> None:
    """Shorten each network's gradient to norm 1, which leaves the networks independent."""
    gradients = [weight.grad for weight in net.weights if weight.grad is not None]
    norms = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt().clamp_min(1.0)
    for gradient in gradients:
        gradient /= norms[:, None, None]


def _without(
    net: DeepNetwork, stepper: torch.optim.Optimizer, name: str, left: Tensor
) -> tuple[DeepNetwork, torch.optim.Optimizer]:
    """The networks that are left, and their optimizer as it stands."""
    smaller = net.select(left)
    again = _optimizer(smaller, name)
    for old, new in zip(net.parameters(), smaller.parameters(), strict=True):
        again.state[new] = {
            key: value[left] if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in stepper.state[old].items()
        }
    return smaller, again
