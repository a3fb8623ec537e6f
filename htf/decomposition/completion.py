"""HT tensors from some of their entries, by alternating least squares over the nodes of the tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

import numpy as np
from tensorly.decomposition._base_decomposition import DecompositionMixin
from tqdm import tqdm

from htf._checks import by_name, check_dims, check_shape, finite, positive, warn
from htf._progress import bar_file
from htf._random import check_random_state
from htf._repr import brief
from htf.decomposition._held_out import NOTHING_FOUND
from htf.decomposition._least_squares import Observed, Options
from htf.decomposition._rank_search import Completed, completed
from htf.decomposition._units import times_unit
from htf.linalg.backend import Array, Backend, check_array, constant, host_array, host_indices, to_numpy, zeros
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import RankLike, as_tree, check_tolerance, n_parameters, validate_ht_rank
from htf.tree import DimensionTree

# Units of rounding error that a relative error cannot be expected to fall below.
_ROUNDING = 4.0
# Slices that a warning names, per mode.
_NAMED = 5


@dataclass(frozen=True)
class CompletionInfo:
    """How a completion went.

    Attributes
    ----------
    errors : tuple of float
        After every pass, the relative error at the entries that were fitted, of all fits that led to the last one.
    validation_error : float or None
        Root mean square of the error at the entries held out, relative to that of the other entries, of the fit that
        the last one went on from; None where none could be held out.
    rank : tuple of int
        Of every node.
    converged : bool
        Whether the last fit stopped before `n_iter_max` passes, the entries held out confirm it, and no slice has fewer
        entries than its row of a leaf's frame has parameters.  Entries held out confirm a fit whose error there is
        below 1e-5 (or four times `tol`), or up to 0.1 at most 1.5 times what its error at the entries fitted lets
        expect under noise.  Of errors up to 0.9 they confirm 1.2 times that, if a fit from another start predicts the
        same; more, never.  So under noise, or with a rank that is too low, a fit converges to an error that no other
        start lowered, and `validation_error` says how large that is.

    See Also
    --------
    htf.ht_completion : gives it, with ``return_info=True``.

    Examples
    --------
    >>> import htf, numpy as np
    >>> z = htf.random_ht((6, 6, 6), rank=2, random_state=0)
    >>> indices = np.random.default_rng(1).integers(0, 6, (150, 3))
    >>> x, info = htf.ht_completion(indices, z.entries(indices), z.shape, random_state=0, return_info=True)
    >>> info.converged, info.rank, info.validation_error < 1e-6
    (True, (2, 2, 2, 2, 1), True)
    """

    errors: tuple[float, ...]
    validation_error: float | None
    rank: tuple[int, ...]
    converged: bool

    __repr__ = brief


def ht_completion(
    indices: Array,
    values: Array,
    shape: Sequence[int],
    *positional: Never,
    rank: RankLike | None = None,
    tree: DimensionTree | None = None,
    n_iter_max: int = 200,
    tol: float = 1e-10,
    ridge: float = 1.0,
    validation: float = 0.1,
    random_state: Any = None,
    progress: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Fit an HT tensor to some entries of a tensor.

    Parameters
    ----------
    indices : array of integers, (n, order)
        Index tuples of the entries, one per row.  Repeated ones count as often as they come.
    values : array of float32, float64, complex64 or complex128, (n,)
        The entries; its backend, dtype and device are those of the result.
    shape : sequence of int
        Dimension of each mode.
    rank : int, sequence or mapping of int, optional
        As `validate_ht_rank` takes it: a float is a share of the dense tensor's entries, not an error.  None: found
        from entries that are held out.  Given by name, like all that follows.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    n_iter_max : int
        Most passes over the nodes in the fits of the full rank, each.
    tol : float
        Stop when the relative error is below it, or has fallen by less than a thousandth part in three passes.  No less
        than four units of rounding error of the dtype.
    ridge : float
        Weight of the penalty on the norm of the tensor, in units of the squared relative error so far, so that it
        vanishes with the error.  Without it, entries that are not observed can grow at will.
    validation : float
        Part of the entries that is held out, between 0 and 1: they choose among fits from several starts, decide about
        the rank where none is given, and about `CompletionInfo.converged`.  The last fit is to all entries.
    random_state : int, RandomState or None
        For the starts and for the entries held out.
    progress : bool
        Show a line with passes, their rate, rank and error.
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
        message names the row), too few, or not as many as the indices, a negative `tol` or `ridge`, masked, sparse or
        other arrays that are not supported, and options given by position.

    Warns
    -----
    UserWarning
        If there are fewer entries than parameters in an HT tensor of the given rank, a slice has fewer than its row of
        a leaf's frame (which are named), the entries held out do not confirm the fit, or it was still improving after
        `n_iter_max` passes: wherever ``converged`` is False.

    See Also
    --------
    htf.ht_completion_masked : from a dense tensor and a mask.
    htf.HTCompletion : as an estimator.
    htf.datasets.completion_from_file : entries in files.
    htf.training.fit : by gradient descent, as the papers do.

    Notes
    -----
    A pass goes around the tree and keeps the tensor orthogonalized towards the node it is at, whose factor it then
    replaces by the least squares fit to the residual.  What subtrees are at the given entries is kept and renewed along
    the way, so a pass takes O(N n r³) multiplications for n entries on a binary tree and O(n r⁶) more for each set of
    normal equations; nodes of more than 1,024 parameters take steps of conjugate gradients instead, O(n r³) each.

    Ranks grow from 1: a tensor of rank 1 is fitted to the residual and added, and all nodes are fitted again.  It is
    the one of several that is nearest to the entries held out: from a constant or random signs, and from the span of
    the leading eigenvectors of the zero-filled matricizations' Gramians with debiased diagonals, which show the modes'
    directions from the order of r · √(product of the dimensions) entries on, where random starts need more.  Without a
    given rank that goes on while it lowers the error at the entries held out; ranks that do not help are then rounded
    off.  With a given rank, a fit that ends above the tolerance is tried again from higher ranks, rounded to it.  A fit
    that the entries held out do not confirm is begun anew, five times at most.  Last, the best is fitted to all
    entries.  No way is sure to find the global minimum.

    References
    ----------
    .. [1] L. Grasedyck, M. Kluge, S. Krämer, "Variants of alternating least squares tensor completion in the tensor
       train format", SIAM J. Sci. Comput. 37 (2015).
    .. [2] A. Montanari, N. Sun, "Spectral algorithms for tensor completion", Comm. Pure Appl. Math. 71 (2018).
    .. [3] C. Cai, G. Li, H. V. Poor, Y. Chen, "Nonconvex low-rank tensor completion from noisy data", NeurIPS 2019.
    .. [4] D. Kressner, M. Steinlechner, B. Vandereycken, "Low-rank tensor completion by Riemannian optimization", BIT
       Numer. Math. 54 (2014).

    Examples
    --------
    >>> import numpy as np, htf
    >>> z = htf.random_ht((6, 6, 6, 6), rank=2, random_state=0)
    >>> indices = np.random.RandomState(1).randint(0, 6, (500, 4))
    >>> x = htf.ht_completion(indices, z.entries(indices), z.shape, rank=2, random_state=0)
    >>> bool(np.linalg.norm(x.to_tensor() - z.to_tensor()) < 1e-6 * np.linalg.norm(z.to_tensor()))
    True
    """
    by_name("ht_completion", positional, "rank", "tol")
    shape = check_shape("shape", shape)
    tree = as_tree(tree, len(shape), "shape")
    dims = check_dims(shape, tree.order)
    rows = _check_indices(indices, dims)
    B = _check_values(values, len(rows))
    values = constant(values)
    numbers = positive("n_iter_max", n_iter_max), check_tolerance(tol) or 0.0, check_tolerance(ridge, "ridge") or 0.0
    if not 0 < finite("validation", validation) < 1:
        raise ValueError(f"validation is {validation}; expected a part of the entries, between 0 and 1")
    ranks = None if rank is None else validate_ht_rank(dims, rank, tree)
    least = n_parameters(tree, dims, ranks or (1,) * tree.n_nodes)
    rng = check_random_state(random_state)
    scale = float(B.max(B.abs(values)))
    observed = Observed(B, tree, dims, rows, values / (scale or 1.0))
    if scale == 0:
        factors = [
            zeros(B, (*((dims[n],) if n < tree.order else (1,) * len(tree.children(n))), 1), values)
            for n in range(tree.n_nodes)
        ]
        x = HTTensor._of(tree, factors)
        return (x, CompletionInfo((0.0,), None, x.rank, True)) if return_info else x
    doubts: list[str] = []
    if len(rows) < least and not observed.complete:
        doubts.append(
            f"values has {len(rows)} entries, fewer than the {least} parameters of an HT tensor of rank "
            f"{max(ranks or (1,))}; what is not observed is arbitrary"
        )
    n_passes, tol, ridge = numbers
    # No fit is nearer than rounding allows.
    tol = max(tol, _ROUNDING * float(B.eps(values.dtype)))
    with tqdm(file=bar_file(), disable=not progress, unit="pass") as bar:
        found = completed(observed, ranks, Options(n_passes, tol, ridge, bar), validation, rng)
    short = _short_slices(observed, found.tensor.rank)
    doubts += short + _doubts(found, n_passes, observed)
    if doubts:
        warn("; ".join(doubts))
    converged = found.stopped and found.confirmed and not short
    info = CompletionInfo(tuple(found.errors), found.held, found.tensor.rank, converged)
    x = times_unit(found.tensor, scale)
    return (x, info) if return_info else x


