"""Entries of an HT tensor drawn by their size."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from htf.linalg.backend import backend_of, square
from htf.linalg.dense import joint_values
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.orthogonal import orthogonalized

# Entries of the largest array that is held: 32 MB.
_CHUNK_ENTRIES = 2**22


def drawn_by_square(x: HTTensor, count: int, rng: Any) -> np.ndarray:
    """Index rows (count, order), each drawn with the probability |x|² / ‖x‖²; none for a zero tensor.

    With orthonormal frames, the marginal of a subtree is a mixture over the basis of the others' frames: draw an
    element of that basis, then the indices below from what it leaves, and then the other subtrees' given those.
    O(N r³) multiplications a row (A. J. Ferris, G. Vidal, "Perfect sampling with unitary tensor networks", 2012).
    """
    y = orthogonalized(x)[0]
    if not np.any(y.factors[-1]):
        return np.zeros((0, x.order), dtype=np.int64)
    step = max(1, _CHUNK_ENTRIES // max(prod(factor.shape[:-1]) for factor in y.factors))
    return np.concatenate([_drawn(y, min(step, count - done), rng) for done in range(0, count, step)])


def _drawn(y: HTTensor, count: int, rng: Any) -> np.ndarray:
    B, tree = backend_of(y.factors[0]), y.tree
    drawn = np.zeros((count, tree.order), dtype=np.int64)
    samples = np.arange(count)
    states = {tree.root: np.ones((count, 1))}  # what the indices above and beside leave, (count, rank)
    joints: dict[int, np.ndarray] = {}  # a node's states times its factor, (count, ranks of the children to come)
    below: dict[int, np.ndarray] = {}  # rows of the frames at the indices drawn, (count, rank)
    stack = [(tree.root, 0)]
    while stack:
        node, done = stack.pop()
        children, factor = tree.children(node), y.factors[node]
        if done == 0:
            state = states.pop(node)
            joints[node] = np.tensordot(state, factor, axes=(1, factor.ndim - 1))
        else:
            # The child's indices are drawn: contract its axis, the first one that is left.
            joints[node] = np.einsum("sa...,sa->s...", joints[node], below[children[done - 1]])
        if not children:
            drawn[:, node] = _chosen(square(joints.pop(node)), rng)
            below[node] = _normalized(factor[drawn[:, node]])
        elif done == len(children):
            del joints[node]
            if node != tree.root:
                below[node] = _normalized(joint_values(B, factor, [below.pop(c) for c in children]))
        else:
            joint = _normalized(joints[node].reshape(count, joints[node].shape[1], -1))
            column = _chosen(np.einsum("sab,sab->sb", joint.conj(), joint).real, rng)
            states[children[done]] = joint[samples, :, column]
            stack += [(node, done + 1), (children[done], 0)]
    return drawn


def _chosen(weights: np.ndarray, rng: Any) -> np.ndarray:
    """A column per row of weights (rows, columns), with probabilities in proportion."""
    ends = np.cumsum(weights, axis=1)
    at = rng.random_sample(len(weights)) * ends[:, -1]
    return np.minimum((ends <= at[:, None]).sum(1), weights.shape[1] - 1)


def _normalized(array: np.ndarray) -> np.ndarray:
    """Only ratios matter to the draws, and products over many modes would leave the range of doubles."""
    largest = np.abs(array).max(axis=tuple(range(1, array.ndim)), keepdims=True)
    return array / np.where(largest > 0, largest, 1.0)
