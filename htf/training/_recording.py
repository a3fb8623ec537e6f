"""What a training keeps of its losses, when it judges them, and what it does where they are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from htf.training.history import History
from htf.training.objectives.base import Found

if TYPE_CHECKING:
    from htf.training.run import Training


class Recording:
    """The part of a training that keeps its record.

    Parameters
    ----------
    training : Training
        Whose model, objective and optimizer are there by now.
    """

    def __init__(self, training: Training) -> None:
        self.training = training

    @property
    def stopped(self) -> str:
        """Why nothing is left to do; "" while something is."""
        raise NotImplementedError

    def begin(self) -> None:
        """Note how long the training is to be, before a checkpoint is read."""

    def before_step(self, found: Found, penalty: Tensor | None) -> bool:
        """Look at the losses on a batch, with gradients at hand; whether the step is to be taken."""
        return True

    def sums(self, found: Found, penalty: Tensor | None) -> list[Tensor]:
        """What is to be added over an epoch; means over the processes take their place if there are several."""
        return []

    def after_step(self, sums: list[Tensor]) -> None:
        """Add them, once the step is taken."""

    def after_epoch(self) -> None:
        """Measure, judge and keep."""

    def check(self) -> None:
        """Raise if the present state is not to be saved."""

    def summary(self) -> str:
        """A few words for a bar of progress."""
        return ""

    def history(self) -> History:
        """The record so far."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What has been kept: tensors, and what JSON can hold."""
        raise NotImplementedError

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `state`, once the training has its own state back."""
        raise NotImplementedError
