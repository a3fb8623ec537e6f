"""The fit loop for many runs at once: epochs over fixed batches, steps back from collapse, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from htf.engine import Plan
from htf.nn._network import TreeNetwork
from htf.training.optimizer import RelativeAdam, center_outputs
from htf.training.resumable import Resumable

Batch = tuple[Plan, Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How a fit is trained.

    Attributes
    ----------
    epochs : int
    batch_size : int or None
        Samples of a batch; None takes 1,000, or a twelfth of a smaller data set.
    step : float
        See `RelativeAdam`.
    warmup : float
        Share of all steps during which the step rises linearly; then it falls as a cosine to zero.
    betas : (float, float)
        Of Adam.
    tolerance : float
        A run whose mean error over an epoch exceeds its best by this share of the targets' variance goes back to where
        its best epoch began, and on with half the step.

    Raises
    ------
    ValueError
        For a number out of its range: `epochs` or `batch_size` below 1, `step` not above 0, `tolerance` below 0,
        `warmup` or one of the two `betas` not from 0 to below 1.
    """

    epochs: int = 60
    batch_size: int | None = None
    step: float = 1.0
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; expected at least 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 1")
        if not self.step > 0:
            raise ValueError(f"step is {self.step}; expected above 0")
        if not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"betas is {self.betas}; expected two numbers from 0 to below 1")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}; expected at least 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; expected from 0 to below 1")

    def batch_of(self, samples: int) -> int:
        """The batch size for a data set of `samples`."""
        return self.batch_size or min(1000, math.ceil(samples / 12))

    def share(self, step: int, steps: int) -> float:
        """Size of step number `step` of `steps`, relative to the full one."""
        rise = max(round(self.warmup * steps), 1)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


class Fit(Resumable):
    """Least-squares fits of all runs of a network to its targets, batch by batch, resumable at any epoch.

    Parameters
    ----------
    network : CPNetwork or HTNetwork
    train, test : sequence of (Plan, Tensor)
        Batches with their targets, (batch, runs).  The batches are fixed; their order is drawn anew each epoch.
    settings : FitSettings
    seed : int
        Of the order of batches.
    clip : float
        Bound on a test sample's squared error, as in the papers: a rare pixel pattern can meet a huge output.
    checkpoint : Path, optional
        File to save the state to, and to resume from if it is there.
    about : dict
        What the fit is; a checkpoint with another description is refused.

    Attributes
    ----------
    train_errors, test_errors : list of list of float
        Mean squared error per epoch and run; train errors are means over the epoch's batches, before each step.
    returns : list of (int, int)
        (epoch, run) of each return to an earlier epoch.
    """

    def __init__(
        self,
        network: TreeNetwork,
        train: Sequence[Batch],
        test: Sequence[Batch],
        settings: FitSettings,
        *,
        seed: int = 0,
        clip: float = 1.0,
        checkpoint: Path | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.train, self.test, self.settings = network, train, test, settings
        self.seed, self.clip, self.checkpoint = seed, clip, checkpoint
        shapes = {f"shape of {name}": list(p.shape) for name, p in network.named_parameters()}
        self.about = {
            "fit": {**(about or {}), "seed": seed, "clip": clip, "batches": len(train), **shapes},
            "settings": asdict(settings),
        }
        self.epoch = 0
        self.seconds = 0.0
        self.train_errors: list[list[float]] = []
        self.test_errors: list[list[float]] = []
        self.returns: list[tuple[int, int]] = []
        targets = torch.cat([y for _, y in train])
        self._allowance = settings.tolerance * targets.var(0, correction=0)
        self._best_error = torch.full_like(self._allowance, math.inf)
        resumed = checkpoint is not None and checkpoint.exists()
        if not resumed:
            center_outputs(network, *train[0])
        self.optimizer = RelativeAdam(network, settings.step, settings.betas)
        self._start = [p.detach().clone() for p in network.parameters()]  # of the present epoch
        self._best = [p.clone() for p in self._start]  # of the best one
        if resumed:
            self.resume()

    def run(self, on_epoch: Callable[[Fit], None] | None = None, save_every: float = 20.0) -> None:
        """Train to the last epoch.

        Parameters
        ----------
        on_epoch : callable, optional
            Called after each epoch.
        save_every : float
            Seconds between checkpoints.  One is also saved on an interrupt, before it is raised again.
        """
        self.run_to_end(None if on_epoch is None else lambda: on_epoch(self), save_every)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    def errors(self, batches: Sequence[Batch], clip: float | None = None) -> list[float]:
        """Mean squared error of every run on some batches, each sample's clipped at `clip`."""
        total, samples = torch.zeros_like(self._allowance), 0
        with torch.no_grad():
            for plan, y in batches:
                squares = (self.network(plan) - y).square()
                if clip is not None:
                    # An overflow is an error like any other beyond the bound.
                    squares = squares.nan_to_num(nan=clip, posinf=clip).clamp(max=clip)
                total += squares.sum(0)
                samples += len(y)
        return (total / samples).tolist()

    def advance(self) -> None:
        """Train one epoch."""
        began = time.perf_counter()
        for start, parameter in zip(self._start, self.network.parameters(), strict=True):
            start.copy_(parameter.detach())
        generator = Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(len(self.train), generator=generator, device="cpu").tolist()
        total, samples = torch.zeros_like(self._allowance), 0
        steps = self.settings.epochs * len(order)
        for k, number in enumerate(order):
            plan, y = self.train[number]
            self.optimizer.set_share(self.settings.share(self.epoch * len(order) + k, steps))
            errors = (self.network(plan) - y).square().mean(0)
            self.optimizer.zero_grad()
            errors.sum().backward()
            self.optimizer.step()
            total += errors.detach() * len(y)
            samples += len(y)
        error = total / samples
        self._step_back_or_keep(error)
        self.epoch += 1
        self.train_errors.append(error.tolist())
        self.test_errors.append(self.errors(self.test, self.clip))
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _step_back_or_keep(self, error: Tensor) -> None:
        lost = ~((error <= self._best_error + self._allowance) & error.isfinite())
        better = error < self._best_error
        self._best_error = torch.where(better, error, self._best_error)
        # The error was met between the epoch's start and its end: only the start is known to be as good.
        keep, back = self.network.spread(better), self.network.spread(lost)
        states = zip(self.network.parameters(), self._start, self._best, keep, back, strict=True)
        for parameter, start, best, k, b in states:
            best.copy_(torch.where(k, start, best))
            parameter.copy_(torch.where(b, best, parameter))
        if bool(lost.any()):
            self.optimizer.slow_down(lost)
            self.returns += [(self.epoch, run) for run in lost.nonzero().squeeze(1).tolist()]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, the best ones, the optimizer's memory and the errors so far."""
        tensors: dict[str, Tensor] = {f"network/{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"best/{k}": best for k, best in enumerate(self._best)}
        tensors |= {f"optimizer/{name}": t for name, t in self.optimizer.tensors().items()}
        tensors["best_error"] = self._best_error
        state = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "train_errors": self.train_errors,
            "test_errors": self.test_errors,
            "returns": self.returns,
            "rates": self.optimizer.rates,
        }
        return tensors, state

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"network/{name}"])
        for k, best in enumerate(self._best):
            best.copy_(tensors[f"best/{k}"])
        self._best_error.copy_(tensors["best_error"])
        prefix = "optimizer/"
        optimizer = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        self.optimizer.load_tensors(optimizer, state["rates"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.train_errors, self.test_errors = state["train_errors"], state["test_errors"]
        self.returns = [(epoch, run) for epoch, run in state["returns"]]
