"""Index tuples drawn with probabilities in proportion to the entries of an HT tensor, or to their squares."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from htf._checks import natural
from htf._random import check_random_state
from htf.linalg.backend import backend_of, host_indices, is_complex, square, to_numpy
from htf.linalg.dense import joint_values, mode_product
from htf.tensors.arithmetic import renumbered
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht, check_mode
from htf.tensors.orthogonal import check_finite, orthogonalized
from htf.tensors.rank import check_tolerance
from htf.tree import DimensionTree

# Entries of the largest array that is held: 32 MB.
_CHUNK_ENTRIES = 2**22
# Entries of a subtree that is drawn as one mode.
_MERGED = 16
# Tuples that are drawn at once.
_CHUNK_ROWS = 2**13
# Modes of a node over which products stay in the range of doubles: each divides norms by its dimension's root or so.
_LIGHT = 32
# Columns that are run through one after the other.
_FEW_COLUMNS = 16


def ht_sample(
    ht_tensor: HTTensor | RawHT,
    count: int,
    random_state: Any = None,
    by: str = "squares",
    given: Mapping[int, Any] | None = None,
    tol: float = 1e-8,
) -> np.ndarray:
    r"""Draw index tuples with probabilities in proportion to squares of entries, or to entries.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output.
    count : int
        How many, independent of each other.
    random_state : int, RandomState or None
    by : {"squares", "entries"}
        Probabilities :math:`|x_i|^2 / \|x\|^2`, or :math:`x_i / \sum_j x_j` for entries that are not negative.
    given : mapping from mode to int or array of int (count,), optional
        Indices of some modes, the same for all tuples or one for each: the others are drawn from the conditional
        distribution.
    tol : float
        By entries: what is below zero by no more than this part of the largest of its fibre, or of sums of entries that
        are compared with it, counts as zero.

    Returns
    -------
    array of integers (count, order)
        A NumPy array, for `HTTensor.entries` and the like.

    Raises
    ------
    ValueError
        If nothing has a positive probability (the tensor, or what is given, is zero), an entry or a sum of entries that
        is met is negative, entries are NaN or infinite, `by` is something else, or there are several outputs.
    TypeError
        By entries of a complex tensor, for a count that is no integer, and for indices that are none.
    IndexError
        For modes and indices out of range.

    See Also
    --------
    htf.tensors.ht_argmax : the largest entry.
    htf.models.TensorDensity : a density that is fitted to samples.

    Notes
    -----
    Exact, from the root to the leaves, in batches.  By squares: with orthonormal frames, the marginal of a subtree is a
    mixture over the basis of the others' frames, of which an element is drawn, then the indices below from what it
    leaves, and then the other subtrees' given those (Ferris & Vidal 2012).  By entries: a mode's conditional
    distribution given those drawn so far is a product of vectors of sums over the others.  O(N r³) multiplications a
    tuple.  Only entries that are met can be found to be negative: those along the last fibre of every draw, and sums of
    entries before.

    Where `given` has an array, tuples with the same given indices are drawn together.

    References
    ----------
    .. [1] A. J. Ferris, G. Vidal, "Perfect sampling with unitary tensor networks", Phys. Rev. B 85 (2012).

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((2,) * 60, rank=3, random_state=0)
    >>> x.sample(1000, random_state=0).shape
    (1000, 60)
    >>> x.sample(3, random_state=0, given={0: 1, 59: [0, 1, 0]})[:, [0, 59]].tolist()
    [[1, 0], [1, 1], [1, 0]]
    """
    x, count = as_ht(ht_tensor), natural("count", count)
    if by not in ("squares", "entries"):
        raise ValueError(f"by is {by!r}; expected 'squares' or 'entries'")
    if x.outputs > 1:
        raise ValueError(f"the tensor has {x.outputs} outputs; take one of them, x[..., k]")
    if by == "entries" and is_complex(x.factors[0]):
        raise TypeError("the tensor is complex; its entries are no probabilities, by='squares' draws by their sizes")
    check_finite(x.factors)
    double = np.complex128 if is_complex(x.factors[0]) else np.float64
    x = HTTensor._of(x.tree, [to_numpy(factor).astype(double) for factor in x.factors])
    rng = check_random_state(random_state)
    check_tolerance(tol)
    fixed = _checked_given({} if given is None else given, x, count)
    drawn = np.zeros((count, x.order), dtype=np.int64)
    for mode, column in fixed.items():
        drawn[:, mode] = column
    free = [mode for mode in range(x.order) if mode not in fixed]
    conditions, which = np.unique(drawn[:, sorted(fixed)], axis=0, return_inverse=True)
    for number, condition in enumerate(conditions):
        rows = np.flatnonzero(which.reshape(-1) == number)
        at = dict(zip(sorted(fixed), condition.tolist(), strict=True))
        left = x[tuple(at.get(mode, slice(None)) for mode in range(x.order))] if at else x
        what = f"the tensor at given indices {at}" if at else "the tensor"
        if not free:
            continue
        drawn[rows[:, None], np.array(free)] = _drawn(left, len(rows), rng, by, tol, what)
    return drawn


def _checked_given(given: Mapping[int, Any], x: HTTensor, count: int) -> dict[int, np.ndarray]:
    if not isinstance(given, Mapping):
        raise TypeError(f"given is {given!r}; expected a mapping of modes to indices")
    fixed: dict[int, np.ndarray] = {}
    for mode, index in given.items():
        number = check_mode(mode, x.order)
        if number in fixed:
            raise ValueError(f"given names mode {number} twice")
        column = host_indices(index, f"the given indices of mode {number}")
        if column.shape not in ((), (count,)):
            raise ValueError(f"the given indices of mode {number} have shape {column.shape}; expected () or ({count},)")
        dim = x.dims[number]
        if column.size and not (-dim <= column.min() and column.max() < dim):
            raise IndexError(f"the given indices of mode {number} are out of range; expected {-dim} to {dim - 1}")
        fixed[number] = np.broadcast_to(column, (count,)) % dim
    return fixed


def _drawn(x: HTTensor, count: int, rng: Any, by: str, tol: float, what: str) -> np.ndarray:
    if not count:
        return np.zeros((0, x.order), dtype=np.int64)
    y, groups = _coarsened(x)
    joint = drawn_by_square(y, count, rng) if by == "squares" else _drawn_by_entry(y, groups, count, rng, tol, what)
    if not len(joint):
        raise ValueError(f"{what} is zero; nothing can be drawn from it")
    drawn = np.empty((count, x.order), dtype=np.int64)
    for number, modes in enumerate(groups):
        for mode, column in zip(modes, np.unravel_index(joint[:, number], [x.dims[m] for m in modes]), strict=True):
            drawn[:, mode] = column
    return drawn


def _coarsened(x: HTTensor) -> tuple[HTTensor, list[tuple[int, ...]]]:
    """The tensor with its smallest subtrees as single modes, which are drawn at once, and the modes of each."""
    B, tree = backend_of(x.factors[0]), x.tree
    sizes = list(x.dims)
    frames = list(x.factors)
    for node in tree.inner_nodes:
        group = tree.children(node)
        sizes.append(prod([sizes[child] for child in group]))
        if sizes[node] <= _MERGED:
            part = frames[node]
            for axis, child in enumerate(group):
                part = mode_product(B, part, frames[child], axis)
            frames[node] = part.reshape(-1, part.shape[-1])
    parents = {child: node for node in tree.inner_nodes for child in tree.children(node)}
    large = [node for node in tree.inner_nodes if sizes[node] > _MERGED]
    if not large:
        return HTTensor._of(DimensionTree.balanced(1), [frames[-1]]), [tree.modes(tree.root)]
    tops = [n for n in range(tree.root) if parents[n] in large and n not in large]
    number = {node: k for k, node in enumerate([*tops, *large])}
    children = [tuple(number[child] for child in tree.children(node)) for node in large]
    y = renumbered(len(tops), children, [frames[node] for node in [*tops, *large]])
    return y, [tree.modes(node) for node in tops]


def _in_chunks(x: HTTensor, count: int) -> list[int]:
    """Sizes of the batches that keep arrays within bounds, and within the processor's cache."""
    step = min(max(1, _CHUNK_ENTRIES // max(prod(factor.shape[:-1]) for factor in x.factors)), _CHUNK_ROWS)
    return [min(step, count - done) for done in range(0, count, step)]


def drawn_by_square(x: HTTensor, count: int, rng: Any) -> np.ndarray:
    """Index rows (count, order), each drawn with the probability |x|² / ‖x‖²; none for a zero tensor."""
    y = orthogonalized(x)[0]
    if not count or not np.any(y.factors[-1]):
        return np.zeros((0, x.order), dtype=np.int64)
    return np.concatenate([_by_square(y, size, rng) for size in _in_chunks(y, count)])


def _by_square(y: HTTensor, count: int, rng: Any) -> np.ndarray:
    B, tree = backend_of(y.factors[0]), y.tree
    drawn = np.zeros((tree.order, count), dtype=np.int64)
    heavy = _heavy(tree)
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
            drawn[node] = _chosen(square(joints.pop(node)), rng)
            below[node] = factor[drawn[node]]
        elif done == len(children):
            del joints[node]
            if node != tree.root:
                below[node] = joint_values(B, factor, [below.pop(c) for c in children])
                if heavy[node]:
                    below[node] = _normalized(below[node])
        else:
            joint = joints[node].reshape(count, joints[node].shape[1], -1)
            if heavy[node]:
                joint = _normalized(joint)
            column = _chosen(np.einsum("sab,sab->sb", joint.conj(), joint).real, rng)
            states[children[done]] = _columns(joint, column)
            stack += [(node, done + 1), (children[done], 0)]
    return drawn.T


def _heavy(tree: DimensionTree) -> list[bool]:
    """Nodes of so many modes that products over them are kept near 1, as only ratios matter to the draws."""
    counts = [1] * tree.order
    for node in tree.inner_nodes:
        counts.append(sum(counts[child] for child in tree.children(node)))
    return [count > _LIGHT for count in counts]


def _columns(joint: np.ndarray, column: np.ndarray) -> np.ndarray:
    """``joint[s, :, column[s]]`` for all s: (count, rows) of (count, rows, columns)."""
    count, rows, columns = joint.shape
    first = np.arange(count) * (rows * columns) + column
    return np.take(joint.reshape(-1), first[:, None] + np.arange(rows) * columns)


def _drawn_by_entry(
    x: HTTensor, groups: list[tuple[int, ...]], count: int, rng: Any, tol: float, what: str
) -> np.ndarray:
    """Index rows (count, order), each drawn with the probability x / Σ x; none where the sum is zero."""
    B, tree = backend_of(x.factors[0]), x.tree
    sums: list[np.ndarray] = []  # of the rows of every frame, over a positive number
    factors = [factor / (np.abs(factor).max() or 1.0) for factor in x.factors]
    for node, factor in enumerate(factors):
        group = tree.children(node)
        total = joint_values(B, factor, [sums[child][None] for child in group])[0] if group else factor.sum(0)
        sums.append(total / (np.abs(total).max() or 1.0))
    if sums[-1][0] < 0:
        raise ValueError(f"{what} has a negative sum; entries are no probabilities, see by='squares'")
    if sums[-1][0] == 0:
        return np.zeros((0, x.order), dtype=np.int64)
    y = HTTensor._of(tree, factors)
    return np.concatenate([_by_entry(y, groups, sums, size, rng, tol) for size in _in_chunks(y, count)])


def _by_entry(
    y: HTTensor, groups: list[tuple[int, ...]], sums: list[np.ndarray], count: int, rng: Any, tol: float
) -> np.ndarray:
    B, tree = backend_of(y.factors[0]), y.tree
    drawn = np.zeros((tree.order, count), dtype=np.int64)
    heavy = _heavy(tree)
    weights = {tree.root: np.ones((count, 1))}  # what a node's rows are multiplied by, (count, rank)
    joints: dict[int, np.ndarray] = {}  # weights times a node's factor, (count, ranks of the children to come)
    below: dict[int, np.ndarray] = {}  # rows of the frames at the indices drawn, (count, rank)
    stack = [(tree.root, 0)]
    while stack:
        node, done = stack.pop()
        children, factor = tree.children(node), y.factors[node]
        if done == 0:
            joints[node] = np.tensordot(weights.pop(node), factor, axes=(1, factor.ndim - 1))
        else:
            joints[node] = np.einsum("sa...,sa->s...", joints[node], below[children[done - 1]])
        if not children:
            drawn[node] = _chosen(_not_negative(joints.pop(node), groups[node], tol), rng)
            below[node] = factor[drawn[node]]
        elif done == len(children):
            del joints[node]
            if node != tree.root:
                below[node] = joint_values(B, factor, [below.pop(c) for c in children])
                if heavy[node]:
                    below[node] = _normalized(below[node])
        else:
            if heavy[node]:
                joints[node] = _normalized(joints[node])
            weight = joints[node]
            for child in reversed(children[done + 1 :]):
                weight = weight @ sums[child]
            weights[children[done]] = weight
            stack += [(node, done + 1), (children[done], 0)]
    return drawn.T


def _not_negative(fibres: np.ndarray, modes: tuple[int, ...], tol: float) -> np.ndarray:
    """Conditional weights of the indices of some modes (count, dimension) without rounding error below zero."""
    least = fibres.min()
    if least >= 0 and fibres.max(1).min() > 0:
        return fibres
    sizes = np.abs(fibres).max(1)
    bad = (fibres.min(1) < -tol * sizes) | (fibres.max(1) <= 0)
    if bad.any():
        where = f"mode {modes[0]}" if len(modes) == 1 else f"modes {modes}"
        raise ValueError(
            f"an entry is negative, or a sum of entries, at some indices of {where}; expected entries of at least 0, "
            "or by='squares'"
        )
    return np.maximum(fibres, 0.0)


def _chosen(weights: np.ndarray, rng: Any) -> np.ndarray:
    """A column per row of weights (rows, columns), with probabilities in proportion."""
    rows, columns = weights.shape
    drawn = rng.random_sample(rows)
    if columns > _FEW_COLUMNS:
        ends = np.cumsum(weights, axis=1)
        at = drawn * ends[:, -1]
        return np.minimum((ends <= at[:, None]).sum(1), columns - 1)
    # Column by column, as loops over short rows take longer.
    sums = [weights[:, 0]]
    for column in range(1, columns):
        sums.append(sums[-1] + weights[:, column])
    at = drawn * sums[-1]
    chosen = np.zeros(rows, dtype=np.int64)
    for end in sums[:-1]:
        chosen += end <= at
    return chosen


def _normalized(array: np.ndarray) -> np.ndarray:
    """Rows over their largest entries: products over many modes would leave the range of doubles."""
    largest = np.abs(array).max(axis=tuple(range(1, array.ndim)), keepdims=True)
    return array / np.where(largest > 0, largest, 1.0)
