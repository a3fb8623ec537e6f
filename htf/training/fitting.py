"""Gradient descent of factorizations on completion and sensing problems, all runs at once, recorded and resumable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.nn import Factorization
from htf.training._full_batch_record import settings_of
from htf.training.history import History
from htf.training.losses import Loss
from htf.training.objectives.entries import entries
from htf.training.optimizers import OptimizerLike
from htf.training.run import Training
from htf.training.stopping import StoppingRule
from htf.training.tracking import Tracker


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
    out: str | os.PathLike[str] | None = None,
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
        Folder of the run: settings.json, history.csv, history.safetensors, checkpoint.safetensors and the one before
        it, and claim.json, which says whose the folder is.  If it holds the checkpoint of an interrupted fit, this one
        goes on from there, to bit for bit the same parameters on the same machine; if it holds a finished one, that is
        loaded, for which the folder may be read-only.
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
        parameters; for a start at which the gradient of a run vanishes, or its loss is not finite; for a folder with a
        run of another kind, model, start, problem, version or setting, which is kept, or with a damaged checkpoint and
        no good one before it.  The message names what differs.
    OSError
        If the folder cannot be written, before the fit; if it becomes so later, what was saved before is kept.
    BlockingIOError
        If another process is writing to the folder; the message names it.
    KeyboardInterrupt
        After the step in which it came, with a checkpoint saved.

    See Also
    --------
    htf.training.Training : other objectives.
    htf.training.gradient_flow : the limit of small steps.
    htf.ht_completion : by alternating least squares, where the gradient's path is of no interest.
    htf.dynamics.study : planted problems from many starts.

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
    training = Fitting(
        network,
        entries(problem, loss=loss),
        optimizer=optimizer,
        lr=lr,
        rules=stop,
        track=track,
        every=every,
        out=out,
    )
    return training.run(steps=steps, save_every=save_every, progress=progress)


class Fitting(Training):
    """The training of `fit`."""

    kind = "fit"

    def _describe(self) -> dict[str, dict[str, Any]]:
        about = settings_of(self)
        return {"network": about.pop("network"), "problem": about.pop("problem"), "fit": about}
