"""Records of a fit in training: the interface between the loop and its trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from htf._repr import brief
from htf.nn import Factorization


@dataclass(frozen=True)
class Moment:
    """The state of a fit just before a step, with gradients.

    Attributes
    ----------
    network : Factorization
        The ``grad`` of its parameters is that of the sum of all runs' losses, hence each run's own.
    step : int
        Steps taken so far.
    losses : Tensor
        (runs,), detached.
    end_gradient : callable
        Returns the gradient of each run's loss with respect to its end matrix, (runs, d, d'); a TypeError where there
        are no end matrices.

    See Also
    --------
    htf.training.Tracker : measures it.

    Examples
    --------
    >>> import htf
    >>> class GradientNorm(htf.training.Tracker):
    ...     name = "gradient"
    ...
    ...     def describe(self, network):
    ...         return {}
    ...
    ...     def measure(self, moment):
    ...         gradients = [parameter.grad for parameter in moment.network.parameters()]
    ...         return {"norm": moment.network.run_norms(gradients), "loss": moment.losses}
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, runs=3, seed=0)
    >>> history = htf.training.fit(net, problem, steps=50, track=GradientNorm())
    >>> history["gradient"]["norm"].shape
    torch.Size([3, 3])
    """

    network: Factorization
    step: int
    losses: Tensor
    end_gradient: Callable[[], Tensor]

    __repr__ = brief


class Tracker(ABC):
    """Something to be recorded during a fit; subclasses are in `htf.dynamics`.

    Attributes
    ----------
    name : str
        Under which a history holds the record.
    consecutive : bool
        Whether to measure again one step later, so that a history holds differences over single steps.

    See Also
    --------
    htf.dynamics.singular_values, htf.dynamics.norms, htf.dynamics.unbalancedness : trackers that there are.
    htf.training.fit : takes them.

    Examples
    --------
    >>> import htf
    >>> class Trace(htf.training.Tracker):
    ...     name = "trace"
    ...
    ...     def describe(self, network):
    ...         return {}
    ...
    ...     def measure(self, moment):
    ...         return {"end matrix": moment.network.end_matrices().detach().diagonal(dim1=1, dim2=2).sum(1)}
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, runs=3, seed=0)
    >>> history = htf.training.fit(net, problem, steps=50, track=Trace())
    >>> history["trace"]["end matrix"].shape  # moments, runs
    torch.Size([3, 3])
    """

    name: str
    consecutive: bool = False

    @abstractmethod
    def describe(self, network: Factorization) -> dict[str, Any]:
        """Settings as JSON can hold them, and what is to be known of the network to read the record.

        Raises
        ------
        TypeError, ValueError
            If this cannot be tracked for this network.
        """

    @abstractmethod
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        """Tensors whose first axis is the runs; names and shapes are the same at every moment of a fit."""


def describe_network(network: Factorization) -> dict[str, Any]:
    """Everything about a network that a checkpoint has to agree with, as JSON can hold it."""
    shapes = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
    about = {"network": type(network).__name__, "dims": list(network.dims), "runs": network.runs, **shapes}
    return {**about, **network.structure(), "dtype": str(network.dtype)}


def tracker_names(track: Tracker | Sequence[Tracker]) -> dict[str, Tracker]:
    """Trackers by name."""
    given = list(track) if isinstance(track, Sequence) else [track]
    trackers: dict[str, Tracker] = {}
    for tracker in given:
        if not isinstance(tracker, Tracker):
            raise TypeError(f"track holds {tracker!r}; expected trackers, such as htf.dynamics.norms()")
        if tracker.name in trackers:
            raise ValueError(f"track holds {tracker.name} twice")
        trackers[tracker.name] = tracker
    return trackers
