"""Hierarchical Tucker decomposition of an array that arrives block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Never, SupportsIndex

import torch

from htf._checks import by_name, check_index
from htf.decomposition._projection import SeriesTree
from htf.decomposition._units import times_unit
from htf.linalg.backend import Array, Backend, adjoint, all_finite, backend_of, check_floating, constant, zeros
from htf.linalg.dense import kept, left_singular, orthonormal
from htf.linalg.scaling import frobenius, power_of_two
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import as_tree, check_tolerance
from htf.tree import DimensionTree

# Share of the tolerance that may be lost as blocks arrive; what they leave of it is for rounding at the end.  The
# smaller it is, the more directions the frames hold before that: a few more for each halving, as spectra decay.
_WHILE_STREAMING = 0.25


@dataclass(frozen=True)
class _State:
    """State after the blocks so far; replaced as a whole by each block that is accepted."""

    frames: Mapping[int, Array] = field(default_factory=dict)  # per node, (lengths or ranks below, rank)
    parts: Sequence[tuple[Array, float]] = ()  # coefficients of each block, and the power of two they were divided by
    length: int = 0
    norm: float = 0.0
    dropped: float = 0.0  # Frobenius norm of the error so far


class HTStream:
    r"""Hierarchical Tucker format of an array that arrives in blocks along one axis, or that grows.

    Parameters
    ----------
    tol : float
        Largest relative error of the tensor in the Frobenius norm, whenever it is asked for.  By name.
    axis : int
        Axis along which the blocks follow each other.  Their lengths along it may differ.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.

    Attributes
    ----------
    tensor : HTTensor
        Of all blocks so far.
    error_bound : float
        Relative error of `tensor`, at most; at most `tol`.
    shape : tuple of int
        Of the array so far.
    n_blocks : int

    Raises
    ------
    TypeError, ValueError
        For a tolerance that is negative or no number, an axis that is no integer, and a tree that is none.

    See Also
    --------
    htf.hierarchical_tucker : where the array is there as a whole.
    htf.tensors.ht_relative_error : compares with an array on disk.

    Notes
    -----
    The tree is turned so that its root joins the axis of the series with all other modes.  Every other node then has
    an orthonormal frame :math:`U_t` that all blocks share.  A block is projected on the frames from leaves to root.
    Where the rest :math:`(I - U_t U_t^H) X_b^{(t)}` is larger than what the node may drop, its leading left singular
    vectors are added to the frame, and earlier blocks have zeros there: what they have lost is not lost again.  As
    frames are nested and blocks share no entries, the squares of all that is dropped add up exactly,

    .. math:: \|X - \hat X\|^2 = \sum_b \sum_t \|(I - U_t U_t^H) X_b^{(t)}\|^2,

    and each block may use what the ones before it have left of a quarter of the tolerance.  `tensor` is brought to the
    tree asked for and rounded with the rest of the tolerance, so that its ranks are those of the whole series.

    Memory: a few copies of one block, the frames, and one row of coefficients per index along `axis`.  Time: about that
    of projecting each block on the leaves' frames, and of a decomposition where a block brings something new.

    As in incremental methods for tensor trains and HT-RISE (Aksoy & Gorodetsky 2024), frames only ever grow; new here
    are the root on the axis of the series, by which no block is ever projected again, and the account of the error.

    References
    ----------
    .. [1] D. Aksoy, A. A. Gorodetsky, "Incremental hierarchical Tucker decomposition", arXiv 2412.16544 (2024).
    .. [2] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31 (2010).

    Examples
    --------
    >>> import numpy as np, htf
    >>> i, j, k = np.ogrid[:8, :9, :10]
    >>> stream = htf.HTStream(tol=1e-4, axis=0)
    >>> for start in range(0, 8, 4):
    ...     stream.update(1 / (1.0 + i + j + k)[start : start + 4])
    >>> stream.tensor.shape, stream.error_bound < 1e-4
    ((8, 9, 10), True)
    """

    def __init__(
        self, *positional: Never, tol: float, axis: SupportsIndex = 0, tree: DimensionTree | None = None
    ) -> None:
        by_name("HTStream", positional, "tol")
        checked = check_tolerance(tol)
        if checked is None:
            raise TypeError("tol is None; expected a number of at least 0")
        self._axis = check_index("axis", axis)
        if tree is not None:
            as_tree(tree, getattr(tree, "order", 0))
        self.tol, self._tree = checked, tree
        self._series: SeriesTree | None = None
        self._first: Any = None  # a slice of the first block without entries: its kind, dtype, device and shape
        self._state = _State()
        self._failure: tuple[int, BaseException] | None = None
        self._rounded: tuple[HTTensor, float] | None = None

    def __repr__(self) -> str:
        about = f"{self.n_blocks} blocks, shape {self.shape}" if self.n_blocks else "no blocks yet"
        return f"HTStream(tol={self.tol:g}, axis={self._axis}): {about}"

    @property
    def axis(self) -> int:
        """Axis along which blocks follow each other; counted from 0 once the first has come."""
        return self._axis

    @property
    def n_blocks(self) -> int:
        """Number of blocks that were accepted."""
        return len(self._state.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array so far; empty before the first block."""
        if not self.n_blocks:
            return ()
        shape = list(map(int, self._first.shape))
        shape[self._axis] = self._state.length
        return tuple(shape)

    def update(self, block: Array) -> None:
        """Append a block.

        Parameters
        ----------
        block : array
            Of any backend of TensorLy, real or complex; integers are computed with as float64, and no gradients flow.
            All blocks have one dtype, device and number of axes, and equal lengths along all of them but `axis`.

        Raises
        ------
        TypeError, ValueError
            For another shape, dtype or kind of array than the first block's, NaN or infinite entries, and what
            `hierarchical_tucker` refuses.
        IndexError
            If the first block has no such axis.
        RuntimeError
            If a block was refused before: without it, what follows would stand in the wrong place.  See `resume`.

        Examples
        --------
        >>> import htf, numpy as np
        >>> stream = htf.HTStream(tol=1e-6)
        >>> for day in range(5):
        ...     stream.update(np.cos(day + np.add.outer(np.arange(10.0), np.arange(8.0)))[None])
        >>> stream.shape, stream.tensor.rank
        ((5, 10, 8), (2, 2, 2, 2, 1))
        """
        if self._failure is not None:
            number, error = self._failure
            raise RuntimeError(
                f"block {number} ended with an error ({type(error).__name__}: {error}), and what follows it would "
                "stand in the wrong place along the axis; tensor has the blocks before it, and resume() accepts others"
            )
        try:
            self._append(block)
        except BaseException as error:
            self._failure = self.n_blocks, error
            raise
        self._rounded = None

    def resume(self) -> None:
        """Accept blocks again after one ended with an error: the next one follows the last that was accepted."""
        self._failure = None

    @property
    def tensor(self) -> HTTensor:
        """The array so far in hierarchical Tucker format, on the tree asked for, with orthonormal frames.

        Raises
        ------
        ValueError
            Before the first block.
        """
        return self._result()[0]

    @property
    def error_bound(self) -> float:
        """Largest relative error that `tensor` can have, by what was dropped; rounding errors aside."""
        return self._result()[1]

    # -- blocks ----------------------------------------------------------------------------------------

    def _append(self, block: Array) -> None:
        B, given = check_floating(block, "block")
        series = self._prepare(block, given)
        if not all_finite(B, given):
            raise ValueError(f"block {self.n_blocks} has NaN or infinite entries")
        given = constant(given)
        before, axis = self._state, self._axis
        unit = power_of_two(B, given)
        if unit != 1:
            given = given / unit
        size = float(frobenius(B, given))
        norm = math.hypot(before.norm, size * unit)
        # In units of the block, the part of the whole series' tolerance that is left.
        spent = before.dropped / norm if norm else 0.0
        left = math.sqrt(max((self.tol * _WHILE_STREAMING) ** 2 - spent**2, 0.0)) * (norm / unit)
        noise = float(B.eps(given.dtype)) * max(given.shape) * size
        account = _Account(left, noise, len(series.nodes))
        frames = dict(before.frames)

        def frame(node: int, matrix: Array, below: tuple[int, ...]) -> tuple[Array, Array | None]:
            U = None
            if node in frames:
                U = B.reshape(_padded(B, frames[node], below), (matrix.shape[0], -1))
            U, inside = _extended(B, U, matrix, account)
            frames[node] = B.reshape(U, (*below, U.shape[1]))
            return U, inside

        coefficients = series.project(B, given, frame)
        self._series = series
        if self._first is None:
            empty = block[tuple(slice(0, 0) if a == axis else slice(None) for a in range(len(block.shape)))]
            self._first = B.copy(constant(empty))  # or the whole block would be kept
        self._state = _State(
            frames,
            (*before.parts, (coefficients, unit)),
            before.length + int(given.shape[axis]),
            norm,
            math.hypot(before.dropped, account.spent * unit),
        )

    def _prepare(self, block: Array, given: Array) -> SeriesTree:
        """Compare a block with the first one, or with what was asked for."""
        shape = tuple(map(int, given.shape))
        if self._first is None:
            if len(shape) < 2:
                raise ValueError(f"block has shape {shape}; expected two axes or more")
            if not -len(shape) <= self._axis < len(shape):
                raise IndexError(f"axis is {self._axis}; the block has axes 0 to {len(shape) - 1}")
            _check_not_empty(shape)
            tree = as_tree(self._tree, len(shape), "the block")
            self._axis %= len(shape)
            self._tree = tree
            return SeriesTree(tree, self._axis)
        first, number = self._first, self.n_blocks
        if backend_of(block) is not backend_of(first):
            raise TypeError(f"block {number} is a {type(block).__name__}; the first was a {type(first).__name__}")
        if block.dtype != first.dtype:
            raise TypeError(f"block {number} has dtype {block.dtype}; the first had {first.dtype}")
        if isinstance(block, torch.Tensor) and block.device != first.device:
            raise ValueError(f"block {number} is on {block.device}; the first was on {first.device}")
        expected = tuple(map(int, first.shape))
        others = [axis for axis in range(len(expected)) if axis != self._axis]
        if len(shape) != len(expected) or any(shape[axis] != expected[axis] for axis in others):
            wanted = ", ".join("any" if axis == self._axis else str(n) for axis, n in enumerate(expected))
            raise ValueError(f"block {number} has shape {shape}; expected ({wanted}), as of the first")
        _check_not_empty(shape)
        assert self._series is not None
        return self._series

    # -- the tensor ------------------------------------------------------------------------------------

    def _result(self) -> tuple[HTTensor, float]:
        if self._rounded is None:
            self._rounded = self._rounding()
        return self._rounded

    def _rounding(self) -> tuple[HTTensor, float]:
        state, series = self._state, self._series
        if series is None or self._tree is None:
            raise ValueError("the stream has no blocks yet; expected update(block) before")
        rank = int(state.parts[-1][0].shape[1])
        B = backend_of(state.parts[-1][0])
        unit = max(unit for _, unit in state.parts)
        rows = [_wider(B, part, rank) * (own / unit) for part, own in state.parts]
        x = series.assembled(B, state.frames, B.concatenate(rows, 0))
        lost = state.dropped / state.norm if state.norm else 0.0
        # What blocks have lost and what rounding loses need not be orthogonal, so their norms add up.
        rest = max(self.tol - lost, 0.0)
        epsilon = float(B.eps(x.dtype))
        y = x.round(rank=_lowest_ranks(x, max(rest, epsilon * max(x.dims))))
        if y.tree != self._tree:
            y = y.change_tree(self._tree).orthogonalize()
        # Rounding projects, so its error follows from the norms, where it is not as small as their rounding errors.
        before, after = (float(constant(z.norm())) for z in (x, y))
        squares = max(1 - (after / before) ** 2, 0.0) if before > 0 else 0.0
        rounding = min(math.sqrt(squares + 100 * epsilon), max(rest, epsilon * max(x.dims)))
        return times_unit(y, unit), lost + rounding


