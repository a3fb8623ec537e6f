"""HT tensors from some of their entries, by alternating least squares over the nodes of the tree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorly as tl
from tensorly.decomposition._base_decomposition import DecompositionMixin

from htf._checks import positive
from htf.engine.layout import check_dims
from htf.tensors._backend import Array, Backend, backend_of, constant, eye, zeros
from htf.tensors._linalg import mode_product, prod, tall
from htf.tensors.arithmetic import ht_add
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import joint_values
from htf.tensors.random import random_ht
from htf.tensors.rank import RankLike, n_parameters, rank_bounds, validate_ht_rank
from htf.tree import DimensionTree

# Entries of the rows of a least squares problem that are held at once: 32 MB in doubles.
_CHUNK_ENTRIES = 2**22
# Up to this many unknowns of a node, the normal equations are formed and solved.
_LARGEST_DIRECT = 1024
# Steps of conjugate gradients for nodes with more.
_CG_STEPS = 25
# Passes for one added rank, before the last one has been added.
_GROWTH_PASSES = 15
# Fits of higher rank that may fail to lower the validation error before the search for a rank ends.
_PATIENCE = 3
# Detours over higher ranks for a fit of given rank that ends above the tolerance.
_DETOURS = 3


@dataclass(frozen=True)
class CompletionInfo:
    """How a completion went.

    Attributes
    ----------
    errors : tuple of float
        After every pass, the relative error at the entries that were fitted, of all fits that led to the last one.
    validation_error : float or None
        Relative error at the entries held out, of the fit that decided about the rank; None where the rank was given.
    rank : tuple of int
        Of every node.
    converged : bool
        Whether the last fit stopped before `n_iter_max` passes.
    """

    errors: tuple[float, ...]
    validation_error: float | None
    rank: tuple[int, ...]
    converged: bool


def ht_completion(
    indices: Array,
    values: Array,
    shape: Sequence[int],
    rank: RankLike | None = None,
    tree: DimensionTree | None = None,
    n_iter_max: int = 200,
    tol: float = 1e-10,
    ridge: float = 1.0,
    validation: float = 0.1,
    random_state: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Fit an HT tensor to some entries of a tensor.

    Parameters
    ----------
    indices : array of integers, (n, order)
        Index tuples of the entries, one per row.  Repeated ones count as often as they come.
    values : array of floating type, (n,)
        The entries; its backend, dtype and device are those of the result.
    shape : sequence of int
        Dimension of each mode.
    rank : int, sequence or mapping of int, optional
        As `validate_ht_rank` takes it.  None: found from entries that are held out.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    n_iter_max : int
        Most passes over the nodes in the last fit.
    tol : float
        Stop when the relative error is below it, or has fallen by less than a thousandth part in three passes.
    ridge : float
        Weight of the penalty on the norm of the tensor, in units of the squared relative error so far, so that it
        vanishes with the error.  Without it, entries that are not observed can grow at will.
    validation : float
        Part of the entries that is held out while the rank is sought, between 0 and 1.
    random_state : int, RandomState or None
        For the first factors and for the entries held out.
    return_info : bool
        Return a `CompletionInfo` too.

    Returns
    -------
    HTTensor
    CompletionInfo
        With `return_info`.

    Raises
    ------
    TypeError, ValueError, IndexError
        For indices that are not integers, out of range or of the wrong shape, values that are NaN or infinite (the
        message names the row), too few, or not as many as the indices, a negative `tol` or `ridge`.

    Warns
    -----
    UserWarning
        If there are fewer entries than parameters in an HT tensor of the given rank.

    Notes
    -----
    A pass goes around the tree and keeps the tensor orthogonalized towards the node it is at, whose factor it then
    replaces by the least squares fit to the residual.  What subtrees are at the given entries is kept and renewed along
    the way, so a pass takes O(N n r³) multiplications for n entries on a binary tree and O(n r⁶) more for each set of
    normal equations; nodes of more than 1,024 parameters take steps of conjugate gradients instead, O(n r³) each.

    Ranks grow from 1: a tensor of rank 1 is fitted to the residual and added, and all nodes are fitted again.  Without
    a given rank that goes on while it lowers the error at the entries held out; ranks that do not help are then rounded
    off, and the tensor is fitted to all entries.  With a given rank, a fit that ends above the tolerance is tried again
    from higher ranks, rounded to it.  Neither way is sure to find the global minimum.

    References
    ----------
    .. [1] L. Grasedyck, M. Kluge, S. Krämer, "Variants of alternating least squares tensor completion in the tensor
       train format", SIAM J. Sci. Comput. 37 (2015).
    .. [2] D. Kressner, M. Steinlechner, B. Vandereycken, "Low-rank tensor completion by Riemannian optimization", BIT
       Numer. Math. 54 (2014).

    Examples
    --------
    >>> import numpy as np, htf
    >>> z = htf.random_ht((6, 6, 6, 6), rank=2, random_state=0)
    >>> indices = np.random.RandomState(1).randint(0, 6, (500, 4))
    >>> x = ht_completion(indices, z.entries(indices), z.shape, rank=2, random_state=0)
    >>> bool(np.linalg.norm(x.to_tensor() - z.to_tensor()) < 1e-6 * np.linalg.norm(z.to_tensor()))
    True
    """
    tree = DimensionTree.balanced(len(shape)) if tree is None else tree
    dims = check_dims(tuple(shape), tree.order)
    rows = _check_indices(indices, dims)
    B = _check_values(values, len(rows))
    values = constant(values)
    options = _Options(
        positive("n_iter_max", n_iter_max),
        _not_negative("tol", tol),
        _not_negative("ridge", ridge),
    )
    if rank is None and not 0 < validation < 1:
        raise ValueError(f"validation is {validation}; expected a part of the entries, between 0 and 1")
    ranks = None if rank is None else validate_ht_rank(dims, rank, tree)
    least = n_parameters(tree, dims, ranks or (1,) * tree.n_nodes)
    if len(rows) < least:
        warnings.warn(
            f"values has {len(rows)} entries, fewer than the {least} parameters of an HT tensor of rank "
            f"{max(ranks or (1,))}; what is not observed is arbitrary",
            UserWarning,
            stacklevel=2,
        )
    rng = tl.check_random_state(random_state)
    scale = float(B.max(B.abs(values)))
    observed = _Observed(B, tree, dims, rows, values / (scale or 1.0))
    if scale == 0:
        factors = [
            zeros(B, (*((dims[n],) if n < tree.order else (1,) * len(tree.children(n))), 1), values)
            for n in range(tree.n_nodes)
        ]
        x, errors, held, converged = HTTensor._of(tree, factors), [0.0], None, True
    else:
        x, errors, held, converged = _completed(observed, ranks, options, validation, rng)
    info = CompletionInfo(tuple(errors), held, x.rank, converged)
    return (x * scale, info) if return_info else x * scale


