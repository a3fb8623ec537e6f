"""Gradient descent whose step is divided by the running size of the whole gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from htf.nn import Factorization


class GroupRMSprop(torch.optim.Optimizer):
    r"""Gradient descent with the step :math:`\eta / (\sqrt{\bar g} + \epsilon)`, one for all parameters of a run.

    :math:`\bar g` is the running mean of the squared norm of the run's whole gradient, corrected for its start at zero.
    Every parameter moves along the gradient, as under plain gradient descent, so the path is that of the gradient flow
    at another speed: plateaus near zero, where gradients are tiny, are crossed in few steps.  The papers train with it.

    Parameters
    ----------
    network : CPNetwork, HTNetwork or MatrixFactorization
        Runs have steps of their own, as if each were trained alone.
    lr : float
        :math:`\eta`, about the norm of one step.
    alpha : float
        Decay of the running mean, from 0 to below 1.
    eps : float
        :math:`\epsilon`: where the gradient's norm is below it, steps are those of plain descent with ``lr / eps``.
        The papers' code has 1e-6.  The gradient of an order-4 hierarchical factorization of width 64 that starts at
        1e-2 has a norm of 5e-11, so there nothing would move for long.

    Attributes
    ----------
    rates : Tensor
        (runs,) float64; what multiplied the gradient in the last step, 0 as long as a run's gradient is zero.

    Raises
    ------
    ValueError
        If `lr` is not above 0, `alpha` not from 0 to below 1, or `eps` below 0.

    See Also
    --------
    htf.training.fit : takes it by default, as "group_rmsprop".
    htf.training.RelativeAdam : for networks of many modes.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=3, runs=2, init=htf.nn.init.balanced(1e-6), seed=0)
    >>> optimizer = htf.training.GroupRMSprop(net, lr=0.01)
    >>> target = torch.eye(8)
    >>> for step in range(10):
    ...     optimizer.zero_grad()
    ...     (net.end_matrices() - target).square().mean((1, 2)).sum().backward()
    ...     optimizer.step()
    >>> bool((optimizer.rates > 1).all())  # gradients are tiny near zero, steps are not
    True
    """

    def __init__(self, network: Factorization, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-20) -> None:
        if not lr > 0:
            raise ValueError(f"lr is {lr}; expected above 0")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected from 0 to below 1")
        if not eps >= 0:
            raise ValueError(f"eps is {eps}; expected at least 0")
        super().__init__(network.parameters(), {"lr": lr, "alpha": alpha, "eps": eps})
        self._network = network
        self._parameters = list(network.parameters())
        # In double precision: squares of tiny gradients underflow in single.
        zeros = torch.zeros(network.runs, dtype=torch.float64, device=network.device)
        self.state[self._parameters[0]] = {"step": 0, "mean_square": zeros}
        self.rates = zeros
        # 1 - alpha^step and the rate: on a GPU in its memory, where a graph of `move` reads them.
        self._on_device = network.device.type == "cuda"
        self._numbers: Any = torch.ones(2, dtype=torch.float64, device=network.device) if self._on_device else (1, lr)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every run, from the parameters' gradients; all must have one."""
        if closure is not None:
            raise ValueError("closure is given; the step is taken from gradients that are there")
        self.count()
        self.move()

    def count(self) -> None:
        """Count a step, for which `move` is then called, or a graph of it replayed."""
        group, state = self.param_groups[0], self.state[self._parameters[0]]
        state["step"] += 1
        numbers = 1 - group["alpha"] ** state["step"], group["lr"]
        if not self._on_device:
            self._numbers = numbers
            return
        for place, number in zip(self._numbers, numbers, strict=True):
            place.fill_(number)

    @torch.no_grad()
    def move(self) -> None:
        """Move the parameters, once the step is counted: the same operations on the same memory at every call."""
        group, state = self.param_groups[0], self.state[self._parameters[0]]
        gradients = [_gradient(parameter) for parameter in self._parameters]
        norms = self._network.run_norms(gradients).double()
        correction, lr = self._numbers
        mean = state["mean_square"].mul_(group["alpha"]).addcmul_(norms, norms, value=1 - group["alpha"])
        corrected = mean / correction
        # A run without any gradient so far stands still.
        self.rates = torch.where(mean > 0, lr / (corrected.sqrt_().add_(group["eps"])), 0)
        rates = self._network.spread(self.rates.to(gradients[0].dtype))
        for parameter, gradient, rate in zip(self._parameters, gradients, rates, strict=True):
            parameter.addcmul_(gradient, rate, value=-1)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError(f"a parameter of shape {tuple(parameter.shape)} has no gradient; call backward first")
    return parameter.grad
