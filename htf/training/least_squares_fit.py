"""The fit loop for many runs at once: epochs over fixed batches, steps back from collapse, checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htf._files import saved_before
from htf.engine import Plan
from htf.nn.networks.tree import TreeNetwork
from htf.training._full_batch_record import check_start
from htf.training._recording import Recording
from htf.training.centering import center_outputs
from htf.training.digests import digest
from htf.training.history import History
from htf.training.objectives.base import Found
from htf.training.objectives.least_squares import LeastSquares, of_runs
from htf.training.relative_adam import RelativeAdam
from htf.training.run import Training
from htf.training.state_dicts import part_of
from htf.training.tracking import describe_network

Batch = tuple[Plan, Tensor]
RELATIVE_ADAM, LEVENBERG_MARQUARDT = OPTIMIZERS = ("relative_adam", "levenberg_marquardt")


@dataclass(frozen=True)
class FitSettings:
    """How a fit is trained.

    Attributes
    ----------
    epochs : int
        With "levenberg_marquardt", steps, each of which passes over all samples up to some hundred times.
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
    optimizer : {"relative_adam", "levenberg_marquardt"}
        `RelativeAdam` on batches, or `LevenbergMarquardt` on all samples, for CP fits, which comes to lower train
        errors in the same time; the other settings are Adam's alone.

    Raises
    ------
    ValueError
        For an unknown optimizer, a setting of Adam's with another, or a number out of its range: `epochs` or
        `batch_size` below 1, `step` not above 0, `tolerance` below 0, `warmup` or one of the two `betas` not from 0 to
        below 1.

    See Also
    --------
    htf.probes.rank_fit : takes them.
    htf.training.LeastSquaresFit : the fit.

    Examples
    --------
    >>> import htf
    >>> settings = htf.training.FitSettings(epochs=10)
    >>> settings.batch_of(600), settings.batch_of(60_000)
    (50, 1000)
    >>> [round(settings.share(step, 100), 2) for step in (0, 9, 55, 99)]  # rises, then falls
    [0.1, 1.0, 0.5, 0.0]
    """

    epochs: int = 60
    batch_size: int | None = None
    step: float = 1.0
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    tolerance: float = 0.05
    optimizer: str = RELATIVE_ADAM

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; known are {', '.join(OPTIMIZERS)}")
        if self.optimizer != RELATIVE_ADAM:
            for field in fields(self):
                if field.name not in ("epochs", "optimizer") and getattr(self, field.name) != field.default:
                    raise ValueError(
                        f"{field.name} is {getattr(self, field.name)!r}, which is a setting of {RELATIVE_ADAM}; "
                        f"optimizer is {self.optimizer}"
                    )
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

    def as_dict(self) -> dict[str, Any]:
        """The settings by name; the optimizer only where it is not the default, as runs before it had none."""
        found = asdict(self)
        if self.optimizer == RELATIVE_ADAM:
            del found["optimizer"]
        return found

    def batch_of(self, samples: int) -> int:
        """The batch size for a data set of `samples`."""
        return self.batch_size or min(1000, math.ceil(samples / 12))

    def share(self, step: int, steps: int) -> float:
        """Size of step number `step` of `steps`, relative to the full one."""
        rise = max(round(self.warmup * steps), 1)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


class LeastSquaresFit(Training):
    """Least-squares fits of all runs of a network to its targets, batch by batch, resumable at any epoch.

    Parameters
    ----------
    network : CPNetwork or HTNetwork
    train, test : sequence of (Plan, Tensor)
        Batches with their targets, (batch, runs), or (batch, 1) for all runs.  The batches are fixed; their order is
        drawn anew each epoch.
    settings : FitSettings
    seed : int
        Of the order of batches.
    clip : float
        Bound on a test sample's squared error, as in the papers: a rare pixel pattern can meet a huge output.
    checkpoint : Path, optional
        File to save the state to, and to resume from if it is there.
    about : dict
        What the fit is.  A checkpoint with another description is refused, and so is one of another network, start,
        data or setting.

    Attributes
    ----------
    train_errors, test_errors : list of list of float
        Mean squared error per epoch and run; train errors are means over the epoch's batches, before each step.
    returns : list of (int, int)
        (epoch, run) of each return to an earlier epoch.

    Raises
    ------
    ValueError
        For settings of another optimizer, for no training batches or targets of another shape, for a checkpoint of
        something else, which is kept and the difference named, or, on the first step, for a loss that is not finite at
        the start.

    Warns
    -----
    RuntimeWarning
        Once, if a run's loss is not finite later; the run goes back to where its best epoch began.

    See Also
    --------
    htf.probes.rank_fit : many of them.
    htf.training.objectives.least_squares : the objective, for other optimizers.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (400, 6), generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, :1] * x[:, 3:4]).float().expand(-1, 2)  # a column for each run
    >>> net = htf.nn.CPNetwork([2] * 6, rank=[1, 3], seed=0)
    >>> train, test = [(net.plan(x[:300]), y[:300])], [(net.plan(x[300:]), y[300:])]
    >>> fit = htf.training.LeastSquaresFit(net, train, test, htf.training.FitSettings(epochs=20))
    >>> fit.run()
    >>> fit.train_errors[-1][1] < fit.train_errors[0][1]  # of the last and the first epoch, in the second run
    True
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
        if settings.optimizer != RELATIVE_ADAM:
            raise ValueError(f"settings have the optimizer {settings.optimizer}; expected {RELATIVE_ADAM}")
        train, test = of_runs(train, network.runs), of_runs(test, network.runs)
        self.network, self.train, self.test, self.settings = network, train, test, settings
        self.clip = clip
        self._given, self._keeps = about or {}, checkpoint is not None
        squares, start = LeastSquares(train, test, clip), digest(*network.state_dict().values())
        if checkpoint is None or not saved_before(checkpoint):
            center_outputs(network, *train[0])
        super().__init__(
            network,
            squares,
            optimizer=partial(RelativeAdam, betas=settings.betas),
            lr=settings.step,
            schedule=settings.share,
            seed=seed,
        )
        # As it was given, before the outputs were centred.
        self._start, self.checkpoint, self._squares = start, checkpoint, squares
        self.begin(epochs=settings.epochs)

    def _describe(self) -> dict[str, dict[str, Any]]:
        about = {"clip": self.clip, "seed": self.seed, "batches": len(self.train), **self._given}
        # Only where there is something to compare with: it reads all data.
        data = self.objective.describe() if self._keeps else {}
        return {
            "fit": about,
            "network": describe_network(self.network),
            "data": data,
            "settings": self.settings.as_dict(),
        }

    def _record(self) -> Recording:
        self._returns = Returns(self, self.network, self.settings.tolerance)
        return self._returns

    def run(  # type: ignore[override] # with arguments of its own, as the settings say how long
        self, on_epoch: Callable[[LeastSquaresFit], None] | None = None, save_every: float = 20.0
    ) -> None:
        """Train to the last epoch.

        Parameters
        ----------
        on_epoch : callable, optional
            Called after each epoch.
        save_every : float
            Seconds between checkpoints.  One is also saved on an interrupt, before it is raised again.
        """
        self.run_to_end(None if on_epoch is None else lambda: on_epoch(self), save_every)

    def advance(self) -> None:
        """Train one epoch."""
        super().advance()
        while self.batch:
            super().advance()

    @property
    def train_errors(self) -> list[list[float]]:
        return self._returns.train_errors

    @property
    def test_errors(self) -> list[list[float]]:
        return self._returns.test_errors

    @property
    def returns(self) -> list[tuple[int, int]]:
        return self._returns.returns

    def errors(self, batches: Sequence[Batch], clip: float | None = None) -> list[float]:
        """Mean squared error of every run on some batches, each sample's clipped at `clip`."""
        found: list[float] = self._squares.errors(self.network, batches, clip).tolist()
        return found


