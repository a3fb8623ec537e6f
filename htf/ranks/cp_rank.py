"""An estimate of the CP rank of a dense tensor."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import tensorly as tl
import torch
from tensorly.decomposition import parafac

from htf._checks import positive
from htf._random import check_random_state
from htf.linalg.backend import Array, Backend, all_finite, check_array, constant, current_backend, to_numpy
from htf.linalg.dense import kept
from htf.tensors.rank import check_tolerance


class CPRankEstimate(NamedTuple):
    """Result of `cp_rank`.

    Attributes
    ----------
    rank : int or None
        The smallest rank whose best fit meets the tolerance; None if none up to the largest one tried does.
    errors : dict
        From each rank tried to the relative error of its best fit.
    lower_bound : int
        No lower rank meets the tolerance, as no matricization allows it.

    See Also
    --------
    htf.ranks.cp_rank : finds it.

    Examples
    --------
    >>> import numpy as np, htf
    >>> found = htf.ranks.cp_rank(np.eye(3), random_state=0)
    >>> found.rank, found.lower_bound, list(found.errors)
    (3, 3, [3])
    """

    rank: int | None
    errors: dict[int, float]
    lower_bound: int


def cp_rank(
    tensor: Array,
    max_rank: int | None = None,
    tol: float = 1e-6,
    n_init: int = 5,
    n_iter_max: int = 1000,
    random_state: Any = None,
) -> CPRankEstimate:
    """Estimate the CP rank of a dense tensor from above, by fitting one rank after the other.

    Parameters
    ----------
    tensor : array
        Two axes or more, of any backend of TensorLy.
    max_rank : int, optional
        Largest rank to try; by default the product of all dimensions but the largest, which always suffices.
    tol : float
        Relative error in the Frobenius norm at which a fit counts as exact.
    n_init : int
        Random starts per rank; the first that meets the tolerance ends the search.
    n_iter_max : int
        Sweeps of alternating least squares per start.
    random_state : int, RandomState or None

    Returns
    -------
    CPRankEstimate
        ``rank``, ``errors`` per rank, ``lower_bound``.  A zero tensor has rank 0.

    Raises
    ------
    TypeError, ValueError
        If `tensor` is no floating array, has fewer than two axes, an empty one, or NaN or infinite entries; if
        `max_rank`, `n_init` or `n_iter_max` is below 1, or `tol` is negative or not finite.

    See Also
    --------
    htf.ranks.hierarchical_rank, htf.ranks.separation_rank : ranks of matricizations, which can be computed.
    htf.tensors.cp_to_ht, htf.tensors.ht_to_cp : conversions.

    Notes
    -----
    CP rank is NP-hard to compute (Hillar & Lim 2013), and alternating least squares may miss a fit that exists, so the
    rank found is an upper bound at this tolerance, and ``lower_bound`` the largest rank that a matricization needs at
    it.  Below the rank of a tensor the best error may have no minimum but an infimum, even zero (border rank, de Silva
    & Lim 2008): then tighter tolerances find higher ranks.  Computed in double precision.

    References
    ----------
    .. [1] C. J. Hillar, L.-H. Lim, "Most tensor problems are NP-hard", J. ACM 60 (2013).
    .. [2] V. de Silva, L.-H. Lim, "Tensor rank and the ill-posedness of the best low-rank approximation problem", SIAM
       J. Matrix Anal. Appl. 30 (2008).

    Examples
    --------
    A tensor of rank 3 all of whose matricizations have rank 2:

    >>> import numpy as np, htf
    >>> w = np.zeros((2, 2, 2))
    >>> w[1, 0, 0] = w[0, 1, 0] = w[0, 0, 1] = 1
    >>> found = htf.ranks.cp_rank(w, tol=1e-4, n_init=1, n_iter_max=200, random_state=0)
    >>> found.lower_bound, found.rank
    (2, 3)
    >>> found.errors[2] < 0.1  # rank 2 comes close, ever closer the longer it is fitted
    True
    """
    B = _checked_backend(tensor)
    relative = check_tolerance(tol) or 0.0
    n_init, n_iter_max = positive("n_init", n_init), positive("n_iter_max", n_iter_max)
    dims = [int(d) for d in tensor.shape]
    highest = prod(dims) // max(dims) if max_rank is None else positive("max_rank", max_rank)
    largest = float(B.max(B.abs(constant(tensor))))
    if largest == 0:
        return CPRankEstimate(0, {}, 0)
    rng = check_random_state(random_state)
    errors: dict[int, float] = {}
    with current_backend(B.backend_name, torch.device("cpu")):
        fixed = B.tensor(to_numpy(tensor), dtype=B.float64) / largest
        fixed = fixed / B.sqrt(B.sum(fixed * fixed))
        lower = _lower_bound(B, fixed, relative)
        for rank in range(lower, highest + 1):
            errors[rank] = _best_error(B, fixed, rank, relative, n_init, n_iter_max, rng)
            if errors[rank] <= relative:
                return CPRankEstimate(rank, errors, lower)
    return CPRankEstimate(None, errors, lower)


def _checked_backend(tensor: Array) -> Backend:
    B = check_array(tensor, "tensor", real=True)
    if len(tensor.shape) < 2 or 0 in tensor.shape:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; expected two axes or more, none of them empty")
    if not all_finite(B, tensor):
        raise ValueError("tensor has NaN or infinite entries")
    return B


def _lower_bound(B: Backend, tensor: Array, tol: float) -> int:
    """The most singular values that a matricization by one mode or by leading modes needs for a relative error."""
    order = len(tensor.shape)
    matrices = [B.reshape(B.moveaxis(tensor, mode, 0), (tensor.shape[mode], -1)) for mode in range(order)]
    matrices += [B.reshape(tensor, (prod(tuple(tensor.shape[:k])), -1)) for k in range(2, order - 1)]
    rounding = float(B.eps(tensor.dtype)) ** 0.75
    return max(kept(B.svd(m, full_matrices=False)[1], None, max(tol, rounding)) for m in matrices)


def _best_error(B: Backend, tensor: Array, rank: int, tol: float, n_init: int, n_iter_max: int, rng: Any) -> float:
    best = float("inf")
    for _ in range(n_init):
        rest = tensor - _fitted(tensor, rank, n_iter_max, rng)
        best = min(best, float(B.sqrt(B.sum(rest * rest))))
        if best <= tol:
            break
    return best


def _fitted(tensor: Array, rank: int, n_iter_max: int, rng: Any) -> Array:
    """A CP tensor of a rank fitted from a random start, written out; zero if its equations cannot be solved."""
    # A ridge far below the tolerance keeps the normal equations of surplus or collinear components solvable; where
    # rounding leaves them singular nevertheless, a larger one.
    for ridge in (1e-14, 1e-12, 1e-10):
        try:
            fitted = parafac(
                tensor,
                rank,
                n_iter_max=n_iter_max,
                init="random",
                tol=1e-13,
                l2_reg=ridge,
                linesearch=True,
                random_state=rng,
            )
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            continue
        return tl.cp_to_tensor(fitted)
    return tensor * 0
