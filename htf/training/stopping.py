"""Rules that end a fit early: functions of what was recorded, so that a resumed fit stops where it would have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from htf._checks import finite, positive

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

    See Also
    --------
    htf.training.NoProgress, htf.training.TimeLimit, htf.training.early_stopping : other rules.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.05, steps=1000, stop=htf.training.LossBelow(1e-3))
    >>> history.stopped, int(history.steps[-1]) < 1000
    ('the loss of every run was below 0.001 at 1 recorded moments in a row', True)
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

    See Also
    --------
    htf.training.LossBelow, htf.training.TimeLimit, htf.training.early_stopping : other rules.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.05, steps=1000, stop=htf.training.NoProgress(steps=100))
    >>> history.stopped, int(history.steps[-1]) < 1000
    ("no run's loss fell by 1% within 100 steps", True)
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

    See Also
    --------
    htf.training.LossBelow, htf.training.NoProgress, htf.training.early_stopping : other rules.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, seed=0)
    >>> history = htf.training.fit(net, problem, steps=100_000, stop=htf.training.TimeLimit(seconds=0.1))
    >>> int(history.steps[-1]) < 100_000
    True
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; expected above 0")

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        return f"{self.seconds:g} seconds have passed" if seconds >= self.seconds else ""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when no run has become better for some moments in a row; made by `early_stopping`."""

    patience: int = 5
    on: str | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        positive("patience", self.patience)
        if not self.least >= 0:
            raise ValueError(f"least is {self.least}; expected at least 0")
        if self.on is not None and not isinstance(self.on, str):
            raise TypeError(f"on is a {type(self.on).__name__}; expected the name of a recorded quantity")

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        if len(losses) <= self.patience:
            return ""
        earlier, later = losses[: -self.patience].amin(0), losses[-self.patience :].amin(0)
        if bool((later < earlier - self.least).any()):
            return ""
        return f"no better {self.on or 'value'} at {self.patience} recorded moments in a row"


def early_stopping(patience: int = 5, *, on: str | None = None, least: float = 0.0) -> EarlyStopping:
    """Stop a training when what judges it has not become better for some epochs.

    Parameters
    ----------
    patience : int
        Recorded moments in a row without a better value; epochs, for a training in batches.
    on : str, optional
        "loss", or a measured quantity such as "validation/accuracy", of which the higher is the better; any other is
        the better the lower.  By default that which chooses the objective's best epoch, or the loss.
    least : float
        What counts as better: a change by more than this.

    Returns
    -------
    callable
        A rule for `Training`.

    Raises
    ------
    ValueError, TypeError
        If `patience` is no integer of at least 1, or `least` below 0; in training, if `on` is not recorded.

    See Also
    --------
    htf.training.reached : when it is learned.
    htf.training.NoProgress, htf.training.LossBelow, htf.training.TimeLimit : other rules.

    Examples
    --------
    >>> import torch, htf
    >>> rule = htf.training.early_stopping(patience=2)
    >>> rule(torch.tensor([1, 2, 3]), torch.tensor([[0.5], [0.6], [0.5]]), 0.0)
    'no better value at 2 recorded moments in a row'
    """
    return EarlyStopping(patience, on, least)


@dataclass(frozen=True)
class Reached:
    """Stop when every run has reached a value; made by `reached`."""

    value: float
    on: str = "validation/accuracy"
    moments: int = 1

    def __post_init__(self) -> None:
        finite("value", self.value)
        if not isinstance(self.on, str) or not self.on:
            raise TypeError(f"on is {self.on!r}; expected the name of a recorded quantity")
        if self.on.endswith("accuracy") and not 0 < self.value <= 1:
            raise ValueError(f"value is {self.value} and on is {self.on!r}; expected above 0 and at most 1")
        positive("moments", self.moments)

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        """Reason to stop, or ""."""
        # Accuracies come as 1 - accuracy, of which the difference has a rounding error of its own.
        accuracy = self.on.endswith("accuracy")
        limit = 1 - self.value + 1e-12 if accuracy else self.value
        last = losses[-self.moments :]
        if len(last) < self.moments or not bool((last <= limit).all()):
            return ""
        return f"{self.on} reached {self.value:g}" + (
            f" at {self.moments} recorded moments in a row" if self.moments > 1 else ""
        )


def reached(value: float, *, on: str = "validation/accuracy", moments: int = 1) -> Reached:
    """Stop a training when what was to be learned is learned.

    Parameters
    ----------
    value : float
        At least this accuracy, or at most this loss or error.
    on : str
        "loss", or a measured quantity such as "validation/accuracy".
    moments : int
        Recorded moments in a row; epochs, for a training in batches.

    Returns
    -------
    callable
        A rule for `Training`, `classify`, and stages of a `curriculum`.

    Raises
    ------
    ValueError, TypeError
        If `value` is not finite, or no accuracy above 0 and up to 1 where `on` is one, or `moments` no integer of at
        least 1; in training, if `on` is not recorded.

    See Also
    --------
    htf.training.early_stopping : when it no longer becomes better.
    htf.training.LossBelow : losses alone.

    Examples
    --------
    >>> import torch, htf
    >>> rule = htf.training.reached(0.9)
    >>> rule(torch.tensor([1, 2]), torch.tensor([[0.4], [0.05]]), 0.0)  # errors: 1 - accuracy
    'validation/accuracy reached 0.9'
    """
    return Reached(value, on, moments)


def as_rules(rules: StoppingRule | Iterable[StoppingRule]) -> list[StoppingRule]:
    """One rule or several as a list."""
    if not callable(rules) and not isinstance(rules, Iterable):
        raise TypeError(f"rules is a {type(rules).__name__}; expected stopping rules")
    found = [rules] if callable(rules) else list(rules)
    for rule in found:
        if not callable(rule):
            raise TypeError(f"rules holds {rule!r}; expected callables of (steps, losses, seconds)")
    return found
