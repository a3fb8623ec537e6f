"""Steps on fixed batches as CUDA graphs: hundreds of small launches become one or two.

A step of a small factorization is some hundred operations of microseconds each, and on a GPU the launches cost more
than the work.  A graph replays the very kernels of the eager step, so its numbers are those of the eager step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from htf.engine import Plan
from htf.engine.steps import Patterns
from htf.nn import MatrixPlan

_WARM = 3  # calls before the capture, as torch's documentation asks
# A capture takes as long as some steps, which have to be won back.
LEAST_REPLAYS = 20


class CapturedGradients:
    """A function of the parameters, captured with its gradients.

    Parameters
    ----------
    losses : callable
        Returns a tensor whose sum is to be differentiated, such as the loss of each run.  It must read the same
        memory at every call and decide nothing by values on the device.
    parameters : iterable of Parameter
        Leaves on one CUDA device.
    pool : optional
        Memory shared with the graphs of other batches: the `pool` of one of them.  Then each graph's losses have to be
        read before another is replayed.

    Attributes
    ----------
    losses : Tensor
        What the last replay computed; the next one overwrites it.
    pool
        See above.

    Raises
    ------
    RuntimeError
        If the function synchronizes with the host, or does something else that a graph cannot hold.
    """

    def __init__(self, losses: Callable[[], Tensor], parameters: Iterable[Tensor], pool: Any = None) -> None:
        self._parameters = list(parameters)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM):
                self._differentiate(losses)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.losses = self._differentiate(losses)
        self.pool = self._graph.pool()
        self._gradients = [parameter.grad for parameter in self._parameters]

    def __call__(self) -> Tensor:
        """Losses at the present parameters; their gradients are in ``grad`` until the next call."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()
        return self.losses

    def _differentiate(self, losses: Callable[[], Tensor]) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        found = losses()
        found.backward(torch.ones_like(found))
        return found.detach()


def is_replayable(inputs: object) -> bool:
    """Whether what a factorization does with a batch is decided: for plans but those of products in the log domain.

    These look at the factors, to take shorter ways where they are all positive or of like size.
    """
    if isinstance(inputs, Plan):
        return not any(isinstance(step.inputs, Patterns) for step in inputs.steps)
    return isinstance(inputs, MatrixPlan)


@runtime_checkable
class CapturableOptimizer(Protocol):
    """An optimizer whose step is a count on the host, and operations on fixed memory, which a graph can hold."""

    def count(self) -> None:
        """Count a step."""

    def move(self) -> None:
        """Change the parameters by their gradients."""


def captured(call: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """A graph of operations on memory that is there already, none of which runs by the capture."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call()
    return graph


class Replays:
    """The steps of a training that are replayed, by the batch.

    Parameters
    ----------
    parameters : sequence of Parameter
        On one CUDA device.
    optimizer : Optimizer
        Its step is replayed too if it is a `CapturableOptimizer`.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizer: Optimizer) -> None:
        self._parameters, self._optimizer = list(parameters), optimizer
        self._samples: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, CapturedGradients] = {}
        self._moves: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._latest: Hashable = None
        self._pool: Any = None
        self._possible = True

    def seen(self, key: Hashable, samples: int) -> None:
        """Note how many samples a batch has, which was differentiated as usual."""
        self._samples[key] = samples

    def losses(self, key: Hashable, losses: Callable[[], Tensor]) -> tuple[Tensor, int] | None:
        """Losses on a batch and its number of samples, with gradients at the parameters; None if it is none to replay.

        The first time that a batch is met, and where a capture fails, it is none.
        """
        self._latest = None
        if not self._possible or key not in self._samples:
            return None
        if key not in self._graphs and not self._captured(key, losses):
            return None
        self._latest = key
        return self._graphs[key](), self._samples[key]

    def _captured(self, key: Hashable, losses: Callable[[], Tensor]) -> bool:
        try:
            graph = CapturedGradients(losses, self._parameters, self._pool)
        except RuntimeError as error:
            self._possible = False
            warnings.warn(
                f"steps are not replayed as CUDA graphs, which takes longer: {str(error).splitlines()[0]}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        self._graphs[key], self._pool = graph, graph.pool
        return True

    def step(self) -> bool:
        """Take the optimizer's step on the gradients of the last replay; False if it is to be taken as usual."""
        key, optimizer = self._latest, self._optimizer
        if key is None or not isinstance(optimizer, CapturableOptimizer):
            return False
        optimizer.count()
        if key not in self._moves:
            self._moves[key] = captured(optimizer.move, self._pool)
        self._moves[key].replay()
        return True
