"""Adam in units of the output: a step size that suits any order, depth and width.

The output of a factorization is a product of very many matrices.  Adam moves every entry by about its learning rate,
at first all in one direction, so that a rate harmless to one matrix multiplies the output by (1 + rate)^(number of
matrices).  At order 784 a rate of 3e-3 carries the output to zero, where the gradient is zero too, and the fit stays
there for good; wider networks at 1e-3 already, since every row of a matrix adds to the move.  Here the step is
given as a change of the logarithm of the output and divided among the matrices.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from htf.engine import Plan
from htf.nn._network import TreeNetwork


class RelativeAdam(torch.optim.Adam):
    """Adam whose rate for each parameter is ``step * mean |entry| / number of matrices``.

    With ``step = 1``, one step changes the logarithm of a positive network's output by about 1 at most.

    Parameters
    ----------
    network : CPNetwork or HTNetwork
        Its present entries set the scale of each parameter's step.
    step : float
        Largest change of the logarithm of the output in one step.
    betas : (float, float)
        Decay of the running means of gradients and of their squares.

    Raises
    ------
    ValueError
        If `step` is not above 0, or a decay is not from 0 to below 1.

    Notes
    -----
    `slow_down` halves the step of single runs.
    """

    def __init__(self, network: TreeNetwork, step: float = 1.0, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        if not step > 0:
            raise ValueError(f"step is {step}; expected above 0")
        matrices = network.tree.n_nodes if len(network.tree.inner_nodes) > 1 else network.order
        groups = [
            {"params": [p], "lr": step * float(p.detach().abs().mean()) / matrices, "name": name}
            for name, p in network.named_parameters()
        ]
        super().__init__(groups, betas=betas, eps=1e-20, fused=True)
        self._network = network
        self.rates = [float(group["lr"]) for group in self.param_groups]
        self.run_steps = torch.ones(network.runs, device=network.device, dtype=network.dtype)
        self._slowed = False

    def set_share(self, share: float) -> None:
        """Multiply all steps by `share` of their full size (for schedules)."""
        for group, rate in zip(self.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def slow_down(self, runs: Tensor) -> None:
        """Halve the step of the runs marked in a (runs,) mask and forget their running means."""
        self.run_steps = torch.where(runs, self.run_steps / 2, self.run_steps)
        self._slowed = True
        for parameter, mask in zip(self._network.parameters(), self._network.spread(runs), strict=True):
            for name in {"exp_avg", "exp_avg_sq"} & self.state[parameter].keys():  # none before the first step
                self.state[parameter][name].masked_fill_(mask, 0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every run."""
        if not self._slowed:
            return super().step(closure)
        before = [p.detach().clone() for p in self._network.parameters()]
        loss = super().step(closure)
        steps = self._network.spread(self.run_steps)
        for parameter, old, size in zip(self._network.parameters(), before, steps, strict=True):
            parameter.copy_(old + (parameter - old) * size)
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """All state, for a checkpoint."""
        named = {"run_steps": self.run_steps}
        for group in self.param_groups:
            for key, value in self.state[group["params"][0]].items():
                named[f"{group['name']}/{key}"] = value
        return named

    def load_tensors(self, named: dict[str, Tensor], rates: list[float]) -> None:
        """The inverse of `tensors`."""
        self.rates = list(rates)
        self.run_steps = named["run_steps"].to(self.run_steps)
        self._slowed = bool((self.run_steps != 1).any())
        for group in self.param_groups:
            parameter = group["params"][0]
            self.state[parameter] = {
                key: named[f"{group['name']}/{key}"].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{group['name']}/{key}" in named
            }


@torch.no_grad()
def center_outputs(network: TreeNetwork, inputs: Tensor | Plan, targets: Tensor) -> None:
    """Rescale each output of each run so that its mean on `inputs` is the mean of its targets, in place.

    A fit that starts far above its targets spends its first steps shrinking, and overshoots.  An output whose mean, or
    whose targets' mean, is not positive is left as it is, unless both are negative.

    Parameters
    ----------
    network : CPNetwork or HTNetwork
    inputs : Tensor or Plan
        Of the network: indices (batch, order), vectors (batch, order, dim), or a plan.
    targets : Tensor
        Of a network with one output, (batch, runs), or (batch,) or (batch, 1) for all runs; of one with several,
        (batch, runs, outputs), or (batch, outputs) for all runs.

    Raises
    ------
    ValueError
        If `targets` has another shape; the message names those that fit.

    Warns
    -----
    RuntimeWarning
        If the outputs of some runs are not finite.  These runs are left as they are.
    """
    outputs = network(inputs)
    _check_targets(targets, outputs, network)
    means = outputs.mean(0)
    targets = targets if targets.dtype.is_floating_point else targets.to(means.dtype)
    ratio = targets.mean(0).to(means) / means
    lost = ~means.isfinite()
    if bool(lost.any()):
        runs = lost.view(network.runs, -1).any(1).nonzero().flatten().tolist()
        warnings.warn(
            f"center_outputs: the network's outputs are not finite at the start in runs {runs}; they are left as they "
            "are.  A start that knows its inputs, init=htf.nn.init.scale_preserving(inputs=...), keeps outputs near 1",
            RuntimeWarning,
            stacklevel=3,
        )
    network.rescale_(torch.where((ratio > 0) & ratio.isfinite(), ratio, torch.ones_like(ratio)))


def _check_targets(targets: Tensor, outputs: Tensor, network: TreeNetwork) -> None:
    batch, runs, several = len(outputs), network.runs, network.outputs
    shapes = [(batch, runs), (batch,), (batch, 1)] if several == 1 else [(batch, runs, several), (batch, several)]
    if several == 1 and runs == 1:
        del shapes[0]
    if tuple(targets.shape) not in shapes:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; expected {' or '.join(map(str, shapes))}, as the network has "
            f"{runs} runs of {several} outputs and inputs has {batch} samples"
        )
