"""The rank that a truncation leaves."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

from torch import Tensor

from htf._checks import positive


def kept_rank(singular_values: Tensor, shape: Sequence[int], tol: object, rank: object) -> int:
    """The rank of each of some matrices after a truncation, of all the same.

    Parameters
    ----------
    singular_values : Tensor
        (matrices, bound), falling.
    shape : (int, int)
        Of the matrices.
    tol : float, optional
        Largest error of all of them relative to their Frobenius norm.
    rank : int or float, optional
        The rank, or the share of the entries that a pair of factors has.

    Returns
    -------
    int
        At least 1.
    """
    if (tol is None) == (rank is None):
        raise ValueError(f"tol is {tol} and rank is {rank}; expected exactly one of them")
    bound = singular_values.shape[1]
    if tol is not None:
        if isinstance(tol, bool) or not isinstance(tol, Real):
            raise TypeError(f"tol is {tol!r}; expected a number")
        if not 0 <= float(tol) < 1:
            raise ValueError(f"tol is {tol}; expected from 0 to below 1")
        squares = (singular_values**2).sum(0)
        # What is lost with all values from the k-th on, summed from the smallest; nothing with none.
        lost = [0.0, *squares.flip(0).cumsum(0).tolist()]
        allowed = float(tol) ** 2 * lost[-1]
        return max(bound - sum(each <= allowed for each in lost[1:]), 1)
    if isinstance(rank, Real) and not isinstance(rank, Integral):
        if not 0 < float(rank) <= 1:
            raise ValueError(f"rank is {rank}; expected an integer, or a share above 0 and up to 1")
        rows, columns = shape
        return bound if rank == 1 else max(min(int(float(rank) * rows * columns / (rows + columns)), bound), 1)
    found = positive("rank", rank)
    if found > bound:
        raise ValueError(f"rank is {found}; a weight of {tuple(shape)} has rank at most {bound}")
    return found