class _Account:
    """Norms that the nodes of one block may drop, and have dropped, in units of the block."""

    def __init__(self, left: float, noise: float, nodes: int) -> None:
        self.left, self.noise, self.nodes, self.spent = left, noise, nodes, 0.0

    def share(self) -> float:
        """Norm that the next node may drop: its part of the square that is left."""
        unspent = math.sqrt(max(self.left**2 - self.spent**2, 0.0)) if self.left else 0.0
        return max(unspent / math.sqrt(max(self.nodes, 1)), self.noise)

    def spend(self, norm: float) -> None:
        """Note what a node has dropped."""
        self.nodes -= 1
        self.spent = math.hypot(self.spent, norm)


def _extended(B: Backend, frame: Array | None, matrix: Array, account: _Account) -> tuple[Array, Array | None]:
    """The frame with as many directions added as the matrix needs to be kept but for the node's share.

    And its adjoint times the matrix, where that is known.
    """
    share = account.share()
    if frame is None:
        U, dropped = _leading(B, matrix, share)
        account.spend(dropped)
        return U, None
    if frame.shape[0] <= frame.shape[1]:
        account.spend(0.0)
        return frame, None
    inside = B.matmul(adjoint(frame), matrix)
    whole, part = float(frobenius(B, matrix)), float(frobenius(B, inside))
    # The rest has what is missing in the norm, which tells it as far as rounding does not hide it.
    rounding = 100 * float(B.eps(matrix.dtype)) * whole**2
    square = (whole - part) * (whole + part)
    if square > 1000 * rounding and math.sqrt(square + rounding) <= share:
        account.spend(math.sqrt(square + rounding))
        return frame, inside
    rest = matrix - B.matmul(frame, inside)
    size = float(frobenius(B, rest))
    if size <= share:
        account.spend(size)
        return frame, inside
    U, dropped = _leading(B, rest, share)
    # A small rest is orthogonal to the frame only as far as its own rounding errors are small.
    U = U[:, : frame.shape[0] - frame.shape[1]]
    for _ in range(2):
        U, _ = orthonormal(B, U - B.matmul(frame, B.matmul(adjoint(frame), U)))
    account.spend(dropped)
    return B.concatenate([frame, U], 1), None


