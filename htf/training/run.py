"""The training core: one loop for every objective, which goes on after an interrupt as if nothing had happened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from htf._checks import check_seed, positive
from htf._folders import check_kind, claim_folder
from htf._machine import usable_device
from htf._progress import bar_file
from htf.nn import Factorization
from htf.regularizers import InputGradientChange
from htf.training._architecture import architecture
from htf.training._full_batch_record import FullBatchRecord
from htf.training._gradients import Gradients
from htf.training._processes import Alone, Several
from htf.training._recording import Recording
from htf.training.classify_settings import Regularizer, Stateful, describe_regularizer
from htf.training.digests import digest
from htf.training.epochs import Epochs
from htf.training.history import History
from htf.training.objectives.base import Found, Function, Objective, Place, as_objective
from htf.training.objectives.entries import Entries
from htf.training.optimizers import (
    OptimizerLike,
    describe_optimizer,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
)
from htf.training.resumable import CHECKPOINT, Resumable
from htf.training.schedules import ScheduleLike, make_schedule
from htf.training.state_dicts import load_weights, part_of
from htf.training.stopping import StoppingRule, as_rules
from htf.training.tracking import Tracker, describe_network, tracker_names


class Training(Resumable):
    """The training of a model on an objective, step by step, resumable bit for bit.

    `htf.training.fit`, `htf.training.classify` and the probes are made of it.

    Parameters
    ----------
    model : nn.Module
        Any module, or a factorization with several runs, which are trained at once and independently of each other.
        Trained in place.
    objective : Objective or callable
        See `htf.training.objectives`; a callable of model and generator becomes one by `objectives.function`.
    optimizer : str or callable
        "adamw", "adam", "sgd", "rmsprop", for factorizations also "group_rmsprop" (`GroupRMSprop`) and "relative_adam"
        (`RelativeAdam`); or an optimizer class of torch, or a function of ``(parameters, lr=lr)`` that returns one, as
        a ``functools.partial``.
    lr : float
        Learning rate.
    schedule : str or callable
        "constant", "cosine", "linear" or "one_cycle"; a function of step and steps in all to the share of `lr`; or a
        scheduler class of torch, or a ``functools.partial`` of one, which is given the optimizer and stepped after
        each step.
    regularizer : callable, optional
        Of model, inputs, targets and outputs; what it returns is added to the loss.  One with ``state()`` and
        ``load_state()`` goes on, after an interrupt, where it was.
    rules : callable or sequence of them
        Rules that end the training early: `early_stopping`, `LossBelow`, `NoProgress`, `TimeLimit`, or a function of
        the recorded steps, the losses there and the seconds of training that returns a reason or "".
    track : Tracker or sequence of Tracker
        For factorizations; what to record besides the losses, see `htf.dynamics`.
    every : int
        For `objectives.entries`, of which every step sees all: steps between recorded moments.  Others are recorded
        after each epoch.
    out : str or Path, optional
        Folder of the run.  If it holds the checkpoint of an interrupted training, this one goes on from there; that of
        another model, start, objective, data or setting is refused.
    device : str or torch.device, optional
        "auto" takes a GPU if there is one; by default where the model is.
    fabric : lightning_fabric.Fabric, optional
        Launched, for several devices or nodes, and for mixed precision; it decides the device.
    seed : int
        Of the order of samples, of dropout, and of what an objective draws.

    Attributes
    ----------
    step : int
        Steps done.
    seconds : float
        Time spent training.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it, what came and what was expected.

    See Also
    --------
    htf.training.objectives.function : an objective of one's own.
    htf.training.fit, htf.training.classify : two uses of it.
    htf.training.early_stopping, htf.training.reached : rules.

    Examples
    --------
    >>> import torch, htf
    >>> from torch import nn
    >>> from htf.training import Training, early_stopping, objectives
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :3].argmax(1)
    >>> objective = objectives.classification((x[:40], y[:40]), validation=(x[40:], y[40:]), batch_size=10)
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> training = Training(model, objective, optimizer="adamw", lr=0.01, rules=early_stopping(patience=5))
    >>> history = training.run(epochs=40)
    >>> bool(history["validation"]["accuracy"].max() > 0.7)
    True
    """

    kind = "training of one's own"  # of its folder's claim

    def __init__(
        self,
        model: nn.Module,
        objective: Objective | Function,
        *,
        optimizer: OptimizerLike = "adamw",
        lr: float = 1e-3,
        schedule: ScheduleLike = "constant",
        regularizer: Regularizer | None = None,
        rules: StoppingRule | Iterable[StoppingRule] = (),
        track: Tracker | Sequence[Tracker] = (),
        every: int = 25,
        out: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        fabric: Any = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        self.model, self.objective, self.regularizer = model, as_objective(objective), regularizer
        self.seed, self.every, self.rules = check_seed(seed), positive("every", every), as_rules(rules)
        # A compiled model has other names for the same parameters.
        self.bare: nn.Module = getattr(model, "_orig_mod", model)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        if isinstance(model, Factorization):
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    raise ValueError(f"network has a frozen parameter, {name}; a fit trains all of them")
        if not self.trained:
            raise ValueError("model has no parameter that requires a gradient; expected one to train")
        given: object = regularizer
        self._stateful = given if isinstance(given, Stateful) else None
        self.processes = Alone() if fabric is None else Several(fabric)
        self.device = _device(self.trained[0], device, fabric)
        model.to(self.device)
        self.runs = model.runs if isinstance(model, Factorization) else 1
        self.optimizer = make_optimizer(optimizer, model, lr)
        self.described_optimizer = describe_optimizer(self.optimizer)
        self.schedule = make_schedule(schedule, self.optimizer)
        self._scheduled = self.schedule.describe() != "constant"
        call, self._stepping = self.processes.set_up(model, self.optimizer)
        self._gradients = Gradients(self, call, self._stepping)
        # In the precision that a Fabric gives to the model.
        self.objective.prepare(model, self._place())
        self.trackers = tracker_names(track)
        if isinstance(model, Factorization):
            self.described_model = describe_network(model)
            self.described_trackers = {name: tracker.describe(model) for name, tracker in self.trackers.items()}
        elif self.trackers:
            raise TypeError(f"track holds trackers and model is a {type(model).__name__}; they read factorizations")
        else:
            self.described_model, self.described_trackers = architecture(self.bare), {}
        self.step, self.steps, self.seconds = 0, 0, 0.0
        self._began = 0.0
        self._start = digest(*self.bare.state_dict().values())
        self.about = self._describe()
        self._out = out
        self.folder = None if out is None else Path(out)
        self.checkpoint = None if self.folder is None else self.folder / CHECKPOINT
        self.recording = self._record()

    # -- what subclasses change ---------------------------------------------------------------------------

    def _describe(self) -> dict[str, dict[str, Any]]:
        """Description that a checkpoint has to agree with."""
        return {
            "model": self.described_model,
            "data": self.objective.describe(),
            "training": {
                "optimizer": self.described_optimizer,
                "schedule": self.schedule.describe(),
                "regularizer": describe_regularizer(self.regularizer),
                "processes": self.processes.world,
                "seed": self.seed,
                "every": self.every,
                "trackers": self.described_trackers,
            },
        }

    def _record(self) -> Recording:
        return FullBatchRecord(self) if isinstance(self.objective, Entries) else Epochs(self)

    def _place(self) -> Place:
        regularizer = self.regularizer
        all_twice = isinstance(regularizer, InputGradientChange) and regularizer.samples is None
        return Place(self.device, self.trained[0].dtype, self.seed, self.processes, all_twice)

    # -- where it is --------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.objective.batches

    @property
    def batch(self) -> int:
        """Batches done in the present epoch."""
        return self.step % self.objective.batches

    @property
    def stopped(self) -> str:
        """Why nothing is left to do; "" while something is."""
        return self.recording.stopped

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.stopped)

    def restart_clock(self, seconds: float) -> None:
        """Take another's word for the seconds so far."""
        self.seconds, self._began = seconds, time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of training, those of the present step included."""
        return self.seconds + time.perf_counter() - self._began

    # -- running ------------------------------------------------------------------------------------------

    def begin(self, *, epochs: int | None = None, steps: int | None = None) -> None:
        """Set how long to train, and go on from the checkpoint if there is one; `run` does so.

        Raises
        ------
        ValueError
            For a checkpoint of another model, start, objective, data or setting, which is kept; the message names what
            differs.
        """
        if (epochs is None) == (steps is None):
            raise TypeError(f"epochs is {epochs} and steps is {steps}; expected one of them")
        self.steps = positive("epochs", epochs) * self.objective.batches if steps is None else positive("steps", steps)
        if self.schedule.needs_steps:
            # Another number would have had other rates from the first step on.
            self.about["schedule"] = {"steps": self.steps}
        self.schedule.begin(self.steps)
        self.recording.begin()
        if self._out is not None:
            check_kind(self._out, self.kind)
        self.resume()
        self._gradients.begin()
        if self._out is not None:
            # By all processes, so that none waits for one that was refused; the first one locks it.
            self.claim = claim_folder(self._out, self.kind, {**self.about, "parameters at the start": self._start})
        self.processes.together()
        if self.processes.rank > 0:
            self.checkpoint = self.claim = None

    def run(
        self,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        on_advance: Callable[[], None] | None = None,
        save_every: float = 20.0,
        progress: bool = False,
    ) -> History:
        """Train to the end, or go on from where a checkpoint is.

        Parameters
        ----------
        epochs, steps : int
            One of them; in all.  A finished training can be continued with more, unless its schedule depends on them.
        on_advance : callable, optional
            Called after each step, as by a job that reports its share.
        save_every : float
            Seconds between checkpoints.
        progress : bool
            Show a bar with the time left.

        Returns
        -------
        History

        Raises
        ------
        ValueError
            As `begin`.
        TypeError
            If the objective or the regularizer returns something of another type or shape; the message says what.
        FloatingPointError
            If a loss is not finite; it names the epoch, and the last checkpoint is kept.  Where every step sees all
            data, a loss that is not finite ends the training with a RuntimeWarning instead, and the model has the
            parameters of the last recorded moment.
        BlockingIOError
            If another process is training in the folder.
        KeyboardInterrupt
            After the step in which it came, with a checkpoint saved.

        Examples
        --------
        >>> import tempfile, torch, htf
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> objective = htf.training.objectives.regression((x, x.sum(1, keepdim=True)), batch_size=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = htf.training.Training(torch.nn.Linear(3, 1), objective, lr=0.01, out=folder)
        ...     history = first.run(epochs=5)
        ...     history = first.run(epochs=20)  # goes on from epoch 5
        >>> len(history.loss), bool(history.loss[-1] < history.loss[0])
        (20, True)
        """
        self.begin(epochs=epochs, steps=steps)
        self.run_to_end(on_advance, save_every, progress)
        history = self.recording.history()
        # One that was finished before is there, in a folder that may be read-only.
        if self.claim is not None and not history.is_saved(self.claim.path):
            with self.writing():
                self.save()
                history.save(self.claim.path)
        return history

    def run_to_end(
        self, on_advance: Callable[[], None] | None = None, save_every: float = 20.0, progress: bool = False
    ) -> None:
        """Advance to the end, saving a checkpoint now and then.

        Parameters
        ----------
        on_advance : callable, optional
            Called after each step.
        save_every : float
            Seconds between checkpoints.  One is also saved on an interrupt, before it is raised again.
        progress : bool
            Show a bar with the time left.

        Raises
        ------
        OSError
            Before the first step, if the folder cannot be written; it names it.
        BlockingIOError
            If another process is training in the folder.
        KeyboardInterrupt
            At the end of the step in which it came, or at once if it comes twice; then the last checkpoint stands.
        """
        if self.finished:
            return
        hidden = not progress or self.processes.rank > 0
        bar = tqdm(file=bar_file(), disable=hidden, total=self.steps, initial=self.step, unit="step", mininterval=0.5)

        def show() -> None:
            if bar.update(self.step - bar.n):
                bar.set_postfix_str(self.recording.summary(), refresh=False)
            if on_advance is not None:
                on_advance()

        with bar:
            super().run_to_end(on_advance if hidden else show, save_every)

    def advance(self) -> None:
        """Take one step; after the last of an epoch, measure."""
        self._began = time.perf_counter()
        found, penalty = self._gradients.find()
        if self.recording.before_step(found, penalty):
            self._take_step(found, penalty)
            if self.step % self.objective.batches == 0:
                self.recording.after_epoch()
        self.seconds += time.perf_counter() - self._began

    def _take_step(self, found: Found, penalty: Tensor | None) -> None:
        sums = self.recording.sums(found, penalty)
        if self.processes.world > 1:
            gradients = [p.grad for p in self.trained if p.grad is not None]
            statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
            self.processes.average([*gradients, *statistics, *sums])
        if self._scheduled:
            self.schedule.before_step(self.step)
        if not self._gradients.replays_step():
            self._stepping.step()
        if self._scheduled:
            self.schedule.after_step()
        self.step += 1
        self.recording.after_step(sums)

    # -- the checkpoint -----------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, unless a loss was not finite since the last one."""
        self.recording.check()
        super().save()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights, the optimizer's and the regularizer's memory, and the record so far."""
        optimizer, numbers = optimizer_state(self.optimizer, self.trained)
        memory: dict[str, Any] = {} if self._stateful is None else self._stateful.state()
        kept, record = self.recording.state()
        parts = {
            "model": self.bare.state_dict(),
            "optimizer": optimizer,
            "regularizer": {name: value for name, value in memory.items() if isinstance(value, Tensor)},
            "recording": kept,
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return tensors, {
            "start": self._start,
            "now": digest(*self.bare.state_dict().values()),
            "step": self.step,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "optimizer": numbers,
            "schedule": self.schedule.state(),
            "regularizer": {name: value for name, value in memory.items() if not isinstance(value, Tensor)},
            "recording": record,
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        # The model as it was built, or, in the same session, as the interrupted training left it.
        self._start = self.begun_alike(self._start, state)
        load_weights(self.bare, part_of("model/", tensors))
        restore_optimizer(self.optimizer, self.trained, part_of("optimizer/", tensors), state["optimizer"])
        self.schedule.restore(state["schedule"])
        if self._stateful is not None:
            self._stateful.load_state({**state["regularizer"], **part_of("regularizer/", tensors)})
        self.step, self.seconds = state["step"], state["seconds"]
        self.recording.restore(part_of("recording/", tensors), state["recording"])


def _device(parameter: Tensor, device: str | torch.device | None, fabric: Any) -> torch.device:
    if fabric is None:
        if device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return parameter.device if device is None else usable_device(device)
    if device is not None:
        raise ValueError(f"device is {str(device)!r} and there is a fabric, which decides it; expected one of them")
    found: torch.device = fabric.device
    return found
