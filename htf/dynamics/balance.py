"""A tracker of how far parameters are from balance, on which rates in closed form depend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from htf.dynamics.trackers import wrong_network
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.training.tracking import Factorization, Moment, Tracker


def unbalancedness() -> Tracker:
    """Track how far the parameters of each run are from balance.

    Returns
    -------
    Tracker
        "unbalancedness", which records "unbalancedness", (runs,): what the network's method of that name returns.

    Notes
    -----
    Gradient flow keeps it; gradient descent changes it to second order in its steps, so that growth says that steps
    are too large to follow the flow.  The rates of `component_rates` are exact where it is 0.
    """
    return Unbalancedness()


class Unbalancedness(Tracker):
    """See `unbalancedness`."""

    name = "unbalancedness"

    def describe(self, network: Factorization) -> dict[str, Any]:
        if not isinstance(network, MatrixFactorization | CPNetwork | HTNetwork):
            raise wrong_network(self.name, network, "MatrixFactorization, CPNetwork or HTNetwork")
        return {}

    @torch.no_grad()
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        network = moment.network
        assert isinstance(network, MatrixFactorization | CPNetwork | HTNetwork)
        return {self.name: torch.stack([network.unbalancedness(run) for run in range(network.runs)]).double()}