def ht_completion_masked(tensor: Array, mask: Array, rank: RankLike | None = None, **kwargs: Any) -> Any:
    """Fit an HT tensor to the entries of a dense tensor that a mask selects.

    Parameters
    ----------
    tensor : array
        Entries outside of the mask are not read; they may be NaN.
    mask : array of the shape of `tensor`
        Booleans, or numbers of which 0 stands for an entry that is not known, as in TensorLy's decompositions.
    rank, **kwargs
        As in `ht_completion`.

    Returns
    -------
    HTTensor, and CompletionInfo with ``return_info``

    Raises
    ------
    ValueError
        If the shapes differ, or as `ht_completion` does.
    """
    backend_of(tensor, "tensor")
    known = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask) != 0
    if known.shape != tuple(tensor.shape):
        raise ValueError(f"mask has shape {known.shape}; the tensor has {tuple(tensor.shape)}")
    where = np.nonzero(known)
    return ht_completion(np.stack(where, 1), tensor[where], tuple(tensor.shape), rank, **kwargs)


class HTCompletion(DecompositionMixin):  # type: ignore[misc]
    """Completion of partly observed tensors, as an estimator.

    Parameters
    ----------
    rank, tree, n_iter_max, tol, ridge, validation, random_state
        As in `ht_completion`.

    Attributes
    ----------
    decomposition_ : HTTensor
        After `fit_transform`.
    info_ : CompletionInfo
        How it went.
    """

    def __init__(
        self,
        rank: RankLike | None = None,
        tree: DimensionTree | None = None,
        n_iter_max: int = 200,
        tol: float = 1e-10,
        ridge: float = 1.0,
        validation: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.tree = tree
        self.n_iter_max = n_iter_max
        self.tol = tol
        self.ridge = ridge
        self.validation = validation
        self.random_state = random_state

    def fit_transform(self, tensor: Array, mask: Array) -> HTTensor:
        """Complete a tensor from the entries that a mask selects; see `ht_completion_masked`."""
        self.decomposition_, self.info_ = ht_completion_masked(
            tensor,
            mask,
            rank=self.rank,
            tree=self.tree,
            n_iter_max=self.n_iter_max,
            tol=self.tol,
            ridge=self.ridge,
            validation=self.validation,
            random_state=self.random_state,
            return_info=True,
        )
        return self.decomposition_


def _check_indices(indices: Array, dims: tuple[int, ...]) -> np.ndarray:
    rows = np.asarray(indices.cpu() if hasattr(indices, "cpu") else indices)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"indices have dtype {rows.dtype}; expected integers")
    if rows.ndim != 2 or rows.shape[1] != len(dims):
        raise ValueError(f"indices has shape {rows.shape}; expected (n, {len(dims)})")
    if not len(rows):
        raise ValueError("indices is empty; expected at least one entry")
    outside = np.argwhere((rows < 0) | (rows >= np.asarray(dims)))
    if len(outside):
        row, mode = outside[0]
        raise IndexError(f"indices[{row}] has {rows[row, mode]} for mode {mode}; expected 0 to {dims[mode] - 1}")
    return rows.astype(np.int64)


