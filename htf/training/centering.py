"""Starts of fits: outputs brought to the mean of their targets."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from htf.engine import Plan
from htf.nn import Factorization


@torch.no_grad()
def center_outputs(network: Factorization, inputs: Tensor | Plan, targets: Tensor) -> None:
    """Rescale each output of each run so that its mean on `inputs` is the mean of its targets, in place.

    A fit that starts far above its targets spends its first steps shrinking, and overshoots.  An output whose mean, or
    whose targets' mean, is not positive is left as it is, unless both are negative.

    Parameters
    ----------
    network : Factorization
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

    See Also
    --------
    htf.nn.init.scale_preserving : a start whose outputs are near 1.
    htf.training.FitSettings : of fits that begin so.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.CPNetwork([2] * 8, rank=4, seed=0)
    >>> x = torch.randint(0, 2, (50, 8), generator=torch.Generator().manual_seed(0))
    >>> htf.training.center_outputs(net, x, torch.full((50,), 0.1))
    >>> round(net(x).mean().item(), 4)
    0.1
    """
    outputs = network(inputs)
    _check_targets(targets, outputs, network)
    means = outputs.mean(0).view(network.runs, network.outputs)
    targets = targets if targets.dtype.is_floating_point else targets.to(means.dtype)
    # Of a single output, targets have the runs last; of several, the outputs.
    wanted = targets.mean(0).to(means)
    ratio = (wanted.view(-1, 1) if network.outputs == 1 else wanted) / means
    lost = ~means.isfinite()
    if bool(lost.any()):
        runs = lost.view(network.runs, -1).any(1).nonzero().flatten().tolist()
        warnings.warn(
            f"center_outputs: the network's outputs are not finite at the start in runs {runs}; they are left as they "
            "are.  A start that knows its inputs, init=htf.nn.init.scale_preserving(inputs=...), keeps outputs near 1",
            RuntimeWarning,
            stacklevel=3,
        )
    factors = torch.where((ratio > 0) & ratio.isfinite(), ratio, torch.ones_like(ratio))
    network.rescale_(factors.squeeze(1) if network.outputs == 1 else factors)


def _check_targets(targets: Tensor, outputs: Tensor, network: Factorization) -> None:
    batch, runs, several = len(outputs), network.runs, network.outputs
    shapes = [(batch, runs), (batch,), (batch, 1)] if several == 1 else [(batch, runs, several), (batch, several)]
    if several == 1 and runs == 1:
        del shapes[0]
    if tuple(targets.shape) not in shapes:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; expected {' or '.join(map(str, shapes))}, as the network has "
            f"{runs} runs of {several} outputs and inputs has {batch} samples"
        )
