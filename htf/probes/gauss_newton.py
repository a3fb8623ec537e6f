"""Fits of a probe by damped Gauss-Newton steps on all samples at once, in place of Adam's on batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from htf._files import read_tensors, saved_before, write_tensors
from htf.nn import CPNetwork
from htf.training.digests import digest
from htf.training.least_squares_fit import Batch
from htf.training.levenberg_marquardt import LevenbergMarquardt
from htf.training.objectives.least_squares import LeastSquares

CLIP = 1.0  # as `LeastSquaresFit` bounds a test sample's squared error
SAVE_EVERY = 20.0
_STATE = "a checkpoint of Gauss-Newton fits"


@dataclass
class FoundErrors:
    """Errors of the runs of one training.

    Attributes
    ----------
    train, test : list of float
        At the end, for each run.
    train_errors, test_errors : list of list of float
        After each epoch or step.
    seconds : float
    """

    train: list[float]
    test: list[float]
    train_errors: list[list[float]]
    test_errors: list[list[float]]
    seconds: float


def gauss_newton_fits(
    network: CPNetwork,
    train: tuple[Tensor, Tensor],
    test: Sequence[Batch],
    steps: int,
    checkpoint: Path | None,
    report: Callable[[float], Any],
) -> FoundErrors:
    """Fit a network to (indices, targets) in as many steps, or go on from a checkpoint of the same.

    Raises
    ------
    ValueError
        For a checkpoint of another start, other data or another number of steps.
    """
    about = {"start": digest(*network.state_dict().values()), "data": digest(*train), "steps": steps}
    fit = LevenbergMarquardt(network, *train)
    measured, tested, seconds = LeastSquares(test, test, CLIP), [], 0.0
    if checkpoint is not None and saved_before(checkpoint):
        tensors, numbers = read_tensors(checkpoint, _STATE, previous=True)
        for name, value in about.items():
            if numbers["about"][name] != value:
                raise ValueError(f"{checkpoint} is of another fit, with {name} = {numbers['about'][name]!r}")
        fit.restore(tensors, numbers)
        tested, seconds = numbers["test_errors"], numbers["seconds"]
    began = saved = time.perf_counter()

    def save() -> None:
        if checkpoint is not None:
            tensors, numbers = fit.state()
            spent = seconds + time.perf_counter() - began
            write_tensors(
                checkpoint,
                tensors,
                {**numbers, "about": about, "test_errors": tested, "seconds": spent},
                _STATE,
                keep_previous=True,
            )

    try:
        while fit.steps < steps:
            fit.step()
            fit.write()
            tested.append(measured.errors(network, test, CLIP).tolist())
            report(fit.steps / steps)
            if time.perf_counter() - saved > SAVE_EVERY:
                save()
                saved = time.perf_counter()
    except KeyboardInterrupt:
        save()
        raise
    last = tested[-1] if tested else [math.nan] * network.runs
    history = [errors for _, errors in fit.history[1:]]
    return FoundErrors(fit.errors.tolist(), last, history, tested, seconds + time.perf_counter() - began)
