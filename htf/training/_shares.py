"""One process, or several that share every batch through Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from htf._outputs import precise


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
    within it, in one message with the buffers.

    Parameters
    ----------
    fabric : lightning_fabric.Fabric
        Launched.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def set_up(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        # Starts all processes from the first one's weights.
        self._wrapped, stepping = self.fabric.setup(model, optimizer)
        return _InPrecision(model, self.fabric), stepping

    def forward_and_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.fabric.no_backward_sync(self._wrapped, enabled=self.world > 1)
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


class _InPrecision(nn.Module):
    """A model called in the precision of a Fabric.

    Not what a Fabric makes of it: in mixed precision, that lets no gradients be taken but by `Fabric.backward`, and
    regularizers take gradients at images.
    """

    def __init__(self, model: nn.Module, fabric: Any) -> None:
        super().__init__()
        self.model, self._fabric = model, fabric

    def forward(self, x: Tensor) -> Tensor:
        with self._fabric.autocast():
            out: Tensor = self.model(x)
        return precise(out)

    def __getattr__(self, name: str) -> Any:
        """Regularizers of trees look at parts of the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)
