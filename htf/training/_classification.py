"""The training of a classifier: what `Training` does, with the settings and the result of the papers' experiments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from htf._machine import describe_machine
from htf.datasets.images import ImageData
from htf.datasets.long_range import LongRangeData
from htf.training._architecture import architecture
from htf.training._recording import Recording
from htf.training._samples import parts_of
from htf.training.classify_result import ClassifyResult, Epoch
from htf.training.classify_settings import ClassifySettings, Regularizer, describe_regularizer
from htf.training.epochs import Epochs
from htf.training.objectives.classification import Classes
from htf.training.optimizers import OptimizerLike
from htf.training.run import Training
from htf.training.schedules import ScheduleLike
from htf.training.state_dicts import copy_weights, load_weights
from htf.training.stopping import StoppingRule, TimeLimit, as_rules

RESULT = "result.json"
DataLike = LongRangeData | ImageData | Mapping[str, Any] | Sequence[Any]
# Settings that may change when a training goes on.
_ENDS = ("epochs", "max_seconds", "stop_after_perfect")


class Classification(Training):
    """The training of `classify`, one step a unit.

    Parameters
    ----------
    model, data, settings, regularizer, optimizer, schedule, rules, out, device, fabric
        See `classify`.  If `out` has a checkpoint, the training goes on from there.

    Attributes
    ----------
    history : list of Epoch
        Of the finished epochs.
    processes : Alone or Several
        Those that share the work.

    See Also
    --------
    htf.training.classify : makes one and runs it.
    htf.training.Training : of any objective.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> settings = htf.training.ClassifySettings(epochs=3, batch_size=20)
    >>> training = htf.training.Classification(torch.nn.Linear(5, 1), [(x[:40], y[:40]), (x[40:], y[40:])], settings)
    >>> training.batches, training.step
    (2, 0)
    >>> training.advance()  # a step; training.run() goes on to the end
    >>> training.step
    1
    """

    kind = "training"

    def __init__(
        self,
        model: nn.Module,
        data: DataLike,
        settings: ClassifySettings,
        *,
        regularizer: Regularizer | None = None,
        optimizer: OptimizerLike | None = None,
        schedule: ScheduleLike = "constant",
        rules: StoppingRule | Iterable[StoppingRule] = (),
        out: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        fabric: Any = None,
    ) -> None:
        self.settings = settings
        parts, self._data_name, self._data_settings = parts_of(data)
        self._classes = Classes(**parts, batch_size=settings.batch_size)
        self._data_sha256 = data.fingerprint if isinstance(data, LongRangeData) else self._classes.fingerprint()
        if optimizer is None:
            optimizer = partial(torch.optim.SGD, momentum=settings.momentum, weight_decay=settings.weight_decay)
            self._other: dict[str, Any] = {}
        else:
            self._other = {"optimizer": ""}
        super().__init__(
            model,
            self._classes,
            optimizer=optimizer,
            lr=settings.lr,
            schedule=schedule,
            regularizer=regularizer,
            rules=[*_rules(settings), *as_rules(rules)],
            out=out,
            device=device,
            fabric=fabric,
            seed=settings.seed,
        )
        data_about = {"name": self._data_name, "sha256": self._data_sha256, **self._data_settings}
        self.described = {
            "model": {"class": type(self.bare).__name__, "parameters": sum(p.numel() for p in model.parameters())},
            "data": data_about,
            "regularizer": describe_regularizer(regularizer),
            "processes": self.processes.world,
            **self._other,
            **asdict(settings),
        }
        self.begin(epochs=settings.epochs)

    def _describe(self) -> dict[str, dict[str, Any]]:
        if self._other:
            self._other = {"optimizer": self.described_optimizer}
        if self.schedule.describe() != "constant":
            self._other["schedule"] = self.schedule.describe()
        return {
            "training": {
                "data": self._data_name,
                "data_sha256": self._data_sha256,
                "regularizer": describe_regularizer(self.regularizer),
                "processes": self.processes.world,
                **self._other,
                **architecture(self.bare),
            },
            # The rest may be prolonged.
            "settings": {key: v for key, v in asdict(self.settings).items() if key not in _ENDS},
        }

    def _record(self) -> Recording:
        self._epochs = Epochs(self)
        return self._epochs

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return self._classes.batches

    @property
    def history(self) -> list[Epoch]:
        return [self._epoch(k) for k in range(self._epochs.epochs)]

    def _epoch(self, k: int) -> Epoch:
        names = ["", "train/accuracy", "train/penalty", "validation/accuracy", "train/seconds"]
        known = self._epochs.recorder.rows
        values = [float(self._epochs.row(n, k)[0]) if not n or f"tracked/{n}" in known else None for n in names]
        return Epoch(*values)  # type: ignore[arg-type] # only the accuracy in validation may be missing

    def result(self) -> ClassifyResult:
        """Test the last model and the best on validation; kept in the folder of the run, and loaded from there."""
        if not self.finished:
            raise ValueError(f"the training is at step {self.step} of {self.steps}; expected one that is finished")
        path = None if self.folder is None else self.folder / RESULT
        history = tuple(self.history)
        if path is not None and path.exists():
            there = ClassifyResult.load(path)
            self.processes.together()
            if there.history == history:
                return there
        # By the model itself: evaluation needs none of what a Fabric adds, and no process waits for another.
        last = self._classes.accuracy(self.model, "test", self.epoch)
        weights = copy_weights(self.bare)
        self.take_best()
        best = self._classes.accuracy(self.model, "test", self._epochs.best_epoch)
        load_weights(self.bare, weights)
        machine = describe_machine(self.device)
        found = ClassifyResult(last, best, self._epochs.best_epoch, history, self.stopped, self.described, machine)
        if self.checkpoint is not None and path is not None:
            with self.writing():
                self.save()
                found.save(path)
        self.processes.together()
        return found

    def take_best(self) -> None:
        """Give the model the weights of the epoch that is best on validation."""
        load_weights(self.bare, self._epochs.best)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.begun_alike(self._start, state)
        begun = -(-state["step"] // self.batches)
        if begun > self.settings.epochs:
            raise ValueError(
                f"epochs is {self.settings.epochs}; {self.checkpoint} has begun epoch {begun}: expected at least as "
                "many, or another folder"
            )
        super().restore(tensors, state)


def _rules(settings: ClassifySettings) -> list[Any]:
    limit, patience = settings.max_seconds, settings.stop_after_perfect
    return [*([_Time(limit)] if limit else []), *([_Perfect(patience)] if patience else [])]


class _Time(TimeLimit):
    """A limit of time that is called by its name in a result."""

    def __call__(self, steps: Tensor, losses: Tensor, seconds: float) -> str:
        return "time" if super().__call__(steps, losses, seconds) else ""


@dataclass(frozen=True)
class _Perfect:
    """So many epochs in a row with a training accuracy of 1."""

    epochs: int
    on = "train/accuracy"

    def __call__(self, steps: Tensor, errors: Tensor, seconds: float) -> str:
        last = errors[-self.epochs :]
        return "perfect" if len(last) == self.epochs and bool((last == 0).all()) else ""
