"""Ascents to entries of large size, as which random ones do not meet a function that is nearly zero elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from htf.decomposition._black_box import BlackBox

# Indices of a mode up to which all are tried; of longer ones, steps of powers of two to both sides.
_WHOLE_FIBRE = 33
# Modes of few indices are often the digits of a number: one more or less is carried on to the neighbouring modes.
_LARGEST_DIGIT = 4


def ascend(box: BlackBox, starts: np.ndarray, allowance: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steepest ascents of the entry's size from index rows (count, order).

    A step tries all changes of one index, and the best changes of all modes together, of the best two, four, ... of
    them.  Where none is better and modes are small, it tries one more and one less in the numbers of which the indices
    may be digits.  It stops at the best of all entries tried, after so many `steps`, or before it would spend more than
    `allowance` evaluations.

    Returns
    -------
    ends : array of integers (count, order)
    met : array of integers (rows, order)
        Index rows on the way, and of the last changes tried: entries around the ends.
    """
    ends, active = starts.copy(), np.arange(len(starts))
    met = [starts]
    most = box.evaluations + allowance
    single, digits = _changes(box.dims)
    for _ in range(steps):
        points = ends[active]
        tried = _neighbours(points, single, box.dims)  # (points, changes, order)
        if not len(active) or box.evaluations + len(points) * (tried.shape[1] + 1) > most:
            break
        sizes, tried_sizes = (np.abs(values) for values in box([points, tried]))
        best = _best(points, sizes, tried, tried_sizes)
        joint = _joint_changes(points, tried, sizes, tried_sizes)
        if box.evaluations + len(points) * joint.shape[1] <= most:
            best = _best(*best, joint, np.abs(box([joint])[0]))
        stuck = np.flatnonzero(best[1] <= sizes)
        if digits and len(stuck) and box.evaluations + len(stuck) * len(digits) <= most:
            near = _neighbours(points[stuck], digits, box.dims)
            best[0][stuck], best[1][stuck] = _best(points[stuck], sizes[stuck], near, np.abs(box([near])[0]))
            met.append(near.reshape(-1, points.shape[1]))
        moved = best[1] > sizes
        met += [best[0][moved], tried[~moved].reshape(-1, points.shape[1])]
        ends[active] = best[0]
        active = active[moved]
    return ends, np.concatenate(met)


def _best(
    points: np.ndarray, sizes: np.ndarray, tried: np.ndarray, tried_sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if not tried.shape[1]:
        return points, sizes
    at = tried_sizes.argmax(1)
    each = np.arange(len(points))
    better = tried_sizes[each, at] > sizes
    return np.where(better[:, None], tried[each, at], points), np.where(better, tried_sizes[each, at], sizes)


Change = tuple[int, int, int]  # mode, step within it, and the direction in which it is carried on (0: not at all)


def _changes(dims: tuple[int, ...]) -> tuple[list[Change], list[Change]]:
    """Changes of one index, and of digits."""
    single: list[Change] = []
    for mode, dim in enumerate(dims):
        if dim <= _WHOLE_FIBRE:
            steps = list(range(1, dim))
        else:
            powers = [2**k for k in range(dim.bit_length()) if 2**k < dim]
            steps = [*powers, *(dim - p for p in powers)]
        single += [(mode, step, 0) for step in steps]
    digits: list[Change] = []
    if are_digits(dims):
        digits = [(mode, step, way) for mode in range(len(dims)) for step in (1, -1) for way in (-1, 1)]
    return single, digits


def are_digits(dims: tuple[int, ...]) -> bool:
    """Whether indices may be the digits of a number."""
    return len(dims) > 1 and max(dims) <= _LARGEST_DIGIT


def _neighbours(points: np.ndarray, changes: list[Change], dims: tuple[int, ...]) -> np.ndarray:
    tried = np.repeat(points[:, None], len(changes), axis=1)
    for number, (mode, step, way) in enumerate(changes):
        if way:
            tried[:, number] = carried(points, dims, np.full(len(points), mode), step, way)
        else:
            tried[:, number, mode] = (points[:, mode] + step) % dims[mode]
    return tried


def carried(points: np.ndarray, dims: tuple[int, ...], modes: np.ndarray, steps: Any, way: int) -> np.ndarray:
    """Index rows (count, order) as digits of numbers, to which a step is added at a mode each.

    What exceeds a digit is carried on to the previous (way -1) or the next (way 1) mode.
    """
    moved, carry = points.copy(), np.zeros(len(points), dtype=np.int64)
    for mode in range(len(dims))[::way]:
        digits = moved[:, mode] + np.where(modes == mode, steps, 0) + carry
        moved[:, mode] = digits % dims[mode]
        carry = digits // dims[mode]
    return moved


def _joint_changes(points: np.ndarray, tried: np.ndarray, sizes: np.ndarray, tried_sizes: np.ndarray) -> np.ndarray:
    """The best changes of the best 2, 4, ... modes at once, (points, numbers of modes, order)."""
    count, order = points.shape
    single = (tried != points[:, None]).sum(2) == 1
    gains = np.where(single & (tried_sizes > sizes[:, None]), tried_sizes, 0.0)
    mode = (tried != points[:, None]).argmax(2)
    best, values = np.zeros((count, order)), points.copy()
    each = np.arange(count)
    for change in range(tried.shape[1]):
        at = mode[:, change]
        better = gains[:, change] > best[each, at]
        best[each[better], at[better]] = gains[better, change]
        values[each[better], at[better]] = tried[better, change, at[better]]
    ranking = np.argsort(-best, axis=1)
    numbers = [2**k for k in range(1, order.bit_length()) if 2**k < order] + [order]
    joint = np.repeat(points[:, None], len(numbers), axis=1)
    for number, modes in enumerate(numbers):
        chosen = ranking[:, :modes]
        joint[each[:, None], number, chosen] = values[each[:, None], chosen]
    return joint
