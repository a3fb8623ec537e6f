"""Completion by convex programs: the least nuclear norm, of tensors summed over the matricizations."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from htf.datasets import CompletionProblem

_TOLERANCE = 1e-8


def least_nuclear_norm(problem: CompletionProblem) -> NDArray[np.float64]:
    """The array of least nuclear norm with the observed entries; of a tensor, the sum over modes of n against the rest.

    Parameters
    ----------
    problem : CompletionProblem

    Returns
    -------
    ndarray
        Of the problem's shape, float64.

    Raises
    ------
    ModuleNotFoundError
        Without cvxpy.
    ValueError
        If the solver finds none: the message says what it says.

    References
    ----------
    .. [1] E. J. Candès, B. Recht, "Exact matrix completion via convex optimization", Found. Comput. Math. 2009.
    .. [2] J. Liu, P. Musialski, P. Wonka, J. Ye, "Tensor completion for estimating missing values in visual data",
       IEEE TPAMI 2013, equation 5 with equal weights.
    """
    try:
        cvxpy: Any = import_module("cvxpy")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("nuclear norms need cvxpy: install htf-tensors[convex]") from error
    shape = problem.shape
    entries = cvxpy.Variable(math.prod(shape))
    observed = np.ravel_multi_index(tuple(problem.indices.cpu().numpy().T), shape)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    modes = range(len(shape)) if len(shape) > 2 else [0]
    norm = sum(cvxpy.normNuc(_matrix(cvxpy, entries, np.moveaxis(numbers, mode, 0))) for mode in modes)
    program = cvxpy.Problem(cvxpy.Minimize(norm), [entries[observed] == problem.values.double().cpu().numpy()])
    program.solve(solver="SCS", eps=_TOLERANCE, max_iters=200_000)
    if program.status != "optimal":
        raise ValueError(f"the convex program is {program.status}; expected an optimum")
    found: NDArray[np.float64] = np.asarray(entries.value).reshape(shape)
    return found


def _matrix(cvxpy: Any, entries: Any, numbers: NDArray[np.int64]) -> Any:
    return cvxpy.reshape(entries[numbers.ravel()], (len(numbers), numbers.size // len(numbers)), order="C")
