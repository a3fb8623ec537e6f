"""Ascents to entries of large size, as which random ones do not meet a function that is nearly zero elsewhere."""

from __future__ import annotations

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
    for _ in range(steps):
        points = ends[active]
        tried = _changed(points, box.dims)
        if not len(active) or box.evaluations + len(points) * (tried.shape[1] + 1) > most:
            break
        sizes, tried_sizes = (np.abs(values) for values in box([points, tried]))
        best = _best(points, sizes, tried, tried_sizes)
        joint = _joint_changes(points, tried, sizes, tried_sizes)
        if box.evaluations + len(points) * joint.shape[1] <= most:
            best = _best(*best, joint, np.abs(box([joint])[0]))
        stuck = np.flatnonzero(best[1] <= sizes)
        if are_digits(box.dims) and len(stuck) and box.evaluations + len(stuck) * 4 * box.order <= most:
            near = _counted(points[stuck], box.dims)
            best[0][stuck], best[1][stuck] = _best(points[stuck], sizes[stuck], near, np.abs(box([near])[0]))
            met.append(near.reshape(-1, box.order))
        moved = best[1] > sizes
        met += [best[0][moved], tried[~moved].reshape(-1, box.order)]
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


def _changed(points: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """Rows with one index changed, (points, changes, order)."""
    modes: list[int] = []
    steps: list[int] = []
    for mode, dim in enumerate(dims):
        powers = [2**k for k in range(dim.bit_length()) if 2**k < dim]
        own = range(1, dim) if dim <= _WHOLE_FIBRE else [*powers, *(dim - p for p in powers)]
        modes += [mode] * len(own)
        steps += own
    tried = np.repeat(points[:, None], len(modes), axis=1)
    tried[:, np.arange(len(modes)), modes] += steps
    return tried % dims


def are_digits(dims: tuple[int, ...]) -> bool:
    """Whether indices may be the digits of a number."""
    return len(dims) > 1 and max(dims) <= _LARGEST_DIGIT


def _counted(points: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """Rows with one more or less at any digit, carried on either way, (points, changes, order)."""
    count, order = points.shape
    rows = np.repeat(points, 2 * order, axis=0)
    modes, steps = np.tile(np.repeat(np.arange(order), 2), count), np.tile([1, -1], count * order)
    both = [carried(rows, dims, modes, steps, way).reshape(count, 2 * order, order) for way in (-1, 1)]
    return np.concatenate(both, axis=1)


def carried(points: np.ndarray, dims: tuple[int, ...], modes: np.ndarray, steps: np.ndarray, way: int) -> np.ndarray:
    """Index rows (count, order) as digits of numbers, to each of which a step is added at some mode.

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
