"""Outputs of networks on trees in other forms than numbers: as logarithms, and up to a positive factor per sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from htf.engine import Plan
from htf.engine.contract import contract_logarithm

if TYPE_CHECKING:
    from htf.nn.networks.tree import TreeNetwork


def sign_and_logarithm(
    network: TreeNetwork, plan: Plan, leaves: list[Tensor], weights: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Signs, and natural logarithms of sizes, (batch, runs, outputs)."""
    value, exponent = contract_logarithm(plan, leaves, weights)
    if not plan.meets:
        exponent, own = network._common_exponents(value, exponent)
        value = network._read_out(value if own is None else value * own.exp2().unsqueeze(-1))
    zero = value.detach() == 0
    # The logarithm of zero has no derivative, and none of what is zero is to be NaN.
    log = torch.where(zero, 1, value).abs().log() + exponent.unsqueeze(-1) * math.log(2)
    return value.detach().sign(), torch.where(zero, -math.inf, log)