class Returns(Recording):
    """Errors of each epoch; a run that has become worse goes back to where its best epoch began.

    Parameters
    ----------
    training : LeastSquaresFit
    network : TreeNetwork
    tolerance : float
        See `FitSettings`.
    """

    def __init__(self, training: LeastSquaresFit, network: TreeNetwork, tolerance: float) -> None:
        super().__init__(training)
        self.network = network
        self.train_errors: list[list[float]] = []
        self.test_errors: list[list[float]] = []
        self.returns: list[tuple[int, int]] = []
        targets = torch.cat([y for _, y in training.train])
        self._samples = len(targets)
        self._allowance = tolerance * targets.var(0, correction=0)
        self._best_error = torch.full_like(self._allowance, math.inf)
        self._total = torch.zeros_like(self._allowance)
        self._start = [p.detach().clone() for p in network.parameters()]  # of the present epoch
        self._best = [p.clone() for p in self._start]  # of the best one
        self._warned = False

    @property
    def stopped(self) -> str:
        return "epochs" if self.training.step >= self.training.steps else ""

    def before_step(self, found: Found, penalty: Tensor | None) -> bool:
        if self.training.step == 0:
            check_start(found.losses.detach(), self.network)
        if self.training.batch == 0:
            self._total.zero_()
            for start, parameter in zip(self._start, self.network.parameters(), strict=True):
                start.copy_(parameter.detach())
        return True

    def sums(self, found: Found, penalty: Tensor | None) -> list[Tensor]:
        return [found.losses.detach() * found.samples]

    def after_step(self, sums: list[Tensor]) -> None:
        self._total += sums[0]

    def after_epoch(self) -> None:
        error = self._total / self._samples
        self._step_back_or_keep(error)
        self.train_errors.append(error.tolist())
        measured = self.training.objective.measure(self.network, len(self.train_errors))
        self.test_errors.append(measured.get("test/loss", torch.full_like(error, math.nan)).tolist())

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
            self._warn_once(error)
            assert isinstance(self.training.optimizer, RelativeAdam)
            self.training.optimizer.slow_down(lost)
            epoch = len(self.train_errors)
            self.returns += [(epoch, run) for run in lost.nonzero().squeeze(1).tolist()]

    def _warn_once(self, error: Tensor) -> None:
        if self._warned or bool(error.isfinite().all()):
            return
        self._warned = True
        run = int((~error.isfinite()).nonzero()[0])
        warnings.warn(
            f"the loss of run {run} was {float(error[run])} in epoch {len(self.train_errors) + 1}; it goes back to "
            "where its best epoch began, and on with half the step, as will others that are not finite",
            RuntimeWarning,
            stacklevel=2,
        )

    def history(self) -> History:
        """The errors as a history."""
        epochs, runs = len(self.train_errors), self.network.runs
        nothing = torch.full((epochs, runs), torch.nan, dtype=torch.float64)
        return History(
            steps=torch.arange(1, epochs + 1) * self.training.objective.batches,
            time=nothing,
            rate=nothing,
            loss=torch.tensor(self.train_errors, dtype=torch.float64).reshape(epochs, runs),
            test_error=nothing,
            tracked={"test": {"loss": torch.tensor(self.test_errors, dtype=torch.float64).reshape(epochs, runs)}},
            settings={**self.training.about, "trackers": {"test": {}}},
            seconds=self.training.seconds,
            stopped=self.training.stopped,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"best/{k}": best for k, best in enumerate(self._best)} | {"best_error": self._best_error}
        return tensors, {
            "train_errors": self.train_errors,
            "test_errors": self.test_errors,
            "returns": self.returns,
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        for k, best in enumerate(self._best):
            best.copy_(part_of("best/", tensors)[str(k)])
        self._best_error.copy_(tensors["best_error"])
        self.train_errors, self.test_errors = state["train_errors"], state["test_errors"]
        self.returns = [(epoch, run) for epoch, run in state["returns"]]
