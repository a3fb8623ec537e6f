"""Measures of rank of one list of singular values."""

from __future__ import annotations

from htf.linalg.backend import Array, Backend, all_finite, backend_of, check_array, constant
from htf.tensors.rank import check_tolerance


def effective_rank(singular_values: Array) -> Array:
    r"""Effective rank: the exponential of the Shannon entropy of the normalized singular values.

    .. math:: \operatorname{erank} = \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = \sigma_i / \sum_j \sigma_j .

    Parameters
    ----------
    singular_values : array (r,)
        Not negative, in any order; of any backend of TensorLy.

    Returns
    -------
    0-dimensional array
        Between 1 and r; 0 if all singular values are 0, as the rank of a zero matrix.

    Raises
    ------
    TypeError, ValueError
        If `singular_values` is no floating array of one axis, is empty, or holds NaN, infinite or negative values.

    See Also
    --------
    htf.ranks.stable_rank, htf.ranks.participation_ratio : smoother relatives.
    htf.ranks.numerical_rank : a count of singular values.

    Notes
    -----
    Gradients flow. At a singular value of 0 the derivative is infinite; that value is left out, so that gradients are
    finite, and those of the others.

    Huh et al. 2021 print the entropy itself, without the exponential.  Relatives: `stable_rank`
    (:math:`\|A\|_F^2 / \|A\|^2`), `participation_ratio` (the exponential of the Rényi-2 entropy of the squares), and
    the ratio of nuclear to spectral norm, :math:`\sum_i \sigma_i / \sigma_1`.

    References
    ----------
    .. [1] O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    .. [2] M. Huh et al., "The low-rank simplicity bias in deep networks", TMLR 2023, arXiv:2103.10427.

    Examples
    --------
    >>> import numpy as np
    >>> from htf.ranks import effective_rank
    >>> round(float(effective_rank(np.array([2.0, 2.0, 0.0]))), 6)
    2.0
    """
    B, S = _checked(singular_values)
    if S is None:
        return B.sum(singular_values)
    return effective_ranks_of(S)


def effective_ranks_of(values: Array) -> Array:
    """`effective_rank` of spectra along the last axis, (..., r) to (...), which are not checked."""
    B = backend_of(values)
    total = B.sum(values, -1)
    safe = B.where(total > 0, total, B.zeros_like(total) + 1)
    return B.where(total > 0, B.exp(shannon(B, values / safe[..., None])), total)


def stable_rank(singular_values: Array) -> Array:
    r"""Stable rank :math:`\|A\|_F^2 / \|A\|^2`, also called numerical rank.

    Parameters
    ----------
    singular_values : array (r,)
        Not negative, in any order; of any backend of TensorLy.

    Returns
    -------
    0-dimensional array
        Between 1 and the rank; 0 if all singular values are 0.

    Raises
    ------
    TypeError, ValueError
        As `effective_rank`.

    See Also
    --------
    htf.ranks.effective_rank, htf.ranks.participation_ratio, htf.ranks.numerical_rank

    References
    ----------
    .. [1] M. Rudelson, R. Vershynin, "Sampling from large matrices", J. ACM 54 (2007).

    Examples
    --------
    >>> import numpy as np, htf
    >>> float(htf.ranks.stable_rank(np.array([2.0, 1.0, 1.0])))
    1.5
    """
    B, S = _checked(singular_values)
    if S is None:
        return B.sum(singular_values)
    return B.sum(S * S) / B.max(S) ** 2


def participation_ratio(singular_values: Array) -> Array:
    r"""Participation ratio :math:`(\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4`: the exponential of the Rényi-2 entropy.

    Parameters
    ----------
    singular_values : array (r,)
        Not negative, in any order; of any backend of TensorLy.

    Returns
    -------
    0-dimensional array
        Between 1 and the rank; 0 if all singular values are 0.

    Raises
    ------
    TypeError, ValueError
        As `effective_rank`.

    See Also
    --------
    htf.ranks.effective_rank, htf.ranks.stable_rank, htf.ranks.numerical_rank

    Notes
    -----
    Smooth everywhere but at zero, unlike the other two.

    Examples
    --------
    >>> import numpy as np, htf
    >>> float(htf.ranks.participation_ratio(np.array([2.0, 1.0, 1.0])))
    2.0
    >>> float(htf.ranks.participation_ratio(np.array([1.0, 1.0, 1.0])))
    3.0
    """
    B, S = _checked(singular_values)
    if S is None:
        return B.sum(singular_values)
    squares = S * S
    return B.sum(squares) ** 2 / B.sum(squares * squares)


def numerical_rank(spectrum: Array, tol: float | None = None) -> int:
    """Count the singular values that exceed `tol` times the largest.

    Parameters
    ----------
    spectrum : array (r,)
        Singular values, not negative, in any order; of any backend of TensorLy.
    tol : float, optional
        Relative to the largest singular value.  By default ``epsilon^(3/4)`` of the dtype (1.8e-12 in double
        precision), above the rounding error of `spectra`.

    Returns
    -------
    int
        0 if all singular values are 0.

    Raises
    ------
    TypeError, ValueError
        As `effective_rank`; and for a tolerance that is no number, negative or not finite.

    See Also
    --------
    htf.ranks.effective_rank, htf.ranks.stable_rank : ranks that are no integers.
    htf.ranks.hierarchical_rank : numerical ranks on all edges of a tree.

    Examples
    --------
    >>> import numpy as np, htf
    >>> spectrum = np.linalg.svd(np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]), compute_uv=False)
    >>> htf.ranks.numerical_rank(spectrum)
    1
    >>> htf.ranks.numerical_rank(np.array([1.0, 0.1, 0.01]), tol=0.05)
    2
    """
    tol = check_tolerance(tol)
    B, S = _checked(spectrum)
    if S is None:
        return 0
    if tol is None:
        tol = float(B.eps(spectrum.dtype)) ** 0.75
    return int((constant(S) > tol).sum())


def shannon(B: Backend, probabilities: Array) -> Array:
    """-Σ p log p along the last axis, with 0 log 0 = 0 in value and gradient."""
    # log(1) = 0 stands in for what does not count, so that no logarithm of 0 enters a gradient.
    safe = B.where(probabilities > 0, probabilities, B.zeros_like(probabilities) + 1)
    return -B.sum(safe * B.log(safe), -1)


def _checked(singular_values: Array) -> tuple[Backend, Array | None]:
    """The backend and the values relative to the largest; None for a zero spectrum."""
    name = "singular_values"
    B = check_array(singular_values, name, real=True)
    if len(singular_values.shape) != 1:
        raise ValueError(f"{name} has shape {tuple(singular_values.shape)}; expected one axis")
    if singular_values.shape[0] == 0:
        raise ValueError(f"{name} is empty; expected at least one singular value")
    if not all_finite(B, singular_values):
        raise ValueError(f"{name} holds NaN or infinite values")
    fixed = constant(singular_values)
    if float(B.min(fixed)) < 0:
        raise ValueError(f"{name} holds {float(B.min(fixed))}; expected values of at least 0")
    largest = B.max(fixed)
    # All of these ranks ignore scale, so a constant may be divided out: squares then cannot leave the dtype's range.
    return B, singular_values / largest if float(largest) > 0 else None
