"""The record of a full-batch training: moments before a step, every so many of them, with gradients for trackers."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._machine import describe_machine
from htf.nn import Factorization
from htf.training._recording import Recording
from htf.training.history import History, Recorder
from htf.training.objectives.base import Found
from htf.training.objectives.entries import Entries
from htf.training.optimizers import flow_rates
from htf.training.state_dicts import part_of
from htf.training.tracking import Moment

if TYPE_CHECKING:
    from htf.training.run import Training


class FullBatchRecord(Recording):
    """Losses, test errors and tracked quantities at every so many steps and at the last one.

    Where a loss is not finite there, the training ends with the parameters of the last recorded moment.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        assert isinstance(training.objective, Entries)
        assert isinstance(training.bare, Factorization)
        self.objective, self.network = training.objective, training.bare
        self._parameters = list(self.network.parameters())
        self._twice = training.every > 1 and any(tracker.consecutive for tracker in training.trackers.values())
        own = {
            "steps": 0,
            "stop": [repr(rule) for rule in training.rules],
            "made_by": describe_machine(training.device),
        }
        self.recorder = Recorder({**settings_of(training), **own})
        self.time = torch.zeros(training.runs, dtype=torch.float64, device=training.device)
        self.rate = torch.zeros_like(self.time)  # of the last step
        self._nothing = torch.full_like(self.time, torch.nan)
        self._last_loss = float("nan")
        self._warned = False
        self._good = (0, self._copies())

    def begin(self) -> None:
        self.recorder.settings["steps"] = self.training.steps

    @property
    def stopped(self) -> str:
        return self.recorder.stopped

    def summary(self) -> str:
        return f"loss {self._last_loss:.2e}"

    def before_step(self, found: Found, penalty: Tensor | None) -> bool:
        step, every = self.training.step, self.training.every
        if step % every == 0 or (self._twice and step % every == 1) or step >= self.training.steps:
            self._record(found.losses.detach())
        return not self.recorder.stopped

    def after_step(self, sums: list[Tensor]) -> None:
        rates = flow_rates(self.training.optimizer, self.network)
        self.rate = self._nothing if rates is None else rates
        self.time += self.rate

    def _record(self, losses: Tensor) -> None:
        training, step = self.training, self.training.step
        if not bool(losses.isfinite().all()):
            self._step_back(losses)
            return
        if step == 0:
            self._check_gradients(losses)
        self._good = (step, self._copies())
        self._last_loss = float(losses.max())
        row = {
            "time": self.time,
            "rate": self.rate,
            "loss": losses.double(),
            "test_error": self.objective.test_error(self.network).double(),
        }
        if not self._warned and self.objective.observations.test_inputs is not None:
            self._warned = warn_of_test_error(row["test_error"], f"step {step}")
        moment = moment_of(self.network, step, losses, self.objective)
        for name, tracker in training.trackers.items():
            row |= {f"tracked/{name}/{key}": value for key, value in tracker.measure(moment).items()}
        self.recorder.seconds = training.seconds
        self.recorder.add(step, row)
        if step >= training.steps:
            self.recorder.stopped = "steps"
        if step % training.every == 0:
            self.recorder.judge(training.rules)

    def _check_gradients(self, losses: Tensor) -> None:
        # A run without a loss has nothing to learn, and no gradient by right.
        norms = self.network.run_norms([p.grad for p in self._parameters if p.grad is not None])
        stuck = ((norms == 0) & (losses > 0)).nonzero().flatten().tolist()
        if stuck:
            raise ValueError(
                f"init: the gradient of run {stuck[0]} vanishes at the start (so it does in {len(stuck)} of "
                f"{self.network.runs} runs): its products of parameters are all zero in {self.network.dtype}; "
                "expected a start of larger entries"
            )

    @torch.no_grad()
    def _step_back(self, losses: Tensor) -> None:
        found = self.training.step
        if found == 0:
            check_start(losses, self.network)
        run = int((~losses.isfinite()).nonzero()[0])
        self.training.step, values = self._good
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
        self.recorder.stopped = (
            f"diverged: the loss of run {run} was {float(losses[run])} at step {found}; "
            f"the parameters are those of step {self.training.step}"
        )
        warnings.warn(self.recorder.stopped, RuntimeWarning, stacklevel=2)

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def history(self) -> History:
        self.recorder.seconds = self.training.seconds
        return self.recorder.history()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"history/{name}": tensor for name, tensor in self.recorder.history().tensors().items()}
        step, good = self._good
        tensors |= {f"good/{k}": value for k, value in enumerate(good)}
        return tensors | {"time": self.time, "rate": self.rate}, {
            "good": step,
            "rows": list(self.recorder.rows),
            "settings": self.recorder.settings,
            "stopped": self.recorder.stopped,
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        training = self.training
        self.time.copy_(tensors["time"])
        self.rate = tensors["rate"].to(self.time.device)
        good = part_of("good/", tensors)
        self._good = (state["good"], [good[str(k)].to(p.device) for k, p in enumerate(self._parameters)])
        mine, self.recorder.settings = self.recorder.settings, state["settings"]
        self.recorder.restore(
            part_of("history/", tensors), state["rows"], training.seconds, state["stopped"], training.every
        )
        stopped = self.recorder.stopped
        if stopped.startswith("diverged") or (stopped and training.step >= training.steps):
            return
        # A longer training, or one with other rules, goes on; the same rules stop it again where it is.  There the step
        # is recorded again if it is due, and is not part of this one if not.
        if stopped:
            self.recorder.stopped = ""
            self.recorder.drop_last()
        self.recorder.settings |= {"steps": training.steps, "stop": mine["stop"]}
        if mine["made_by"] != self.recorder.settings["made_by"]:
            self.recorder.settings["continued_by"] = mine["made_by"]


def settings_of(training: Training) -> dict[str, Any]:
    """Settings that a history gives of the training that it records."""
    assert isinstance(training.objective, Entries)
    return {
        "network": training.described_model,
        "problem": training.objective.observations.about,
        "loss": training.objective.loss.describe(),
        "optimizer": training.described_optimizer,
        "every": training.every,
        "trackers": training.described_trackers,
    }


def moment_of(network: Factorization, step: int, losses: Tensor, objective: Entries) -> Moment:
    """The state of a step, as trackers see it."""
    return Moment(network, step, losses, partial(network.end_gradient, objective.loss_of_ends))


def check_start(losses: Tensor, network: Factorization) -> None:
    """Refuse a start at which a run's loss is not finite.

    Raises
    ------
    ValueError
    """
    unusual = (~losses.isfinite()).nonzero().flatten().tolist()
    if unusual:
        raise ValueError(
            f"the loss of run {unusual[0]} is {float(losses[unusual[0]])} at the start; expected a network and targets "
            f"whose squares are in the range of {network.dtype}"
        )


def warn_of_test_error(errors: Tensor, when: str) -> bool:
    """Warn if one of the runs' errors, (runs,), is not finite; whether there was one."""
    unusual = (~errors.isfinite()).nonzero().flatten().tolist()
    if unusual:
        warnings.warn(
            f"the test error of run {unusual[0]} is {float(errors[unusual[0]])} at {when}: outputs at test entries are "
            "not finite, or their targets are all zero",
            RuntimeWarning,
            stacklevel=2,
        )
    return bool(unusual)
