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

    See Also
    --------
    htf.nn.init.balanced : a start where it is 0.
    htf.dynamics.compare_rates : theory, which holds where it is small.

    Notes
    -----
    Gradient flow keeps it; gradient descent changes it to second order in its steps, so that growth says that steps
    are too large to follow the flow.  The rates of `component_rates` are exact where it is 0.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, init="balanced", seed=0)
    >>> history = htf.training.fit(net, problem, steps=50, track=htf.dynamics.unbalancedness())
    >>> bool(history["unbalancedness"]["unbalancedness"].max() < 1e-3)
    True
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
