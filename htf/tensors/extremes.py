"""Largest and smallest entries of HT tensors, and how certain it is that there are no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from htf._checks import positive
from htf._random import check_random_state
from htf.linalg.backend import is_complex, to_numpy
from htf.tensors._beam import Beam
from htf.tensors._bounds import interval, interval_of_size
from htf.tensors._sweeps import swept
from htf.tensors.arithmetic import ht_hadamard
from htf.tensors.contraction import ht_mean
from htf.tensors.dense import ht_to_tensor
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.indexing import ht_entries
from htf.tensors.orthogonal import check_finite
from htf.tensors.overlaps import log_norm
from htf.tensors.rounding import ht_round
from htf.tensors.scalars import ht_add_scalar

# Entries of the largest tensor that is written out: all are seen then.
_WRITTEN_OUT = 2**20
# Ranks up to which entrywise squares are formed, and to which tensors are rounded before they are squared as a guide.
_SQUARED, _GUIDE = 12, 6
# Part of the largest square below which squares are rounding error.
_HIDDEN = 1e-12
# Squarings of the power iteration.
_SQUARINGS = 3
# Candidates from which single indices are changed, and as many random ones.
_STARTS = 32
# Index tuples that are followed to certify an entry whose like of the other sign is larger, in widths of the search.
_WIDER = 4
# Logarithm of the largest number to divide by.
_LARGEST_LOG = 700.0
# Relative rounding error that a bound has to exceed a value by to be no doubt.
_ROUNDING = 1e-9
# The same, relative to the largest entry in size: what entries near zero are accurate to.
_EPSILON = 1e-13


class ExtremeValue(float):
    """A largest or smallest entry: a number that also says where it is, and how certain it is.

    Attributes
    ----------
    index : tuple of int
        Where the entry is.
    bound : float
        No entry is larger (of a minimum: smaller).
    exact : bool
        Whether the bound and the value meet, to rounding error: there is no better entry.

    See Also
    --------
    htf.tensors.ExtremeIndex : where it is, with the entry beside.
    htf.tensors.ht_argmax, htf.tensors.ht_argmin : searches.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.cross_approximation(lambda i: np.exp(-((i - 3) ** 2).sum(1) / 9), (8,) * 10, random_state=0)
    >>> largest = x.max()
    >>> round(largest, 6), largest.index, largest.exact
    (1.0, (3, 3, 3, 3, 3, 3, 3, 3, 3, 3), True)
    """

    index: tuple[int, ...]
    bound: float
    exact: bool

    def __new__(cls, value: float, index: tuple[int, ...], bound: float, exact: bool) -> ExtremeValue:
        """Make the number."""
        self = super().__new__(cls, value)
        self.index, self.bound, self.exact = index, bound, exact
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (float(self), self.index, self.bound, self.exact)

    def __repr__(self) -> str:
        return f"{float(self)!r} at {self.index}, {_certainty(self.bound, self.exact)}"


class ExtremeIndex(tuple[int, ...]):
    """Where a largest or smallest entry is: an index tuple that also knows the entry, and how certain it is.

    Attributes
    ----------
    value : float
        The entry.
    bound : float
        No entry is larger (of a minimum: smaller).
    exact : bool
        Whether the bound and the value meet, to rounding error: there is no better entry.

    See Also
    --------
    htf.tensors.ExtremeValue : the entry, which knows where it is.
    htf.tensors.ht_argmax, htf.tensors.ht_argmin : searches.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4,) * 6, rank=2, random_state=0)
    >>> place = x.argmax()
    >>> len(place), bool(abs(x[place] - place.value) < 1e-12), place.value <= place.bound
    (6, True, True)
    """

    value: float
    bound: float
    exact: bool

    def __new__(cls, index: tuple[int, ...], value: float, bound: float, exact: bool) -> ExtremeIndex:
        """Make the tuple."""
        self = super().__new__(cls, index)
        self.value, self.bound, self.exact = value, bound, exact
        return self

    @property
    def entry(self) -> ExtremeValue:
        """The entry with what is known of it."""
        return ExtremeValue(self.value, tuple(self), self.bound, self.exact)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (tuple(self), self.value, self.bound, self.exact)

    def __repr__(self) -> str:
        return f"{tuple(self)}: {self.value!r}, {_certainty(self.bound, self.exact)}"


def _certainty(bound: float, exact: bool) -> str:
    return "exact" if exact else f"bound {bound:.6g}"


def ht_argmax(
    ht_tensor: HTTensor | RawHT, size: bool = False, width: int = 256, random_state: Any = None
) -> ExtremeIndex:
    r"""Find the largest entry.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output, real unless `size`.
    size : bool
        The largest in size, as ``abs(x).argmax()``.
    width : int
        Index tuples of a node that are followed; the search takes O(N width² r²) multiplications.
    random_state : int, RandomState or None
        For random entries among the starts of the last step.

    Returns
    -------
    ExtremeIndex
        The index tuple, with the entry as ``value``, a ``bound`` that no entry exceeds, and whether they meet:
        ``exact``.

    Raises
    ------
    ValueError
        For NaN or infinite entries, and several outputs.
    TypeError
        For complex tensors without `size`: complex numbers have no order.

    See Also
    --------
    htf.tensors.ht_argmin : the smallest.
    htf.tensors.ht_sample : entries drawn by their squares.

    Notes
    -----
    Tensors of up to 2²⁰ entries are written out.  For others, every node keeps those `width` index tuples of its modes
    whose slices of the tensor have the largest norms, from the leaves to the root, where the entries of all
    combinations are compared (Chertkov, Ryzhakov, Novikov & Oseledets 2022, for tensor trains).  The norm of a slice
    bounds its entries, so the largest of those left out is a certificate: exact where it is below the entry found.

    Where it is not, searches in entrywise squares of squares follow, rounded to low ranks, whose norms are made by
    their largest entries alone: a power iteration.  Then one index after the other is changed to the best beside the
    others, from the best entries met and from random ones.  Intervals of the frames' columns give a bound too, which is
    sharp for products of functions of single modes.  For signed entries the search is for those that differ most from
    zero, from the mean and from the other extreme.

    References
    ----------
    .. [1] A. Chertkov, G. Ryzhakov, G. Novikov, I. Oseledets, "Optimization of functions given in the tensor train
       format", arXiv 2209.14808 (2022).

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4,) * 6, rank=2, random_state=0)
    >>> found = x.argmax()
    >>> found.exact, bool(np.isclose(x[found], x.to_tensor().max()))
    (True, True)
    """
    x = _checked(ht_tensor, size)
    width, rng = positive("width", width), check_random_state(random_state)
    return _Search(x, width, rng).of_size() if size else _largest(x, width, rng)


def ht_argmin(
    ht_tensor: HTTensor | RawHT, size: bool = False, width: int = 256, random_state: Any = None
) -> ExtremeIndex:
    """Find the smallest entry.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output, real unless `size`.
    size : bool
        The smallest in size, as ``abs(x).argmin()``: the largest of how much the squares of all sizes are below the
        largest.  Certified for ranks up to 12, as these squares have the squares of the ranks.
    width, random_state
        As in `ht_argmax`.

    Returns
    -------
    ExtremeIndex
        As of `ht_argmax`; no entry is below its ``bound``.

    Raises
    ------
    ValueError, TypeError
        As `ht_argmax`.

    See Also
    --------
    htf.tensors.ht_argmax : the largest.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4,) * 6, rank=2, random_state=0)
    >>> found = htf.tensors.ht_argmin(x)  # or x.argmin()
    >>> found.exact, bool(abs(found.value - x.to_tensor().min()) < 1e-12)
    (True, True)
    """
    x = _checked(ht_tensor, size)
    width, rng = positive("width", width), check_random_state(random_state)
    if size:
        return _smallest_size(x, width, rng)
    found = _largest(-x, width, rng)
    return ExtremeIndex(tuple(found), -found.value, -found.bound, found.exact)


def _checked(ht_tensor: HTTensor | RawHT, size: bool) -> HTTensor:
    """The tensor in NumPy and double precision."""
    x = as_ht(ht_tensor)
    if x.outputs > 1:
        raise ValueError(f"the tensor has {x.outputs} outputs; take one of them, x[..., k]")
    if is_complex(x.factors[0]) and not size:
        raise TypeError("the tensor is complex, and complex numbers have no order; see abs(x), x.real and x.imag")
    check_finite(x.factors)
    double = np.complex128 if is_complex(x.factors[0]) else np.float64
    return HTTensor._of(x.tree, [to_numpy(factor).astype(double) for factor in x.factors])


def _all_entries(x: HTTensor, better: Callable[[np.ndarray], np.ndarray]) -> ExtremeIndex | None:
    """The best of all entries, where there are few enough; `better` is to be largest."""
    if prod(x.dims) > _WRITTEN_OUT:
        return None
    dense = np.asarray(ht_to_tensor(x))
    if not np.isfinite(dense).all():
        raise ValueError("the tensor has entries that are beyond the range of its dtype")
    values = better(dense)
    at = np.unravel_index(int(values.argmax()), values.shape)
    value = float(abs(values[at]))
    return ExtremeIndex(tuple(int(i) for i in at), value, value, True)


def _largest(x: HTTensor, width: int, rng: Any) -> ExtremeIndex:
    """The largest entry of a real tensor."""
    written = _all_entries(x, lambda dense: dense)
    if written is not None:
        value = float(np.asarray(ht_entries(x, [list(written)]))[0])
        return ExtremeIndex(tuple(written), value, value, True)
    search = _Search(x, width, rng)
    found = search.of_size()
    # An extreme of size is one of the two that are wanted; the other is farthest from it.
    if found.exact and search.signed(found) > 0:
        return ExtremeIndex(tuple(found), found.value, found.value, True)
    candidates, bound = [tuple(found)], min(found.bound, interval(x)[1])
    mean = float(np.asarray(ht_mean(x)))
    searches = {0.0: search}
    for shift in (mean, None):
        if shift is None:
            shift = float(min(search.entries(candidates)))
        if not math.isfinite(shift) or shift == 0:
            continue
        other = searches[shift] = _Search(ht_add_scalar(x, -shift), width, rng)
        met = other.of_size()
        candidates += [tuple(met), *other.met]
        bound = min(bound, shift + met.bound)
    ends = search.ascended(candidates, lambda values: values)
    best = _best(search, ends, bound, found.value)
    for shift, other in searches.items():
        if not best.exact:
            # With an entry at hand, few others are left that could be larger than it.
            more, above = other.above(best.value - shift)
            bound = min(bound, shift + above)
            best = _best(search, [tuple(best), *more], bound, found.value)
    return best


def _best(search: _Search, candidates: list[tuple[int, ...]], bound: float, largest: float) -> ExtremeIndex:
    """The largest entry of some, and whether it is the largest of all."""
    values = search.entries(candidates)
    best = int(np.argmax(values))
    return _certified(candidates[best], float(values[best]), bound, largest)


def _certified(index: tuple[int, ...], value: float, bound: float, largest: float) -> ExtremeIndex:
    """Whether bound and value meet, to rounding error of them and of the largest entry in size."""
    exact = bound <= value + _ROUNDING * abs(value) + _EPSILON * largest
    return ExtremeIndex(index, value, value if exact else bound, exact)


def _smallest_size(x: HTTensor, width: int, rng: Any) -> ExtremeIndex:
    written = _all_entries(x, lambda dense: -np.abs(dense))
    if written is not None:
        value = float(np.abs(ht_entries(x, [list(written)]))[0])
        return ExtremeIndex(tuple(written), value, value, True)
    search = _Search(x, width, rng)
    largest = search.of_size()
    top = largest.bound if math.isfinite(largest.bound) else largest.value
    if top == 0:
        return largest
    guide = x if max(x.rank) <= _SQUARED else ht_round(x, rank=_SQUARED)
    squares = ht_hadamard(guide.conj(), guide).real
    # Between 0 and 1: how much the square of a size is below the square of the largest possible one.
    rest = ht_add_scalar(-(squares / top) / top, 1.0)
    other = _Search(rest, width, rng)
    met = other.of_size()
    ends = search.ascended([tuple(met), *other.met], lambda values: -np.abs(values))
    values = np.abs(search.entries(ends))
    best = int(np.argmin(values))
    value = float(values[best])
    # Rounding of squares hides sizes below its root.
    bound = top * math.sqrt(max(1 - met.bound - _HIDDEN, 0.0)) if guide is x else 0.0
    exact = value == 0 or bound >= value * (1 - 1e-6)
    return ExtremeIndex(ends[best], value, value if exact else min(bound, value), exact)


class _Search:
    """A search for the largest entry in size of one tensor in double precision."""

    def __init__(self, x: HTTensor, width: int, rng: Any) -> None:
        self.x, self.width, self.rng = x, width, rng
        self.met: list[tuple[int, ...]] = []
        self.beam: Beam | None = None

    def entries(self, indices: list[tuple[int, ...]]) -> np.ndarray:
        return np.asarray(ht_entries(self.x, np.array(indices, dtype=np.int64).reshape(len(indices), self.x.order)))

    def signed(self, index: tuple[int, ...]) -> float:
        return float(self.entries([tuple(index)])[0].real)

    def of_size(self) -> ExtremeIndex:
        """The largest entry in size."""
        written = _all_entries(self.x, np.abs)
        if written is not None:
            self.met = [tuple(written)]
            return written
        beam = self.beam = Beam(self.x)
        found = beam.search(self.width)
        if found.zero:
            index = (0,) * self.x.order
            self.met = [index]
            return ExtremeIndex(index, 0.0, 0.0, True)
        candidates = found.indices
        value = float(np.abs(self.entries(candidates)).max())
        bound = min(found.bound, interval_of_size(self.x))
        if not bound <= value * (1 + _ROUNDING):
            candidates = candidates + self._by_powers()
            candidates = self.ascended(candidates, np.abs)
            better = float(np.abs(self.entries(candidates)).max())
            # With an entry at hand, slices that are smaller as a whole are left out without a loss.
            bound = min(bound, beam.search(self.width, least=better).bound)
            value = better
        values = np.abs(self.entries(candidates))
        order = np.argsort(-values, kind="stable")
        self.met = [candidates[k] for k in order[:_STARTS]]
        best = float(values[order[0]])
        return _certified(self.met[0], best, bound, best)

    def above(self, least: float) -> tuple[list[tuple[int, ...]], float]:
        """The largest entries of a real tensor that exceed the one of `least`, if any, and a bound on all of them."""
        if self.beam is None or not least > 0:
            return [], math.inf
        found = self.beam.search(_WIDER * self.width, least, signed=True)
        return found.indices, max(found.bound, least)

    def _by_powers(self) -> list[tuple[int, ...]]:
        """Index tuples found in squares of squares of the entries."""
        found: list[tuple[int, ...]] = []
        guide = ht_round(self.x, rank=_GUIDE)
        for _ in range(_SQUARINGS):
            # To a root mean square of 1, as norms of high orders and their squares leave the range.
            size = float(log_norm(guide.tree, guide.factors)) - sum(map(math.log, guide.dims)) / 2
            if not abs(size) < _LARGEST_LOG:
                break
            guide = guide / math.exp(size)
            guide = ht_round(ht_hadamard(guide.conj(), guide).real, rank=_GUIDE)
            found += Beam(guide).search(self.width // 4 + 1).indices
        return found

    def ascended(
        self, candidates: list[tuple[int, ...]], better: Callable[[np.ndarray], np.ndarray]
    ) -> list[tuple[int, ...]]:
        """Candidates, and the ends of ascents from the best of them and from random ones; `better` is to be large."""
        candidates = list(dict.fromkeys(candidates))
        order = np.argsort(-better(self.entries(candidates)), kind="stable")
        rows = np.array([candidates[k] for k in order[:_STARTS]], dtype=np.int64).reshape(-1, self.x.order)
        drawn = np.stack([self.rng.randint(0, n, size=_STARTS) for n in self.x.dims], 1)
        ends = swept(self.x, np.concatenate([rows, drawn]), better)
        return list(dict.fromkeys([*(tuple(row) for row in ends.tolist()), *candidates]))