def ht_completion_masked(tensor: Array, mask: Array | None = None, *positional: Never, **kwargs: Any) -> Any:
    """Fit an HT tensor to the entries of a dense tensor that a mask selects.

    Parameters
    ----------
    tensor : array
        Of float32, float64, complex64 or complex128.  Entries outside of the mask are not read; they may be NaN.  Those
        that a ``numpy.ma.MaskedArray`` masks are taken for missing.
    mask : array of the shape of `tensor`
        Booleans, or numbers of which 0 stands for an entry that is not known, as in TensorLy's decompositions.  It may
        be left out where `tensor` is a masked array; an entry that either of the two leaves out is missing.
    **kwargs
        As in `ht_completion`.

    Returns
    -------
    HTTensor, and CompletionInfo with ``return_info``

    Raises
    ------
    ValueError
        If the shapes differ, the mask is neither given nor that of `tensor` or has NaN entries, an entry that it
        selects is NaN or infinite, or as `ht_completion` does.
    TypeError
        For a mask that is no array of booleans or real numbers, or that is a masked array itself, and as
        `ht_completion`.

    See Also
    --------
    htf.ht_completion : from index tuples and values.
    htf.HTCompletion : as an estimator.

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = np.cos(np.add.outer(np.arange(8.0), np.add.outer(np.arange(8.0), np.arange(8.0))) / 3)
    >>> known = np.random.default_rng(0).random(dense.shape) < 0.4
    >>> x = htf.ht_completion_masked(np.where(known, dense, np.nan), known, rank=2, random_state=0)
    >>> bool(abs(x.to_tensor() - dense).max() < 1e-6)
    True
    """
    by_name("ht_completion_masked", positional, "rank", "tol")
    known = np.ones(np.shape(tensor), dtype=bool)
    if isinstance(tensor, np.ma.MaskedArray):
        known = ~np.ma.getmaskarray(tensor)
        tensor = np.ma.getdata(tensor)
    elif mask is None:
        raise ValueError("mask is None; expected an array that says which entries of the tensor are known")
    check_array(tensor, "tensor")
    if not len(tensor.shape):
        raise ValueError("tensor has no axes; expected one at least")
    if mask is not None:
        known = known & _check_mask(mask, tuple(tensor.shape))
    where = np.nonzero(known)
    if not len(where[0]):
        raise ValueError("mask selects no entry; expected at least one")
    values = tensor[where]
    found = to_numpy(values)
    if not np.isfinite(found).all():
        first = int(np.flatnonzero(~np.isfinite(found))[0])
        place = ", ".join(str(int(axis[first])) for axis in where)
        raise ValueError(f"tensor[{place}] is {found[first]}, and the mask selects it; expected finite numbers")
    return ht_completion(np.stack(where, 1), values, tuple(tensor.shape), **kwargs)