def _leading(B: Backend, matrix: Array, tail: float) -> tuple[Array, float]:
    """Leading left singular vectors, and the norm of what they leave."""
    rows, columns = matrix.shape
    if rows > columns:
        Q, R = orthonormal(B, matrix)
        U, S = left_singular(B, R)
        U = B.matmul(Q, U)
    else:
        U, S = left_singular(B, matrix)
    count = kept(S, None, tail)
    return U[:, :count], math.hypot(*S[count:].tolist())


def _lowest_ranks(x: HTTensor, tol: float) -> list[int]:
    """Ranks to which a tensor can be rounded within a tolerance, of few parameters.

    Singular values are dropped where they cost least, by their squares per parameter that goes with them; equal shares
    of all edges, some of which have no use for theirs, would keep more.
    """
    tree, spectra = x.tree, {node: constant(S).tolist() for node, S in x.singular_values().items()}
    # Both children of the root have one spectrum.
    first, second = tree.children(tree.root)
    ranks, dropped, norm = list(x.rank), 0.0, math.hypot(*spectra[first])
    candidates = []
    for node in tree.edges:
        if node != second:
            parameters = sum(math.prod(x.factors[n].shape) for n in (node, tree.parent(node)) if n is not None)
            price = math.sqrt(ranks[node] / parameters)
            candidates += [(size * price, size, node) for size in spectra[node][1:]]
    closed: set[int] = set()
    for _, size, node in sorted(candidates):
        if node in closed or math.hypot(dropped, size) > tol * norm:
            closed.add(node)
            continue
        dropped = math.hypot(dropped, size)
        ranks[node] -= 1
    ranks[second] = ranks[first]
    return ranks


def _padded(B: Backend, frame: Array, below: tuple[int, ...]) -> Array:
    """A transfer tensor with zeros where frames below it have grown."""
    for axis, length in enumerate(below):
        missing = length - int(frame.shape[axis])
        if missing:
            shape = tuple(missing if a == axis else int(n) for a, n in enumerate(frame.shape))
            frame = B.concatenate([frame, zeros(B, shape, frame)], axis)
    return frame


def _wider(B: Backend, matrix: Array, columns: int) -> Array:
    missing = columns - int(matrix.shape[1])
    return B.concatenate([matrix, zeros(B, (int(matrix.shape[0]), missing), matrix)], 1) if missing else matrix


def _check_not_empty(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(f"mode {shape.index(0)} of the block is empty: its shape is {shape}")
