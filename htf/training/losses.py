"""Losses of fits: means over the observations, one value per run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss by name; call it on (batch, runs) outputs and (batch, runs) or (batch, 1) targets for one value per run.

    Attributes
    ----------
    name : {"l2", "l1", "huber"}
        The mean square of the differences, their mean magnitude, or the mean of Huber's function, d²/(2t) where
        the magnitude d is below the threshold t, and d - t/2 beyond.
    threshold : float
        Of "huber", above 0; the others have none.

    Raises
    ------
    ValueError
        For an unknown name, or a threshold that is not above 0.

    See Also
    --------
    htf.training.fit, htf.training.objectives.entries : take it.

    Examples
    --------
    >>> import torch, htf
    >>> htf.training.Loss("huber", threshold=0.5)(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.25], [0.0]]))
    tensor([0.9062])
    """

    name: str = "l2"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in _BY_NAME:
            raise ValueError(f"loss is {self.name!r}; known are {', '.join(_BY_NAME)}")
        if not self.threshold > 0:
            raise ValueError(f"threshold is {self.threshold}; expected above 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each run, (runs,)."""
        return _BY_NAME[self.name](outputs - targets, self.threshold).mean(0)

    def describe(self) -> dict[str, Any]:
        """Settings, as JSON can hold them."""
        return {"name": self.name} | ({"threshold": self.threshold} if self.name == "huber" else {})


def _huber(differences: Tensor, threshold: float) -> Tensor:
    sizes = differences.abs()
    inside = sizes.clamp(max=threshold)
    # One expression for both sides, smooth where they meet: inside²/2t + (size - inside).
    return inside.square() / (2 * threshold) + (sizes - inside)


_BY_NAME: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l2": lambda differences, _: differences.square(),
    "l1": lambda differences, _: differences.abs(),
    "huber": _huber,
}
