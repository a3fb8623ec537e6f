"""Bounds on all entries of an HT tensor from intervals of its frames' columns."""

from __future__ import annotations

import math

import numpy as np

from htf.tensors.ht_tensor import HTTensor


def interval(x: HTTensor) -> tuple[float, float]:
    """Numbers between which all entries of a real tensor in double precision lie.

    The columns of every frame lie in intervals, from which those of the parent's follow; only where the same index
    leads to the extremes of all columns is that sharp.  O(N r³) operations.
    """
    intervals: list[tuple[np.ndarray, np.ndarray]] = []
    log = 0.0
    for node, factor in enumerate(x.factors):
        group = x.tree.children(node)
        if not group:
            low, high = factor.min(0), factor.max(0)
        else:
            # (ranks of the children to come, own rank), starting from the transfer tensor as a point.
            low = high = factor
            for child in group:
                low, high = _contracted(low, high, *intervals[child])
        size = float(max(np.abs(low).max(), np.abs(high).max())) or 1.0
        intervals.append((low / size, high / size))
        log += math.log(size)
    ends = (float(intervals[-1][0][0]), float(intervals[-1][1][0]))
    if log > 709:
        return tuple(math.copysign(math.inf, end) if end else 0.0 for end in ends)  # type: ignore[return-value]
    return ends[0] * math.exp(log), ends[1] * math.exp(log)


def _contracted(
    low: np.ndarray, high: np.ndarray, child_low: np.ndarray, child_high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the first axis of products of numbers in two intervals."""
    shape = (-1, *(1,) * (low.ndim - 1))
    a, b = child_low.reshape(shape), child_high.reshape(shape)
    products = [low * a, low * b, high * a, high * b]
    least, most = products[0], products[0]
    for product in products[1:]:
        least, most = np.minimum(least, product), np.maximum(most, product)
    return least.sum(0), most.sum(0)


def interval_of_size(x: HTTensor) -> float:
    """A number that no entry exceeds in size."""
    if np.iscomplexobj(x.factors[0]):
        low, high = interval(HTTensor._of(x.tree, [np.abs(factor) for factor in x.factors]))
        return high
    low, high = interval(x)
    return max(-low, high)