class HTCompletion(DecompositionMixin):  # type: ignore[misc]
    """Completion of partly observed tensors, as an estimator.

    Parameters
    ----------
    rank, tree, n_iter_max, tol, ridge, validation, random_state, progress
        As in `ht_completion`.

    Attributes
    ----------
    decomposition_ : HTTensor
        After `fit_transform`.
    info_ : CompletionInfo
        How it went.

    See Also
    --------
    htf.ht_completion_masked : the function.
    htf.HierarchicalTucker : where all entries are known.

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = np.cos(np.add.outer(np.arange(8.0), np.add.outer(np.arange(8.0), np.arange(8.0))) / 3)
    >>> mask = np.random.default_rng(0).random(dense.shape) < 0.4
    >>> model = htf.HTCompletion(rank=2, random_state=0)
    >>> x = model.fit_transform(dense, mask)
    >>> model.info_.converged, x.relative_error(dense) < 1e-6
    (True, True)
    """

    def __init__(
        self,
        *positional: Never,
        rank: RankLike | None = None,
        tree: DimensionTree | None = None,
        n_iter_max: int = 200,
        tol: float = 1e-10,
        ridge: float = 1.0,
        validation: float = 0.1,
        random_state: Any = None,
        progress: bool = False,
    ) -> None:
        by_name("HTCompletion", positional, "rank", "tol")
        self.rank = rank
        self.tree = tree
        self.n_iter_max = n_iter_max
        self.tol = tol
        self.ridge = ridge
        self.validation = validation
        self.random_state = random_state
        self.progress = progress

    def fit(self, tensor: Array, mask: Array | None = None) -> HTCompletion:
        """Complete a tensor, and return the estimator."""
        self.fit_transform(tensor, mask)
        return self

    def fit_transform(self, tensor: Array, mask: Array | None = None) -> HTTensor:
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
            progress=self.progress,
            return_info=True,
        )
        return self.decomposition_


