"""Adam in units of the output: a step size that suits any order, depth and width.

The output of a factorization is a product of very many matrices.  Adam moves every entry by about its learning rate,
at first all in one direction, so that a rate harmless to one matrix multiplies the output by (1 + rate)^(number of
matrices).  At order 784 a rate of 3e-3 carries the output to zero, where the gradient is zero too, and the fit stays
there for good; wider networks at 1e-3 already, since every row of a matrix adds to the move.  Here the step is
given as a change of the logarithm of the output and divided among the matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from htf.nn import Factorization


class RelativeAdam(torch.optim.Adam):
    """Adam whose rate for each parameter is ``step * mean |entry| / number of matrices``.

    With ``step = 1``, one step changes the logarithm of a positive network's output by about 1 at most.

    Parameters
    ----------
    network : Factorization
        Its present entries set the scale of each parameter's step.
    step : float
        Largest change of the logarithm of the output in one step.
    betas : (float, float)
        Decay of the running means of gradients and of their squares.

    Attributes
    ----------
    full_step : float
        `step`, as it was given.

    Raises
    ------
    ValueError
        If `step` is not above 0, or a decay is not from 0 to below 1.

    See Also
    --------
    htf.training.LeastSquaresFit : is trained by it.
    htf.training.GroupRMSprop : one step for all parameters of a run.

    Notes
    -----
    `slow_down` halves the step of single runs.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.CPNetwork([2] * 100, rank=4, seed=0)
    >>> optimizer = htf.training.RelativeAdam(net, step=0.1)
    >>> x = torch.randint(0, 2, (32, 100), generator=torch.Generator().manual_seed(0))
    >>> before = net(x).detach().log()
    >>> net(x).square().mean().backward()
    >>> optimizer.step()
    >>> bool((net(x).log() - before).abs().max() < 0.11)  # outputs change by a tenth, not by the 100th power of a step
    True
    """

    def __init__(self, network: Factorization, step: float = 1.0, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        if not step > 0:
            raise ValueError(f"step is {step}; expected above 0")
        groups = [
            {"params": [p], "lr": step * float(p.detach().abs().mean()) / network.n_factors, "name": name}
            for name, p in network.named_parameters()
        ]
        super().__init__(groups, betas=betas, eps=1e-20, fused=True)
        self._network, self.full_step = network, step
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]
        # In a group, where a checkpoint finds it.
        ones = torch.ones(network.runs, device=network.device, dtype=network.dtype)
        self.param_groups[0]["run_steps"] = ones
        self._known, self._slowed = ones, False  # whether any of the steps, as they were when asked, is below 1

    @property
    def rates(self) -> list[float]:
        """The full rate of each parameter."""
        return [float(group["initial_lr"]) for group in self.param_groups]

    @property
    def run_steps(self) -> Tensor:
        """(runs,); the size of each run's step relative to the full one."""
        found: Tensor = self.param_groups[0]["run_steps"]
        return found

    def set_share(self, share: float) -> None:
        """Multiply all steps by `share` of their full size (for schedules)."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * share

    def slow_down(self, runs: Tensor) -> None:
        """Halve the step of the runs marked in a (runs,) mask and forget their running means."""
        self.param_groups[0]["run_steps"] = torch.where(runs, self.run_steps / 2, self.run_steps)
        for parameter, mask in zip(self._network.parameters(), self._network.spread(runs), strict=True):
            for name in {"exp_avg", "exp_avg_sq"} & self.state[parameter].keys():  # none before the first step
                self.state[parameter][name].masked_fill_(mask, 0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every run."""
        if not self._any_slowed():
            return super().step(closure)
        before = [p.detach().clone() for p in self._network.parameters()]
        loss = super().step(closure)
        steps = self._network.spread(self.run_steps)
        for parameter, old, size in zip(self._network.parameters(), before, steps, strict=True):
            parameter.copy_(old + (parameter - old) * size)
        return loss

    def _any_slowed(self) -> bool:
        if self._known is not self.run_steps:
            self._known, self._slowed = self.run_steps, bool((self.run_steps != 1).any())
        return self._slowed
