"""Gradient descent of factorizations on completion and sensing problems, all runs at once, recorded and resumable."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from htf._checks import positive
from htf._machine import describe_machine
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.training._digest import digest
from htf.training._weights import part_of
from htf.training.history import History, Recorder
from htf.training.losses import Loss
from htf.training.observations import Observations, observe
from htf.training.optimizers import (
    OptimizerLike,
    describe_optimizer,
    flow_rates,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
)
from htf.training.resumable import Resumable
from htf.training.stopping import StoppingRule
from htf.training.tracking import Factorization, Moment, Tracker

CHECKPOINT = "checkpoint.safetensors"


def fit(
    network: Factorization,
    problem: CompletionProblem | SensingProblem | tuple[Tensor, Tensor],
    *,
    loss: str | Loss = "l2",
    optimizer: OptimizerLike = "group_rmsprop",
    lr: float = 1e-2,
    steps: int = 10_000,
    track: Tracker | Sequence[Tracker] = (),
    every: int = 25,
    stop: StoppingRule | Sequence[StoppingRule] = (),
    out: str | Path | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> History:
    """Fit every run of a factorization to a problem by full-batch gradient descent.

    Parameters
    ----------
    network : CPNetwork, HTNetwork or MatrixFactorization
        Of one output; trained in place, all runs at once and independently of each other.
    problem : CompletionProblem, SensingProblem or (inputs, targets)
        Or a pair of inputs that the network takes, and targets (m,) or (m, runs).  Values are cast to the network's
        dtype.
    loss : {"l2", "l1", "huber"} or Loss
        A mean over the observations.
    optimizer : str or callable
        "group_rmsprop" (`GroupRMSprop`, the papers'), "sgd", "adam", "adamw", "rmsprop", or a function of
        ``(parameters, lr=lr)`` that returns an optimizer of torch, such as a ``functools.partial`` of one, or of
        `GroupRMSprop`.
    lr : float
        Learning rate.
    steps : int
        In all; a finished fit in `out` can be continued with more steps or with other rules, and one that is further
        stays where it is.
    track : Tracker or sequence of Tracker
        What to record besides the losses; see `htf.dynamics`.
    every : int
        Steps between recorded moments.
    stop : callable or sequence of them
        Rules that end the fit early, asked every `every` steps: `LossBelow`, `NoProgress`, `TimeLimit`, or a function
        of those steps, the losses there and the seconds of training that returns a reason or "".
    out : str or Path, optional
        Folder of the run: settings.json, history.csv, history.safetensors and checkpoint.safetensors.  If it holds
        the checkpoint of an interrupted fit, this one goes on from there, to bit for bit the same parameters on the
        same machine; if it holds a finished one, that is loaded.
    save_every : float
        Seconds between checkpoints.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    History
        If a loss is not finite at a recorded moment, the fit stops there with a RuntimeWarning; the network has the
        parameters of the last recorded moment at which all were, and ``history.stopped`` says so.  A test error that is
        not finite is recorded, with a RuntimeWarning at the first.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; for a network and a problem of different shapes, or a network with frozen
        parameters; for a start at which the gradient of a run vanishes, or its loss is not finite; for a checkpoint of
        another model, start, problem, version or setting, which is kept, or one that is cut short.  The message names
        what differs.
    KeyboardInterrupt
        After the step in which it came, with a checkpoint saved.

    Notes
    -----
    Losses of all runs are added and differentiated together; each run's gradient is its own.  Trackers that compute
    rates are also asked one step after each recorded moment.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((12, 12), "matrix", rank=1, observed=100, norm=12)
    >>> net = htf.nn.MatrixFactorization((12, 12), depth=2, runs=3, init=htf.nn.init.gaussian(std=1e-3), seed=0)
    >>> history = htf.training.fit(net, problem, steps=1000)
    >>> history.loss.shape, bool((history.loss[-1] < 1e-4).all())
    (torch.Size([41, 3]), True)
    """
    descent = _Descent(
        network,
        observe(network, problem),
        loss if isinstance(loss, Loss) else Loss(loss),
        make_optimizer(optimizer, network, lr),
        steps=positive("steps", steps),
        trackers=tracker_names(track),
        every=positive("every", every),
        rules=[stop] if callable(stop) else list(stop),
        folder=None if out is None else Path(out),
    )
    descent.resume()
    with tqdm(disable=not progress, total=steps, initial=descent.step, unit="step", mininterval=0.5) as bar:

        def show() -> None:
            if bar.update(descent.step - bar.n):
                bar.set_postfix_str(f"loss {descent.last_loss:.2e}", refresh=False)

        descent.run_to_end(show if progress else None, save_every)
    history = descent.recorder.history()
    if descent.checkpoint is not None:
        descent.save()
        history.save(descent.checkpoint.parent)
    return history


class _Descent(Resumable):
    """The fit, one step a unit."""

    def __init__(
        self,
        network: Factorization,
        observations: Observations,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        trackers: dict[str, Tracker],
        every: int,
        rules: list[StoppingRule],
        folder: Path | None,
    ) -> None:
        self.network, self.observations, self.loss, self.optimizer = network, observations, loss, optimizer
        self.steps, self.trackers, self.every, self.rules = steps, trackers, every, rules
        self.checkpoint = None if folder is None else folder / CHECKPOINT
        self._parameters = list(network.parameters())
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                raise ValueError(f"network has a frozen parameter, {name}; a fit trains all of them")
        self._twice = every > 1 and any(tracker.consecutive for tracker in trackers.values())
        self.about = {
            "network": describe_network(network),
            "problem": observations.about,
            "fit": {
                "loss": loss.describe(),
                "optimizer": describe_optimizer(optimizer),
                "every": every,
                "trackers": {name: tracker.describe(network) for name, tracker in trackers.items()},
            },
        }
        parts = {"network": self.about["network"], "problem": self.about["problem"], **self.about["fit"]}
        own = {"steps": steps, "stop": [repr(rule) for rule in rules], "made_by": describe_machine(network.device)}
        self.recorder = Recorder({**parts, **own})
        self.step = 0
        self.last_loss = float("nan")
        self.time = torch.zeros(network.runs, dtype=torch.float64, device=network.device)
        self.rate = torch.zeros_like(self.time)  # of the last step
        self._start = digest(*self._parameters)
        self._warned = False
        self._good = (0, self._copies())

    @property
    def finished(self) -> bool:
        return bool(self.recorder.stopped)

    def advance(self) -> None:
        began = time.perf_counter()
        losses = self.loss(self.network(self.observations.inputs), self.observations.targets)
        for parameter in self._parameters:
            parameter.grad = None
        losses.backward(torch.ones_like(losses))
        if self._due(self.step) or self.step >= self.steps:
            self._record(losses.detach())
        if not self.recorder.stopped:
            self.optimizer.step()
            self.step += 1
            rates = flow_rates(self.optimizer, self.network)
            self.rate = torch.full_like(self.time, torch.nan) if rates is None else rates
            self.time += self.rate
        self.recorder.seconds += time.perf_counter() - began

    def _due(self, step: int) -> bool:
        return step % self.every == 0 or (self._twice and step % self.every == 1)

    def _record(self, losses: Tensor) -> None:
        if not bool(losses.isfinite().all()):
            self._step_back(losses)
            return
        if self.step == 0:
            self._check_gradients(losses)
        self._good = (self.step, self._copies())
        self.last_loss = float(losses.max())
        row = {
            "time": self.time,
            "rate": self.rate,
            "loss": losses.double(),
            "test_error": test_error(self.network, self.observations).double(),
        }
        if not self._warned and self.observations.test_inputs is not None:
            self._warned = warn_of_test_error(row["test_error"], f"step {self.step}")
        moment = Moment(self.network, self.step, losses, end_gradient(self.network, self.observations, self.loss))
        for name, tracker in self.trackers.items():
            row |= {f"tracked/{name}/{key}": value for key, value in tracker.measure(moment).items()}
        self.recorder.add(self.step, row)
        if self.step >= self.steps:
            self.recorder.stopped = "steps"
        if self.step % self.every == 0:
            self.recorder.judge(self.rules)

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
        run = int((~losses.isfinite()).nonzero()[0])
        found = self.step
        if found == 0:
            raise ValueError(
                f"the loss of run {run} is {float(losses[run])} at the start; expected a network and targets whose "
                f"squares are in the range of {self.network.dtype}"
            )
        self.step, values = self._good
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
        self.recorder.stopped = (
            f"diverged: the loss of run {run} was {float(losses[run])} at step {found}; "
            f"the parameters are those of step {self.step}"
        )
        warnings.warn(self.recorder.stopped, RuntimeWarning, stacklevel=2)

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        optimizer, numbers = optimizer_state(self.optimizer, self._parameters)
        tensors: dict[str, Tensor] = {f"network/{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.items()}
        tensors |= {f"history/{name}": tensor for name, tensor in self.recorder.history().tensors().items()}
        step, good = self._good
        tensors |= {f"good/{k}": value for k, value in enumerate(good)}
        tensors |= {"time": self.time, "rate": self.rate}
        return tensors, {
            "start": self._start,
            "now": digest(*self._parameters),
            "step": self.step,
            "good": step,
            "settings": self.recorder.settings,
            "seconds": self.recorder.seconds,
            "stopped": self.recorder.stopped,
            "optimizer": numbers,
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._start = self.begun_alike(self._start, state)
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"network/{name}"])
        restore_optimizer(self.optimizer, self._parameters, part_of("optimizer/", tensors), state["optimizer"])
        self.time.copy_(tensors["time"])
        self.rate = tensors["rate"].to(self.time.device)
        self.step = state["step"]
        good = part_of("good/", tensors)
        self._good = (state["good"], [good[str(k)].to(p.device) for k, p in enumerate(self._parameters)])
        mine, self.recorder.settings = self.recorder.settings, state["settings"]
        self.recorder.restore(part_of("history/", tensors), state["seconds"], state["stopped"], self.every)
        stopped = self.recorder.stopped
        if stopped.startswith("diverged") or (stopped and self.step >= self.steps):
            return
        # A longer fit, or one with other rules, goes on; the same rules stop it again where it is.  There the step is
        # recorded again if it is due, and is not part of this fit if not.
        if stopped:
            self.recorder.stopped = ""
            self.recorder.drop_last()
        self.recorder.settings |= {"steps": self.steps, "stop": mine["stop"]}
        if mine["made_by"] != self.recorder.settings["made_by"]:
            self.recorder.settings["continued_by"] = mine["made_by"]


@torch.no_grad()
def test_error(network: Factorization, observations: Observations) -> Tensor:
    """Relative error of each run at the test entries, (runs,); NaN if there are none."""
    if observations.test_inputs is None:
        return torch.full((network.runs,), torch.nan, dtype=torch.float64, device=network.device)
    outputs = network(observations.test_inputs)
    return (outputs - observations.test_targets).norm(dim=0) / observations.test_targets.norm(dim=0)


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


def end_gradient(network: Factorization, observations: Observations, loss: Loss) -> Callable[[], Tensor]:
    """What a `Moment` computes the gradient at the end matrices by."""

    def gradient() -> Tensor:
        if not isinstance(network, MatrixFactorization):
            raise TypeError(f"the network is a {type(network).__name__}; only a MatrixFactorization has end matrices")
        return network.end_gradient(lambda ends: loss(observations.read_matrices(ends), observations.targets))

    return gradient


def describe_network(network: Factorization) -> dict[str, Any]:
    """What a checkpoint has to agree with, as JSON can hold it."""
    shapes = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
    about = {"network": type(network).__name__, "dims": list(network.dims), "runs": network.runs, **shapes}
    if isinstance(network, MatrixFactorization):
        return {**about, "dtype": str(network.dtype)}
    if isinstance(network, CPNetwork):
        about["ranks"] = list(network.ranks)
    if isinstance(network, HTNetwork):
        about |= {"widths": [list(widths.values()) for widths in network.widths], "shared": network.shared}
    children = [list(network.tree.children(node)) for node in network.tree.inner_nodes]
    return {**about, "children": children, "dtype": str(network.dtype)}


def tracker_names(track: Tracker | Sequence[Tracker]) -> dict[str, Tracker]:
    """Trackers by name."""
    given = list(track) if isinstance(track, Sequence) else [track]
    trackers: dict[str, Tracker] = {}
    for tracker in given:
        if not isinstance(tracker, Tracker):
            raise TypeError(f"track holds {tracker!r}; expected trackers, such as htf.dynamics.norms()")
        if tracker.name in trackers:
            raise ValueError(f"track holds {tracker.name} twice")
        trackers[tracker.name] = tracker
    return trackers
