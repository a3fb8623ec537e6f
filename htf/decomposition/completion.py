"""HT tensors from some of their entries, by alternating least squares over the nodes of the tree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorly as tl
from tensorly.decomposition._base_decomposition import DecompositionMixin
from tqdm import tqdm

from htf._checks import check_dims, positive
from htf.decomposition._held_out import NOTHING_FOUND
from htf.decomposition._least_squares import Observed, Options
from htf.decomposition._rank_search import Completed, completed
from htf.tensors._backend import Array, Backend, backend_of, constant, zeros
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
    progress: bool = False,
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
        message names the row), too few, or not as many as the indices, a negative `tol` or `ridge`.

    Warns
    -----
    UserWarning
        If there are fewer entries than parameters in an HT tensor of the given rank, or the fit is hardly better than
        zeros.

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
    tree = as_tree(tree, len(shape), "shape")
    dims = check_dims(tuple(shape), tree.order)
    rows = _check_indices(indices, dims)
    B = _check_values(values, len(rows))
    values = constant(values)
    numbers = positive("n_iter_max", n_iter_max), check_tolerance(tol) or 0.0, check_tolerance(ridge, "ridge") or 0.0
    if rank is None and not 0 < validation < 1:
        raise ValueError(f"validation is {validation}; expected a part of the entries, between 0 and 1")
    ranks = None if rank is None else validate_ht_rank(dims, rank, tree)
    least = n_parameters(tree, dims, ranks or (1,) * tree.n_nodes)
    doubts: list[str] = []
    if len(rows) < least:
        doubts.append(
            f"values has {len(rows)} entries, fewer than the {least} parameters of an HT tensor of rank "
            f"{max(ranks or (1,))}; what is not observed is arbitrary"
        )
    rng = tl.check_random_state(random_state)
    scale = float(B.max(B.abs(values)))
    observed = Observed(B, tree, dims, rows, values / (scale or 1.0))
    if scale == 0:
        factors = [
            zeros(B, (*((dims[n],) if n < tree.order else (1,) * len(tree.children(n))), 1), values)
            for n in range(tree.n_nodes)
        ]
        x = HTTensor._of(tree, factors)
        return (x, CompletionInfo((0.0,), None, x.rank, True)) if return_info else x
    n_passes, tol, ridge = numbers
    # No fit is nearer than rounding allows.
    tol = max(tol, _ROUNDING * float(B.eps(values.dtype)))
    with tqdm(disable=not progress, unit="pass") as bar:
        found = completed(observed, ranks, Options(n_passes, tol, ridge, bar), validation, rng)
    short = _short_slices(observed, found.tensor.rank)
    doubts += short + _doubts(found, n_passes, observed)
    if doubts:
        warnings.warn("; ".join(doubts), UserWarning, stacklevel=2)
    converged = found.stopped and found.confirmed and not short
    info = CompletionInfo(tuple(found.errors), found.held, found.tensor.rank, converged)
    return (found.tensor * scale, info) if return_info else found.tensor * scale


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
    rank, tree, n_iter_max, tol, ridge, validation, random_state, progress
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
        progress: bool = False,
    ) -> None:
        self.rank = rank
        self.tree = tree
        self.n_iter_max = n_iter_max
        self.tol = tol
        self.ridge = ridge
        self.validation = validation
        self.random_state = random_state
        self.progress = progress

    def fit(self, tensor: Array, mask: Array) -> HTCompletion:
        """Complete a tensor, and return the estimator."""
        self.fit_transform(tensor, mask)
        return self

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
            f"does not predict what was not observed; give more entries than {len(observed.rows)} (of the order of rank "
            f"· √(product of the dimensions) = {needed:.0f} are needed), a lower rank, or another tree or random_state"
        ]
    if not found.stopped:
        return [f"the fit was still improving after {n_passes} passes, at a relative error of {error:.1e}; raise n_iter_max"]
    return []


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