def _check_values(values: Array, count: int) -> Backend:
    if not hasattr(values, "dtype"):
        raise TypeError(f"values is a {type(values).__name__}; expected an array")
    B = backend_of(values, "values")
    if "float" not in str(values.dtype):
        raise TypeError(f"values have dtype {values.dtype}; expected a real floating type")
    if tuple(values.shape) != (count,):
        raise ValueError(f"values has shape {tuple(values.shape)}; expected ({count},), one per row of indices")
    found = B.to_numpy(constant(values))
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"values[{row}] is {found[row]}; expected finite numbers")
    return B


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; expected a number")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; expected at least 0")
    return float(value)


@dataclass(frozen=True)
class _Options:
    n_iter_max: int
    tol: float
    ridge: float


@dataclass(frozen=True)
class _Observed:
    """The entries that are known."""

    B: Backend
    tree: DimensionTree
    dims: tuple[int, ...]
    rows: np.ndarray
    values: Array

    def some(self, chosen: np.ndarray) -> _Observed:
        return _Observed(self.B, self.tree, self.dims, self.rows[chosen], self.values[chosen])

    def error(self, x: HTTensor) -> float:
        """Relative error of a tensor at these entries."""
        return _norm(self.B, x.entries(self.rows) - self.values) / (_norm(self.B, self.values) or 1.0)


def _norm(B: Backend, vector: Array) -> float:
    return float(B.norm(vector, 2))


