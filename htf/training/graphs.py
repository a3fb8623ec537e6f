"""Losses and gradients of a fixed batch as one CUDA graph: hundreds of small launches become one.

A step of a small factorization is some hundred operations of microseconds each, and on a GPU the launches cost more
than the work.  A graph replays the very kernels of the eager step, so its numbers are those of the eager step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_WARM = 3  # calls before the capture, as torch's documentation asks


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