def _short_slices(observed: Observed, ranks: Sequence[int]) -> list[str]:
    """Which slices have fewer entries than their row of the leaf's frame has parameters."""
    tuples, _ = observed.tuples
    found = []
    for mode, dim in enumerate(observed.dims):
        counts = np.bincount(tuples[:, mode], minlength=dim)
        # The emptiest first.
        few = sorted(np.flatnonzero(counts < ranks[mode]), key=lambda index: counts[index])
        if few:
            named = ", ".join(f"index {i} ({counts[i] or 'none'})" for i in few[:_NAMED])
            more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
            found.append(
                f"mode {mode} has fewer observed entries than its rank {ranks[mode]} at {named}{more}; "
                "what the tensor holds there is not determined"
            )
    return found


def _doubts(found: Completed, n_passes: int, observed: Observed) -> list[str]:
    """Why a fit is not to be trusted, and what helps."""
    error = found.errors[-1]
    if error > NOTHING_FOUND:
        return [
            f"the fit ended at a relative error of {error:.2f}, hardly better than zero; "
            "try another random_state, tree or rank"
        ]
    if not found.confirmed and found.held is None:
        return [
            "no entry could be held out, as every slice needs more entries than the rank of its mode, so nothing "
            f"confirms the fit, whose relative error is {error:.1e}; give more entries or a lower rank"
        ]
    if not found.confirmed:
        needed = max(found.tensor.rank) * math.sqrt(math.prod(map(float, observed.dims)))
        return [
            f"the relative error is {found.held:.1e} at entries held out and {error:.1e} at those fitted, so the fit "
            f"does not predict what was not observed; give more entries than {len(observed.rows)} (of the order of "
            f"rank · √(product of the dimensions) = {needed:.0f} are needed), a lower rank, or another tree or "
            "random_state"
        ]
    if not found.stopped:
        return [
            f"the fit was still improving after {n_passes} passes, at a relative error of {error:.1e}; raise n_iter_max"
        ]
    return []


def _check_mask(mask: Array, shape: tuple[int, ...]) -> np.ndarray:
    numbers = host_array(mask, "mask")
    if numbers.dtype.kind not in "biuf":
        raise TypeError(f"mask has dtype {numbers.dtype}; expected booleans or real numbers")
    if numbers.shape != shape:
        raise ValueError(f"mask has shape {numbers.shape}; the tensor has {shape}")
    if np.isnan(numbers).any():
        place = ", ".join(map(str, np.argwhere(np.isnan(numbers))[0].tolist()))
        raise ValueError(f"mask[{place}] is nan; expected booleans, or 0 for what is not known and 1 for what is")
    known: np.ndarray = numbers != 0
    return known


def _check_indices(indices: Array, dims: tuple[int, ...]) -> np.ndarray:
    rows = host_indices(indices, "indices")
    if rows.ndim != 2 or rows.shape[1] != len(dims):
        raise ValueError(f"indices has shape {rows.shape}; expected (n, {len(dims)})")
    if not len(rows):
        raise ValueError("indices is empty; expected at least one entry")
    outside = np.argwhere((rows < 0) | (rows >= np.asarray(dims)))
    if len(outside):
        row, mode = outside[0]
        raise IndexError(f"indices[{row}] has {rows[row, mode]} for mode {mode}; expected 0 to {dims[mode] - 1}")
    return rows


def _check_values(values: Array, count: int) -> Backend:
    B = check_array(values, "values")
    if tuple(values.shape) != (count,):
        raise ValueError(f"values has shape {tuple(values.shape)}; expected ({count},), one per row of indices")
    found = to_numpy(values)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"values[{row}] is {found[row]}; expected finite numbers")
    return B