class _Fit:
    """Alternating least squares on a tensor that is orthogonalized towards one node after the other."""

    def __init__(self, observed: _Observed, start: HTTensor, ridge: float) -> None:
        self.observed, self.B, self.tree, self.ridge = observed, observed.B, observed.tree, ridge
        self.factors = start.orthogonalize().factors
        self.by_index = [
            np.split(np.argsort(column, kind="stable"), np.cumsum(np.bincount(column, minlength=dim))[:-1])
            for column, dim in zip(observed.rows.T, observed.dims, strict=True)
        ]
        # Rows of the frames at the given entries, and of what is outside of a node; the latter along one path only.
        self.below: list[Array] = [None] * self.tree.n_nodes
        self.above: dict[int, Array] = {}
        for node in range(self.tree.root):
            self._renew(node)
        self.above[self.tree.root] = observed.values[:, None] * 0 + 1
        self.size = _norm(self.B, observed.values) or 1.0
        self.damping = 0.0
        self._weigh(self._error())

    @property
    def tensor(self) -> HTTensor:
        return HTTensor._of(self.tree, list(self.factors))

    def run(self, n_passes: int, tol: float, errors: list[float], least_gain: float = 1e-3) -> bool:
        """Passes until the error is below `tol` or no longer falls; whether that came before `n_passes`."""
        start = len(errors)
        for _ in range(n_passes):
            self._pass()
            errors.append(self._error())
            self._weigh(errors[-1])
            if errors[-1] <= tol:
                return True
            if len(errors) - start > 3 and errors[-1] > (1 - least_gain) * errors[-4]:
                return True
        return False

    def _error(self) -> float:
        return _norm(self.B, self._residual(self.tree.root)) / self.size

    def _weigh(self, error: float) -> None:
        # A tensor whose frames around a node are orthonormal has the norm of that node's factor: penalties on it are
        # the same problem at every node.  Their weight is that of a Gaussian prior where the error is noise.
        self.damping = self.ridge * min(error, 1.0) ** 2

    def _pass(self) -> None:
        for step, node in _tour(self.tree):
            if step == "down":
                self._descend(node)
            elif step == "up":
                self._ascend(node)
            else:
                self._update(node)

    def _descend(self, node: int) -> None:
        B, parent = self.B, self.tree.parent(node)
        assert parent is not None
        axis = self.tree.children(parent).index(node)
        moved = B.moveaxis(self.factors[parent], axis, -1)
        Q, R = B.qr(tall(B, moved))
        orthonormal = B.reshape(Q, (*moved.shape[:-1], Q.shape[1]))
        self.factors[parent] = B.moveaxis(orthonormal, -1, axis)
        self.factors[node] = mode_product(B, self.factors[node], R, len(self.factors[node].shape) - 1)
        siblings = [self.below[c] for c in self.tree.children(parent) if c != node]
        self.above[node] = joint_values(B, orthonormal, [*siblings, self.above[parent]])

    def _ascend(self, node: int) -> None:
        B, parent = self.B, self.tree.parent(node)
        assert parent is not None
        factor = self.factors[node]
        Q, R = B.qr(tall(B, factor))
        self.factors[node] = B.reshape(Q, (*factor.shape[:-1], Q.shape[1]))
        axis = self.tree.children(parent).index(node)
        self.factors[parent] = mode_product(B, self.factors[parent], R, axis)
        self._renew(node)
        del self.above[node]

    def _renew(self, node: int) -> None:
        group = self.tree.children(node)
        if group:
            self.below[node] = joint_values(self.B, self.factors[node], [self.below[c] for c in group])
        else:
            self.below[node] = self.factors[node][self.observed.rows[:, node]]

    def _residual(self, node: int) -> Array:
        self._renew(node)
        return self.observed.values - self.B.sum(self.below[node] * self.above[node], 1)

    def _update(self, node: int) -> None:
        residual = self._residual(node)
        factor = self.factors[node]
        if node < self.tree.order:
            self.factors[node] = factor + self._leaf_change(node, residual)
        else:
            self.factors[node] = factor + self.B.reshape(self._inner_change(node, residual), tuple(factor.shape))

    def _leaf_change(self, node: int, residual: Array) -> Array:
        """Rows of a leaf's frame meet different entries, so each is a problem of its own."""
        B, above, factor = self.B, self.above[node], self.factors[node]
        mean = float(B.sum(above**2)) / prod(tuple(factor.shape))
        penalty, shift = self._shift(mean, above)
        identity = eye(B, int(above.shape[1]), above) * shift
        changes = []
        for index, chosen in enumerate(self.by_index[node]):
            part = above[chosen]
            right = B.matmul(part.T, residual[chosen]) - penalty * factor[index]
            changes.append(_solved(B, B.matmul(part.T, part) + identity, right))
        return B.stack(changes, 0)

    def _inner_change(self, node: int, residual: Array) -> Array:
        B = self.B
        parts = [self.below[c] for c in self.tree.children(node)] + [self.above[node]]
        size = prod(tuple(self.factors[node].shape))
        right = zeros(B, (size,), residual)
        trace = 0.0
        direct = size <= _LARGEST_DIRECT
        gram = zeros(B, (size, size), residual) if direct else None
        for chunk, where in _design(B, parts):
            right = right + B.matmul(chunk.T, residual[where])
            trace += float(B.sum(chunk**2))
            if direct:
                gram = gram + B.matmul(chunk.T, chunk)
        penalty, shift = self._shift(trace / size, residual)
        right = right - penalty * B.reshape(self.factors[node], (-1,))
        if direct:
            return _solved(B, gram + eye(B, size, residual) * shift, right)
        return _conjugate_gradients(B, parts, right, shift)

    def _shift(self, mean: float, like: Array) -> tuple[float, float]:
        """The penalty's weight for a Gramian of this mean diagonal, and what is added to the diagonal in all."""
        epsilon = float(self.B.eps(like.dtype))
        penalty = self.damping * mean
        # Gramians can be singular to rounding error; one is zero where no entry meets the node.
        return penalty, penalty + 10 * epsilon * mean + epsilon**2


