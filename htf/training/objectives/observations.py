"""Observations of a problem: inputs as the network takes them, targets, and test entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf._repr import brief
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.engine import Plan
from htf.nn import Factorization, MatrixPlan
from htf.training.digests import digest

# All entries of a sensing problem's target are read at every recorded moment, up to so many.
_LARGEST_TARGET = 2**18


@dataclass(frozen=True)
class Observations:
    """Inputs and targets of a fit.

    Attributes
    ----------
    inputs : Tensor, Plan or MatrixPlan
    targets : Tensor
        (m, runs) or (m, 1).
    test_inputs, test_targets : likewise, or None
    read_matrices : callable
        From matrices (runs, d, d') to the outputs (m, runs) that they give.
    about : dict
        The problem's settings and a digest of its values.
    """

    inputs: Tensor | Plan | MatrixPlan
    targets: Tensor
    test_inputs: Tensor | Plan | MatrixPlan | None
    test_targets: Tensor
    read_matrices: Callable[[Tensor], Tensor]
    about: dict[str, Any]

    __repr__ = brief


def observe(
    network: Factorization, problem: CompletionProblem | SensingProblem | tuple[Tensor, Tensor]
) -> Observations:
    """Check that a problem fits a network, and plan for it.

    Raises
    ------
    ValueError, TypeError, IndexError
        If it does not.
    """
    if network.outputs != 1:
        raise ValueError(f"network has {network.outputs} outputs; a fit takes one")
    if isinstance(problem, CompletionProblem | SensingProblem):
        if problem.shape != network.dims:
            raise ValueError(f"problem has shape {problem.shape}; the network has dims {network.dims}")
        inputs = problem.indices if isinstance(problem, CompletionProblem) else problem.vectors
        values, settings = problem.values, problem.describe()
    elif isinstance(problem, tuple) and len(problem) == 2 and all(isinstance(part, Tensor) for part in problem):
        (inputs, values), settings = problem, {"problem": "inputs and targets"}
    else:
        raise TypeError(
            f"problem is a {type(problem).__name__}; expected a problem of htf.datasets or a pair of tensors"
        )
    if inputs.device != network.device:
        raise ValueError(f"problem is on {inputs.device}; the network is on {network.device}")
    targets = _targets(values, inputs, network)
    if not inputs.dtype.is_floating_point:
        plan = network.plan(inputs)
    inputs = inputs.to(network.dtype) if inputs.dtype.is_floating_point else inputs.long()
    test_inputs, test_targets = _test(problem, network)
    return Observations(
        inputs=inputs if inputs.dtype.is_floating_point else plan,
        targets=targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        read_matrices=_reader(inputs, network.dims),
        about={**settings, "observations": len(targets), "digest": digest(inputs, targets)},
    )


def _targets(values: Tensor, inputs: Tensor, network: Factorization) -> Tensor:
    if (
        values.ndim not in (1, 2)
        or len(values) != len(inputs)
        or (values.ndim == 2 and values.shape[1] not in (1, network.runs))
    ):
        raise ValueError(
            f"targets have shape {tuple(values.shape)}; expected ({len(inputs)},) or ({len(inputs)}, 1) for all "
            f"runs, or ({len(inputs)}, {network.runs})"
        )
    if not len(values):
        raise ValueError("problem has no observations")
    if not bool(values.isfinite().all()):
        raise ValueError("targets hold values that are NaN or infinite")
    targets = values.to(network.dtype)
    if not bool(targets.isfinite().all()):
        raise ValueError(f"targets hold values beyond the range of the network's {network.dtype}")
    return targets.unsqueeze(1) if targets.ndim == 1 else targets


def _test(problem: Any, network: Factorization) -> tuple[Tensor | Plan | MatrixPlan | None, Tensor]:
    """Entries to judge by: those set aside, or all of a target that was measured."""
    nothing = torch.zeros(0, 1, dtype=network.dtype, device=network.device)
    if isinstance(problem, CompletionProblem):
        indices, values = problem.test_indices, problem.test_values
    elif isinstance(problem, SensingProblem) and problem.target is not None:
        if problem.target.numel() > _LARGEST_TARGET:
            return None, nothing
        axes = [torch.arange(dim, device=network.device) for dim in problem.shape]
        indices, values = torch.cartesian_prod(*axes), problem.target.flatten()
    else:
        return None, nothing
    if not len(indices):
        return None, nothing
    return network.plan(indices), values.to(network.dtype).unsqueeze(1)


def _reader(inputs: Tensor, dims: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    if inputs.dtype.is_floating_point:
        return lambda ends: torch.einsum(
            "bi,rij,bj->br", inputs[:, 0, : dims[0]], ends.to(inputs.dtype), inputs[:, 1, : dims[1]]
        )
    flat = inputs[:, 0] * dims[1] + inputs[:, 1]
    return lambda ends: ends.flatten(1).index_select(1, flat).T
