"""Starts of fits: outputs brought to the mean of their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from htf.engine import Plan
from htf.nn._network import TreeNetwork


@torch.no_grad()
def center_outputs(network: TreeNetwork, inputs: Tensor | Plan, targets: Tensor) -> None:
    """Rescale each run so that its mean output on `inputs` is the mean of its targets, in place.

    A fit that starts far above its targets spends its first steps shrinking, and overshoots.  Runs with a mean output
    or target that is not positive are left as they are.

    Parameters
    ----------
    network : CPNetwork or HTNetwork
    inputs : Tensor or Plan
    targets : Tensor
        (batch, runs).
    """
    outputs = network(inputs).mean(0)
    ratio = targets.mean(0).to(outputs) / outputs
    network.rescale_(torch.where((ratio > 0) & ratio.isfinite(), ratio, torch.ones_like(ratio)))
