"""How a classifier is trained, and what may be added to its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from htf._checks import check_seed, finite, positive
from htf.training._callables import describe_callable


class Regularizer(Protocol):
    """Term of a loss: a function of model, images, labels and outputs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, out: Tensor, /) -> Tensor:
        """A scalar."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A regularizer that remembers something between steps, such as what its generator drew."""

    def state(self) -> dict[str, Any]:
        """State to be saved: tensors, and what JSON can hold."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        ...


@dataclass(frozen=True)
class ClassifySettings:
    """How a classifier is trained: stochastic gradient descent with momentum at a constant rate, as in the papers.

    Attributes
    ----------
    epochs : int
        At most.
    batch_size : int
        At most; an epoch is split into as few batches as that allows, of sizes that differ by no more than one.
    lr, momentum, weight_decay : float
    max_seconds : float, optional
        No epoch begins after so long.
    stop_after_perfect : int, optional
        Stop when so many epochs in a row had a training accuracy of 1.
    seed : int
        Of the order of images, and of dropout.

    See Also
    --------
    htf.training.classify, htf.training.Stage : take them.
    htf.training.Training : other optimizers and schedules.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import htf
    >>> settings = htf.training.ClassifySettings(epochs=100, lr=0.1, stop_after_perfect=2)
    >>> [replace(settings, seed=seed).seed for seed in range(3)]  # repeated trainings
    [0, 1, 2]
    """

    epochs: int = 60
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    max_seconds: float | None = None
    stop_after_perfect: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # Numbers of NumPy are numbers too, which JSON cannot hold.
        for name in ("epochs", "batch_size", "stop_after_perfect"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, positive(name, count))
        if self.max_seconds == math.inf:
            object.__setattr__(self, "max_seconds", None)
        for name in ("lr", "momentum", "weight_decay", "max_seconds"):
            if (number := getattr(self, name)) is not None:
                object.__setattr__(self, name, finite(name, number))
        if self.batch_size < 2:
            raise ValueError(
                "batch_size is 1; expected at least 2, as batch statistics and regularizers compare samples"
            )
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; expected above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected from 0 to below 1")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected at least 0")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds is {self.max_seconds}; expected above 0")
        if isinstance(self.seed, bool):
            raise TypeError(f"seed is {self.seed!r}; expected an integer")
        object.__setattr__(self, "seed", check_seed(self.seed))


def describe_regularizer(regularizer: Regularizer | None) -> str | None:
    """Description of a regularizer, by its repr, or the name and the values of a function."""
    return None if regularizer is None else describe_callable(regularizer)
