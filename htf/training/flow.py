"""Gradient flow itself, integrated to a tolerance: what gradient descent follows at vanishing step."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from htf._machine import describe_machine
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.nn import Factorization
from htf.training._full_batch_record import check_start, moment_of, warn_of_test_error
from htf.training.history import History, Recorder
from htf.training.losses import Loss
from htf.training.objectives.entries import Entries
from htf.training.tracking import Tracker, describe_network, tracker_names


def gradient_flow(
    network: Factorization,
    problem: CompletionProblem | SensingProblem | tuple[Tensor, Tensor],
    times: Sequence[float] | NDArray[np.float64] | Tensor,
    *,
    loss: str | Loss = "l2",
    track: Tracker | Sequence[Tracker] = (),
    tolerance: float = 1e-9,
) -> History:
    r"""Follow :math:`\dot\theta = -\nabla \ell(\theta)` from a network's parameters.

    For small networks and long times: a step is as long as its tolerance allows, where that of gradient descent is
    bounded by the curvature, and never overshoots.

    Parameters
    ----------
    network : CPNetwork, HTNetwork or MatrixFactorization
        In float64; it has the parameters of the last time afterwards.
    problem, loss, track
        As in `fit`.
    times : sequence of float
        At which to record, rising, from 0 or later.
    tolerance : float
        Relative error of the parameters over a step; the absolute one is a thousandth of it.

    Returns
    -------
    History
        Its `steps` number the times; its `rate` is NaN, as there are no steps.

    Raises
    ------
    ValueError, TypeError
        As `fit`, for a network that is not in float64 or times that do not rise, and for a loss that is not finite at
        the start.
    RuntimeError
        If the integration fails, or a loss is not finite at one of the times.

    See Also
    --------
    htf.training.fit : gradient descent.
    htf.dynamics.compare_rates : rates of a descent against those of the flow.

    Notes
    -----
    LSODA of SciPy, which changes to an implicit method where the flow is stiff: then O(n³) for n parameters of all
    runs, which are integrated together.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((4, 4), "matrix", rank=1, observed=14, norm=4)
    >>> net = htf.nn.MatrixFactorization((4, 4), depth=2, init="balanced", seed=0, dtype=torch.float64)
    >>> history = htf.training.gradient_flow(net, problem, times=[0.0, 1e1, 1e3])
    >>> bool(history.loss[0] > 0.1), bool(history.loss[-1] < 1e-4)
    (True, True)
    """
    at = np.asarray(torch.as_tensor(times, dtype=torch.float64, device="cpu"))
    if at.ndim != 1 or not len(at) or at[0] < 0 or not bool((np.diff(at) > 0).all()):
        raise ValueError(f"times is {times!r}; expected a rising sequence from 0 or later")
    if network.dtype != torch.float64:
        raise ValueError(f"network is in {network.dtype}; the flow takes torch.float64")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected between 0 and 1")
    objective, trackers = Entries(problem, loss), tracker_names(track)
    objective.bind(network)
    parameters = list(network.parameters())

    def place(state: NDArray[np.float64]) -> Tensor:
        """Losses at a state, with gradients of the parameters."""
        with torch.no_grad():
            parts = torch.from_numpy(state).split([p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
        for parameter in parameters:
            parameter.grad = None
        losses = objective.find(network, 0, 0).losses
        losses.backward(torch.ones_like(losses))
        return losses.detach()

    def velocity(_: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        place(state)
        return -_flat([p.grad for p in parameters if p.grad is not None])

    check_start(place(_flat(parameters)), network)
    began = perf_counter()
    found = solve_ivp(
        velocity,
        (0.0, float(at[-1])),
        _flat(parameters),
        method="LSODA",
        t_eval=at,
        rtol=tolerance,
        atol=tolerance / 1e3,
    )
    if not found.success:
        raise RuntimeError(f"the flow could not be followed to time {at[-1]}: {found.message}")
    settings = {
        "network": describe_network(network),
        "problem": objective.observations.about,
        "loss": objective.loss.describe(),
        "optimizer": {"name": "gradient flow", "tolerance": tolerance, "evaluations": int(found.nfev)},
        "trackers": {name: tracker.describe(network) for name, tracker in trackers.items()},
        "made_by": describe_machine(network.device),
    }
    warned = False
    recorder = Recorder(settings, seconds=perf_counter() - began, stopped="steps")
    nothing = torch.full((network.runs,), torch.nan, dtype=torch.float64, device="cpu")
    for step, (time, state) in enumerate(zip(at, found.y.T, strict=True)):
        losses = place(np.ascontiguousarray(state))
        if not bool(losses.isfinite().all()):
            raise RuntimeError(f"the losses are {losses.tolist()} at time {time}; expected finite ones")
        row = {"time": torch.full_like(nothing, float(time)), "rate": nothing, "loss": losses}
        row["test_error"] = objective.test_error(network).double()
        if not warned and objective.observations.test_inputs is not None:
            warned = warn_of_test_error(row["test_error"], f"time {time}")
        moment = moment_of(network, step, losses, objective)
        for name, tracker in trackers.items():
            row |= {f"tracked/{name}/{key}": value for key, value in tracker.measure(moment).items()}
        recorder.add(step, row)
    return recorder.history()


def _flat(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    return torch.cat([t.detach().cpu().flatten() for t in tensors]).numpy()
