"""Rules that end a fit early: functions of what was recorded, so that a resumed fit stops where it would have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from htf._checks import positive

StoppingRule = Callable[[Tensor, Tensor, float], str]
"""From steps (T,), losses (T, runs) there and seconds of training to the reason for stopping, or "" to go on."""


@dataclass(frozen=True)
class LossBelow:
    """Stop when the loss of every run has stayed below a value.

    Parameters
    ----------
    value : float
        Above 0; the papers take 5e-5.
    moments : int
        Recorded moments in a row, `every` steps apart.

    Raises
    ------
    ValueError, TypeError
        If `value` is not above 0, or `moments` no integer of at least 1.
    """

    value: float
    moments: int = 1

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"value is {self.value}; expected above 0")
        positive("moments", self.moments)

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        last = losses[-self.moments :]
        if len(last) == self.moments and bool((last < self.value).all()):
            return f"the loss of every run was below {self.value:g} at {self.moments} recorded moments in a row"
        return ""


@dataclass(frozen=True)
class NoProgress:
    """Stop when no run's best loss has fallen by a share for some time.

    Near zero the loss is flat for long before components rise: `steps` should be longer than such a plateau.

    Parameters
    ----------
    steps : int
        Without progress.
    share : float
        What counts as progress: a fall of the best loss by this share of it, between 0 and 1.

    Raises
    ------
    ValueError, TypeError
        If `steps` is no integer of at least 1, or `share` not between 0 and 1.
    """

    steps: int
    share: float = 0.01

    def __post_init__(self) -> None:
        positive("steps", self.steps)
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; expected between 0 and 1")

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        before = steps <= steps[-1] - self.steps
        if not bool(before.any()):
            return ""
        earlier, best = losses[before].amin(0), losses.amin(0)
        if bool((best >= (1 - self.share) * earlier).all()):
            return f"no run's loss fell by {self.share:.0%} within {self.steps} steps"
        return ""


@dataclass(frozen=True)
class TimeLimit:
    """Stop after so many seconds of training; where that is depends on the machine.

    Parameters
    ----------
    seconds : float
        Above 0.

    Raises
    ------
    ValueError
        If it is not.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; expected above 0")

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        return f"{self.seconds:g} seconds have passed" if seconds >= self.seconds else ""
