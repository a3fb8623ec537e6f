"""The record of a training in batches: a row after each epoch, the best epoch's weights, and when to stop."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._machine import describe_machine
from htf.nn import Factorization
from htf.training._recording import Recording
from htf.training.history import History, Recorder
from htf.training.objectives.base import Found
from htf.training.state_dicts import copy_weights, part_of
from htf.training.tracking import Moment

if TYPE_CHECKING:
    from htf.training.run import Training


class Epochs(Recording):
    """Mean losses of epochs, what the objective measures after each, and the weights of the best.

    Attributes
    ----------
    best : dict of Tensor
        Weights of the epoch at which the objective's `judge` was highest; of the last one without a judge.
    best_epoch : int
        Its number, from 1; 0 before the first.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        about = training.about
        made_by = describe_machine(training.device)
        self.recorder = Recorder({**about, "trackers": dict(training.described_trackers), "made_by": made_by})
        self._names: tuple[str, ...] = ()  # of what is added up
        self._sums: Tensor | None = None
        self._reason = ""
        self._warned = False
        self.best = copy_weights(training.bare)
        self.best_epoch = 0

    def begin(self) -> None:
        self.recorder.settings["steps"] = self.training.steps
        self.recorder.settings["rules"] = [repr(rule) for rule in self.training.rules]

    @property
    def epochs(self) -> int:
        """Number of epochs recorded."""
        return len(self.recorder.steps)

    @property
    def stopped(self) -> str:
        if self.training.batch or not self.epochs:
            return ""
        return "epochs" if self.training.step >= self.training.steps else self._reason

    def summary(self) -> str:
        """The measured quantity that judges, or the mean loss of the last epoch."""
        if not self.epochs:
            return ""
        judge = self.training.objective.judge
        return f"{judge or 'loss'} {float(self.row(judge)[0]):.3g}"

    def row(self, name: str = "", epoch: int = -1) -> Tensor:
        """Record of an epoch, (runs,): a measured quantity, or "" for the loss."""
        return self.recorder.rows[f"tracked/{name}" if name else "loss"][epoch]

    def sums(self, found: Found, penalty: Tensor | None) -> list[Tensor]:
        """(losses of the runs, penalty, counts, samples), float64, added over samples."""
        losses = found.losses.detach().reshape(-1).double() * found.samples
        added = losses.new_zeros(()) if penalty is None else penalty.double() * found.samples
        counts = list(found.counts.values())
        self._names = ("penalty", *found.counts, "samples")
        rest = torch.stack([added, *counts, added.new_full((), found.samples)])
        return [torch.cat([losses, rest])]

    def after_step(self, sums: list[Tensor]) -> None:
        (sums_of_step,) = sums
        self._sums = sums_of_step if self._sums is None else self._sums + sums_of_step

    def after_epoch(self) -> None:
        training = self.training
        assert self._sums is not None
        self.check()
        sums, self._sums = self._sums.cpu(), None
        runs = len(sums) - len(self._names)
        means = sums[:-1] / sums[-1]
        number = self.epochs + 1
        measured = training.objective.measure(training.model, number)
        self._look(measured, number)
        seconds = torch.tensor([training.elapsed()], dtype=torch.float64, device=training.device)
        # One clock for all processes: they have to stop together.
        training.processes.average([seconds])
        training.restart_clock(float(seconds))
        nothing = torch.full((runs,), torch.nan, dtype=torch.float64, device="cpu")
        row = {"time": nothing, "rate": nothing, "loss": means[:runs], "test_error": nothing}
        of_train = zip(self._names[:-1], means[runs:], strict=True)
        row |= {f"tracked/train/{name}": mean.expand(runs) for name, mean in of_train}
        row |= {f"tracked/{name}": value.double().cpu().reshape(-1).expand(runs) for name, value in measured.items()}
        row["tracked/train/seconds"] = seconds.cpu().expand(runs)
        row |= self._tracked(means[:runs])
        self.recorder.seconds = training.seconds
        self.recorder.settings["trackers"] |= {
            name: {}
            for name in dict.fromkeys(key.split("/")[1] for key in row if key.startswith("tracked/"))
            if name not in self.recorder.settings["trackers"]
        }
        self.recorder.add(training.step, row)
        judge = training.objective.judge
        if not judge or not self.best_epoch or bool((self.row(judge) > self.row(judge, self.best_epoch - 1)).all()):
            self.best, self.best_epoch = copy_weights(training.bare), number
        self._reason = self.recorder.judge(training.rules, judge)

    def check(self) -> None:
        """Refuse losses that are not finite, of which the sums of the epoch tell."""
        if self._sums is None or bool(self._sums.isfinite().all()):
            return
        training, runs = self.training, len(self._sums) - len(self._names)
        values = self._sums.tolist()
        epoch = training.epoch + (training.batch > 0)
        if training.runs == 1:
            what = f"the loss is {values[0] / values[-1]:g} and the regularizer adds {values[1] / values[-1]:g}"
        else:
            run = int((~self._sums[:runs].isfinite()).nonzero()[0])
            what = f"the loss of run {run} is {values[run] / values[-1]:g}"
        raise FloatingPointError(f"{what} in epoch {epoch}; the last checkpoint is kept")

    def _look(self, measured: dict[str, Tensor], number: int) -> None:
        unusual = next((name for name, value in measured.items() if not bool(value.isfinite().all())), None)
        if unusual is not None and not self._warned:
            self._warned = True
            warnings.warn(f"{unusual} is not finite after epoch {number}", RuntimeWarning, stacklevel=2)

    def _tracked(self, losses: Tensor) -> dict[str, Tensor]:
        training = self.training
        if not training.trackers:
            return {}
        assert isinstance(training.bare, Factorization)

        def end_gradient() -> Tensor:
            raise TypeError("a training in batches has no gradient at the end matrices of all data")

        moment = Moment(training.bare, training.step, losses, end_gradient)
        return {
            f"tracked/{name}/{key}": value
            for name, tracker in training.trackers.items()
            for key, value in tracker.measure(moment).items()
        }

    def history(self) -> History:
        self.recorder.seconds, self.recorder.stopped = self.training.seconds, self.training.stopped
        return self.recorder.history()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"best/{name}": tensor for name, tensor in self.best.items()}
        if self.epochs:
            tensors |= {f"history/{name}": tensor for name, tensor in self.recorder.history().tensors().items()}
        if self._sums is not None:
            tensors["sums"] = self._sums
        return tensors, {
            "best_epoch": self.best_epoch,
            "names": self._names,
            "rows": list(self.recorder.rows),
            "settings": self.recorder.settings,
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        training = self.training
        self.best = {name: tensor.to(training.device) for name, tensor in part_of("best/", tensors).items()}
        self.best_epoch, self._names = state["best_epoch"], tuple(state["names"])
        self._sums = tensors["sums"].to(training.device) if "sums" in tensors else None
        mine = self.recorder.settings
        self.recorder.settings = state["settings"] | {key: mine[key] for key in ("steps", "rules")}
        if mine["made_by"] != self.recorder.settings["made_by"]:
            self.recorder.settings["continued_by"] = mine["made_by"]
        rows = part_of("history/", tensors)
        if rows:
            # Rules saw the time at the end of that epoch.
            self.recorder.restore(rows, state["rows"], float(rows["tracked/train/seconds"][-1, 0]), "", 1)
            self._reason = self.recorder.judge(training.rules, training.objective.judge, again=True)
