"""Index tuples changed one index after the other, each to the best there is beside the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from htf.linalg.backend import backend_of
from htf.linalg.dense import joint_values
from htf.tensors.ht_tensor import HTTensor

# Passes over all modes.
_SWEEPS = 20


def swept(x: HTTensor, indices: np.ndarray, better: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Ascents from index rows (count, order), whose entries `better` maps to what is to be large.

    A walk around the tree keeps what the tensor is below and outside of the node at hand, given the other indices, so
    that a pass over all modes takes O(N (n r + r³)) multiplications a row.  The choice of `better` may not depend on
    positive factors, which are divided out.
    """
    B, tree = backend_of(x.factors[0]), x.tree
    rows = indices.copy()
    below: list[np.ndarray] = []
    for node, factor in enumerate(x.factors):
        group = tree.children(node)
        found = joint_values(B, factor, [below[child] for child in group]) if group else factor[rows[:, node]]
        below.append(_normalized(found))
    for _ in range(_SWEEPS):
        before = rows.copy()
        above: dict[int, np.ndarray] = {tree.root: np.ones((len(rows), 1))}
        stack = [(tree.root, 0)]
        while stack:
            node, done = stack.pop()
            group, factor = tree.children(node), x.factors[node]
            if not group:
                values = better(above[node] @ factor.T)
                best, each = values.argmax(1), np.arange(len(rows))
                # Of equal ones the old index stays, or rows would wander for ever.
                rows[:, node] = np.where(values[each, best] > values[each, rows[:, node]], best, rows[:, node])
                below[node] = _normalized(factor[rows[:, node]])
            elif done == len(group):
                if node != tree.root:
                    below[node] = _normalized(joint_values(B, factor, [below[child] for child in group]))
            else:
                # Transfer tensor with the child's axis last, times the rows of all its other neighbours.
                others = [below[child] for axis, child in enumerate(group) if axis != done]
                turned = np.moveaxis(factor, done, -1)
                above[group[done]] = _normalized(joint_values(B, turned, [*others, above[node]]))
                stack += [(node, done + 1), (group[done], 0)]
        if (rows == before).all():
            break
    return rows


def _normalized(rows: np.ndarray) -> np.ndarray:
    sizes = np.abs(rows).max(1, keepdims=True)
    return rows / np.where(sizes > 0, sizes, 1.0)
