"""A tracker of how far parameters are from balance, on which rates in closed form depend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from htf.dynamics.trackers import check_factorization
from htf.nn import Factorization
from htf.training.tracking import Moment, Tracker


def unbalancedness() -> Tracker:
    """Track how far the parameters of each run are from balance.

    Returns
    -------
    Tracker
        "unbalancedness", which records "unbalancedness", (runs,): the result of the network's method of that name.

    Raises
    ------
    TypeError
        At the start of a fit, for a factorization of which no balance is defined.

    Notes
    -----
    Gradient flow keeps it; gradient descent changes it to second order in its steps, so that growth says that steps
    are too large to follow the flow.  The rates of `component_rates` are exact where it is 0.
    """
    return Unbalancedness()


class Unbalancedness(Tracker):
    """See `unbalancedness`."""

    name = "unbalancedness"

    @torch.no_grad()
    def describe(self, network: Factorization) -> dict[str, Any]:
        check_factorization(self.name, network)
        # Refused at the start of a fit rather than at its first record.
        network.unbalancedness()
        return {}

    @torch.no_grad()
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        network = moment.network
        return {self.name: torch.stack([network.unbalancedness(run) for run in range(network.runs)]).double()}
