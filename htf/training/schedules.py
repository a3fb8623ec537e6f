"""Schedules: how the learning rate changes from step to step."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from htf.training._callables import describe_callable

ScheduleLike = str | Callable[..., Any]
# Share of the steps in which the rate of "one_cycle" rises.
RISE = 0.3


def _one_cycle(step: int, steps: int) -> float:
    rise = max(round(RISE * steps), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise + 1) / (steps - rise + 1)))


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _linear(step: int, steps: int) -> float:
    return 1 - step / steps


_BY_NAME: dict[str, Callable[[int, int], float]] = {"cosine": _cosine, "linear": _linear, "one_cycle": _one_cycle}


class Schedule:
    """A constant rate; the base of the others.

    Attributes
    ----------
    needs_steps : bool
        Whether rates depend on the number of steps in all.
    """

    needs_steps = False

    def begin(self, steps: int) -> None:
        """Note the number of steps in all."""

    def before_step(self, step: int) -> None:
        """Set the rate of a step."""

    def after_step(self) -> None:
        """Do what is done after a step."""

    def describe(self) -> Any:
        """Name and settings, as JSON can hold them."""
        return "constant"

    def state(self) -> dict[str, Any]:
        """State to be saved, as JSON can hold it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""


class _Shares(Schedule):
    """Rates that are a share of the first ones, by the number of the step."""

    needs_steps = True

    def __init__(self, optimizer: Optimizer, name: str, share: Callable[[int, int], float]) -> None:
        self._optimizer, self._name, self._share, self._steps = optimizer, name, share, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def begin(self, steps: int) -> None:
        self._steps = steps

    def before_step(self, step: int) -> None:
        share = self._share(step, self._steps)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise TypeError(f"schedule returned a {type(share).__name__}; expected a number, the share of lr")
        if not 0 <= share < math.inf:
            raise ValueError(f"schedule returned {share} for step {step} of {self._steps}; expected at least 0")
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def describe(self) -> Any:
        return self._name


class _OfTorch(Schedule):
    """A scheduler of torch."""

    def __init__(self, optimizer: Optimizer, make: Callable[..., Any]) -> None:
        made = make(optimizer)
        if not isinstance(made, LRScheduler) or isinstance(made, ReduceLROnPlateau):
            raise TypeError(
                f"schedule made a {type(made).__name__}; expected a torch scheduler that is stepped without a metric"
            )
        self._scheduler = made
        self._about = {"name": type(made).__name__, **_plain(made.state_dict()), **_functions(made)}
        try:
            json.dumps(self._about)
        except TypeError as error:
            raise TypeError(
                f"schedule is a {type(made).__name__}, whose state a checkpoint cannot hold ({error})"
            ) from error

    def after_step(self) -> None:
        with warnings.catch_warnings():
            # A step of an optimizer that a Fabric has wrapped, or a subclass replaced, is not seen by torch.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._scheduler.step()

    def describe(self) -> Any:
        return self._about

    def state(self) -> dict[str, Any]:
        return _plain(self._scheduler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(_merged(self._scheduler.state_dict(), state))


def make_schedule(schedule: ScheduleLike, optimizer: Optimizer) -> Schedule:
    """A schedule of a name, a function of (step, steps), or a scheduler class of torch or a partial of one."""
    if isinstance(schedule, str):
        if schedule == "constant":
            return Schedule()
        if schedule not in _BY_NAME:
            known = ", ".join(["constant", *_BY_NAME])
            raise ValueError(
                f"schedule is {schedule!r}; known are {known}, a function of (step, steps), or one of torch"
            )
        return _Shares(optimizer, schedule, _BY_NAME[schedule])
    made_from = schedule.func if isinstance(schedule, partial) else schedule
    if isinstance(made_from, type) and issubclass(made_from, LRScheduler):
        return _OfTorch(optimizer, schedule)
    if not callable(schedule) or isinstance(schedule, type):
        what = schedule.__name__ if isinstance(schedule, type) else f"a {type(schedule).__name__}"
        raise TypeError(
            f"schedule is {what}; expected a name, a function of (step, steps), or a scheduler class of torch"
        )
    return _Shares(optimizer, describe_callable(schedule), schedule)


def _functions(scheduler: LRScheduler) -> dict[str, str]:
    """Functions that a scheduler, or one of those it is made of, was given: its state has nothing of them."""
    found = {}
    for name, value in vars(scheduler).items():
        for k, each in enumerate(value if isinstance(value, list | tuple) else [value]):
            if (
                isinstance(each, FunctionType | partial)
                and getattr(each, "__module__", "") != "torch.optim.lr_scheduler"
            ):
                found[f"{name} {k}"] = describe_callable(each)
            elif isinstance(each, LRScheduler):
                found |= {f"{name} {k} {inner}": text for inner, text in _functions(each).items()}
    return found


def _plain(value: Any) -> Any:
    """Part of a scheduler's state that JSON can hold; functions are known by their classes alone."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not callable(item)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _merged(own: Any, saved: Any) -> Any:
    """A scheduler's state with what was saved of it; what JSON changes, such as dicts of numbers, stays its own."""
    if isinstance(own, dict):
        return {key: _merged(value, saved[key]) if key in saved else value for key, value in own.items()}
    if isinstance(own, list | tuple):
        return type(own)(_merged(*pair) for pair in zip(own, saved, strict=True)) if len(own) == len(saved) else saved
    return saved
