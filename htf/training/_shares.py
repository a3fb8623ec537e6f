"""One process, or several that share every batch through Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Alone:
    """A process that has every batch for itself."""

    rank, world = 0, 1

    def set_up(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        """Model and optimizer as they are to be called."""
        return model, optimizer

    def forward_and_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context for all calls of the model in a step, and the backward pass."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process's share of the batch."""
        loss.backward()

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        return value

    def together(self) -> None:
        """Wait until every process is here."""


class Several(Alone):
    """Processes of a launched Fabric.

    Every process takes an equal share of each batch.  Gradients are averaged after the backward pass rather than
    within it: the hooks of DistributedDataParallel bear neither several forward passes before a backward pass nor
    gradients of gradients.

    Parameters
    ----------
    fabric : lightning_fabric.Fabric
        Launched.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def set_up(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        found: tuple[nn.Module, Any] = self.fabric.setup(model, optimizer)
        return found

    def forward_and_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.fabric.no_backward_sync(model, enabled=self.world > 1)
        return context

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        if self.world == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        for group in groups.values():
            # One message for all.
            mean = self.fabric.all_reduce(torch.cat([tensor.reshape(-1) for tensor in group]), reduce_op="mean")
            for tensor, part in zip(group, mean.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def total(self, value: Tensor) -> Tensor:
        found: Tensor = self.fabric.all_reduce(value.clone(), reduce_op="sum") if self.world > 1 else value
        return found

    def together(self) -> None:
        self.fabric.barrier()