def _tour(tree: DimensionTree) -> Iterator[tuple[str, int]]:
    """Steps of a walk around the tree, along every edge once down and once up; nodes are updated on the way up."""
    stack = [(tree.root, 0)]
    while stack:
        node, axis = stack.pop()
        group = tree.children(node)
        if axis < len(group):
            stack += [(node, axis + 1), (group[axis], 0)]
            yield "down", group[axis]
        else:
            yield "update", node
            if node != tree.root:
                yield "up", node


def _design(B: Backend, parts: Sequence[Array]) -> Iterator[tuple[Array, slice]]:
    """Rows of the least squares problem of an inner node: products of what is at the ends of its edges."""
    count = int(parts[0].shape[0])
    step = max(_CHUNK_ENTRIES // prod([int(p.shape[1]) for p in parts]), 1)
    for start in range(0, count, step):
        where = slice(start, min(start + step, count))
        chunk = parts[0][where]
        for part in parts[1:]:
            chunk = B.reshape(chunk[:, :, None] * part[where][:, None, :], (where.stop - start, -1))
        yield chunk, where


def _solved(B: Backend, matrix: Array, right: Array) -> Array:
    return B.solve(matrix, right[:, None])[:, 0]


def _conjugate_gradients(B: Backend, parts: Sequence[Array], right: Array, damping: float) -> Array:
    """A few steps towards the solution of the damped normal equations, whose matrix is not formed."""
    solution, rest = right * 0, right
    direction, square = rest, float(B.sum(rest**2))
    first = square
    for _ in range(_CG_STEPS):
        if square <= float(B.eps(right.dtype)) ** 2 * first or square == 0:
            break
        product = direction * damping
        for chunk, _ in _design(B, parts):
            product = product + B.matmul(chunk.T, B.matmul(chunk, direction))
        length = square / float(B.sum(direction * product))
        solution, rest = solution + direction * length, rest - product * length
        previous, square = square, float(B.sum(rest**2))
        direction = rest + direction * (square / previous)
    return solution


def _completed(
    observed: _Observed, ranks: tuple[int, ...] | None, options: _Options, validation: float, rng: Any
) -> tuple[HTTensor, list[float], float | None, bool]:
    held = None
    errors: list[float] = []
    if ranks is None:
        start, held = _of_found_rank(observed, options, validation, rng, errors)
    else:
        start = _start(observed, rng)
        for highest in range(1, max(ranks)):
            fit = _Fit(observed, start, options.ridge)
            fit.run(_GROWTH_PASSES, options.tol, errors, least_gain=0.05)
            start = _grown(observed, fit.tensor, [min(highest + 1, r) for r in ranks], options, rng)
    fit = _Fit(observed, start, options.ridge)
    converged = fit.run(options.n_iter_max, options.tol, errors)
    if ranks is None:
        return fit.tensor, errors, held, converged
    return *_detoured(observed, fit.tensor, ranks, options, rng, errors, converged), held, converged


def _detoured(
    observed: _Observed,
    x: HTTensor,
    ranks: tuple[int, ...],
    options: _Options,
    rng: Any,
    errors: list[float],
    converged: bool,
) -> tuple[HTTensor, list[float]]:
    """The better of a fit and of those reached from it over higher ranks, where local minima are fewer."""
    for extra in range(1, _DETOURS + 1):
        if errors[-1] <= options.tol or not converged or max(ranks) == 1:
            break
        error, tried = errors[-1], list[float]()
        fit = _Fit(observed, _grown(observed, x, [r + extra for r in ranks], options, rng), options.ridge)
        fit.run(2 * _GROWTH_PASSES, options.tol, tried, least_gain=0.01)
        fit = _Fit(observed, fit.tensor.round(rank=[*ranks[:-1], 1]), options.ridge)
        fit.run(options.n_iter_max, options.tol, tried)
        if tried[-1] < 0.95 * error:
            x = fit.tensor
            errors += tried
    return x, errors


def _start(observed: _Observed, rng: Any) -> HTTensor:
    return random_ht(observed.dims, 1, observed.tree, random_state=rng, like=observed.values)


def _grown(observed: _Observed, x: HTTensor, caps: Sequence[int], options: _Options, rng: Any) -> HTTensor:
    """The tensor with one of rank 1 added, fitted to its residual; ranks at most `caps`."""
    residual = observed.values - x.entries(observed.rows)
    rest = _Observed(observed.B, observed.tree, observed.dims, observed.rows, residual)
    fit = _Fit(rest, _start(observed, rng), options.ridge)
    fit.run(5, 0.0, [])
    return ht_add(x, fit.tensor).round(rank=[*caps[:-1], 1])


def _of_found_rank(
    observed: _Observed, options: _Options, validation: float, rng: Any, errors: list[float]
) -> tuple[HTTensor, float]:
    """The fit whose rank predicts the entries held out best, and its error there."""
    count = len(observed.rows)
    if count < 2:
        return _start(observed, rng), math.nan
    order = rng.permutation(count)
    cut = min(max(round(validation * count), 1), count - 1)
    held, fitted = observed.some(order[:cut]), observed.some(order[cut:])
    bounds = rank_bounds(observed.tree, observed.dims)

    def fit_from(start: HTTensor) -> tuple[HTTensor, float]:
        fit = _Fit(fitted, start, options.ridge)
        found, error = start, math.inf
        for _ in range(max(options.n_iter_max // _GROWTH_PASSES, 1)):
            done = fit.run(_GROWTH_PASSES, options.tol, errors, least_gain=0.01)
            reached = held.error(fit.tensor)
            slow = reached > 0.95 * error
            if reached < error:
                found, error = fit.tensor, reached
            # Further passes would fit noise, or crawl where one more rank leads on.
            if done or slow:
                break
        return found, error

    def higher(best: HTTensor, best_error: float) -> tuple[HTTensor, float]:
        x, failures = best, 0
        for highest in range(max(best.rank) + 1, max(bounds) + 1):
            start = _grown(fitted, x, [min(highest, b) for b in bounds], options, rng)
            if n_parameters(observed.tree, observed.dims, start.rank) > len(fitted.rows):
                break
            x, error = fit_from(start)
            failures = 0 if error < 0.9 * best_error else failures + 1
            if error < best_error:
                best, best_error = x, error
            if best_error <= 10 * options.tol or failures >= _PATIENCE:
                break
        return best, best_error

    def lower(best: HTTensor, best_error: float) -> tuple[HTTensor, float]:
        # Directions that only follow rounding error or noise are weak, but stronger than the error that they leave.
        fits = [(best, best_error)]
        fits += [fit_from(best.round(tol=min(tol, 0.5))) for tol in (best_error, math.sqrt(best_error))]
        enough = 1.05 * min(error for _, error in fits) + options.tol
        return [(x, error) for x, error in fits if error <= enough][-1]

    best, error = fit_from(_start(observed, rng))
    for _ in range(_DETOURS):
        grown, grown_error = higher(best, error) if error > 10 * options.tol else (best, error)
        best, error = lower(grown, grown_error)
        # Where fewer directions predict better, growth went astray, and may do better from here.
        if error <= 10 * options.tol or error > 0.95 * grown_error:
            break
    return best, error
