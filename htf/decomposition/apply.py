"""Functions of the entries of HT tensors, by cross approximation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from htf._random import check_random_state
from htf.decomposition._units import beside
from htf.decomposition.cross import cross_approximation, start_rows
from htf.linalg.backend import (
    Array,
    cast,
    complex_dtype,
    host_array,
    in_double,
    is_complex,
    to_numpy,
)
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.indexing import ht_entries
from htf.tensors.orthogonal import check_finite
from htf.tensors.sampling import drawn_by_square
from htf.tree import DimensionTree

# Entries drawn from each tensor by their squares, through which the first columns go.
_DRAWN = 4
# Options of `cross_approximation` that the tensors give.
_GIVES = {"shape": "shape", "like": "backend, dtype and device"}


def apply(
    function: Callable[..., Any],
    *tensors: HTTensor | RawHT,
    tol: float = 1e-8,
    tree: DimensionTree | None = None,
    random_state: Any = None,
    return_info: bool = False,
    **options: Any,
) -> Any:
    """Approximate a function of the entries of one or several HT tensors.

    Parameters
    ----------
    function : callable
        Takes an array (batch,) of entries of each tensor, at the same index tuples, and returns the (batch,) values of
        the result.  Arrays are of the tensors' backend, NumPy's for ufuncs of NumPy.
    *tensors : HTTensor or (tree, factors)
        Of one shape and one output each; trees, dtypes and backends may differ.
    tol : float
        Relative error in the Frobenius norm.
    tree : DimensionTree, optional
        Of the result; that of the first tensor by default.
    random_state : int, RandomState or None
    return_info : bool
        Return a `CrossInfo` too.
    **options
        Others of `cross_approximation`: ``max_rank``, ``max_evaluations``, ``start``, ...

    Returns
    -------
    HTTensor
        Of the backend, precision and device of the first tensor; complex where the values are.  No gradients flow.
    CrossInfo
        With `return_info`.

    Raises
    ------
    TypeError, ValueError
        Without tensors, for shapes that differ, several outputs and NaN or infinite entries; for a function that is not
        callable, or whose values are not numbers, of another shape than its arguments, or NaN or infinite (the message
        names the entries and their index tuple), or beyond the range of the first tensor's precision; and as
        `cross_approximation`.

    Warns
    -----
    UserWarning
        As `cross_approximation`, if the tolerance was not reached or not confirmed.

    See Also
    --------
    htf.cross_approximation : functions of indices.
    htf.tensors.ht_hadamard, htf.tensors.ht_power : exact products.

    Notes
    -----
    As many entries of every tensor are read as `cross_approximation` asks for, O(N r³) multiplications each.  Its first
    columns go through entries drawn from the tensors by their squares too, so that what few entries hold is found.

    Examples
    --------
    >>> import numpy as np, htf
    >>> x = htf.random_ht((6, 6, 6, 6), rank=2, random_state=0)
    >>> y = htf.apply(np.exp, x, tol=1e-8, random_state=0)
    >>> bool(np.allclose(y.to_tensor(), np.exp(x.to_tensor())))
    True
    >>> z = htf.apply(np.maximum, x, x.mean() + 0 * x, random_state=0)
    >>> bool(np.allclose(z.to_tensor(), np.maximum(x.to_tensor(), x.mean())))
    True
    """
    if not callable(function):
        raise TypeError(f"function is a {type(function).__name__}; expected a callable")
    if not tensors:
        raise ValueError("there is no tensor; expected one at least after the function")
    parts = [as_ht(x) for x in tensors]
    first = parts[0]
    for x in parts:
        if x.outputs > 1:
            raise ValueError(f"a tensor has {x.outputs} outputs; take one of them, x[..., k]")
        if x.shape != first.shape:
            raise ValueError(f"the tensors have shapes {first.shape} and {x.shape}; expected equal ones")
        check_finite(x.factors)
    parts = [x.detach() for x in parts]
    for name in ("shape", "like"):
        if name in options:
            raise TypeError(f"{name} is no option of apply; the first tensor gives the {_GIVES[name]}")
    on_numpy = isinstance(function, np.ufunc)
    largest = 0.0

    def values(rows: np.ndarray) -> np.ndarray:
        nonlocal largest
        entries = [ht_entries(x, rows) for x in parts]
        entries = [to_numpy(e) for e in entries] if on_numpy else entries
        # What is no number is told below, with the entry that it comes of.
        with np.errstate(all="ignore"):
            found = _checked(function(*entries), entries, rows)
        largest = max(largest, float(np.abs(found).max(initial=0)))
        return found

    rng = check_random_state(random_state)
    start = options.pop("start", None)
    rows = np.concatenate([drawn_by_square(_in_double(x), _DRAWN, rng) for x in parts])
    if start is not None:
        rows = np.concatenate([start_rows(start, first.dims), rows])
    y, info = cross_approximation(
        values,
        first.dims,
        tree=first.tree if tree is None else tree,
        tol=tol,
        random_state=rng,
        return_info=True,
        start=rows if len(rows) else None,
        **options,
    )
    like = first.factors[0]
    if is_complex(y.factors[0]) and not is_complex(like):
        like = cast(like, complex_dtype(like))
    y = beside(y, like, "the first tensor", largest)
    return (y, info) if return_info else y


def _in_double(x: HTTensor) -> HTTensor:
    return HTTensor._of(x.tree, [to_numpy(in_double(factor)) for factor in x.factors])


def _checked(values: Any, entries: list[Array], rows: np.ndarray) -> np.ndarray:
    """The values on the host, or an error that says what the function made of which entries."""
    found = host_array(values, "what function returned")
    if found.dtype.kind not in "biufc":
        raise TypeError(f"function returned values of dtype {found.dtype}; expected numbers")
    if found.shape != (len(rows),):
        raise ValueError(f"function returned shape {found.shape}; expected that of the entries, ({len(rows)},)")
    bad = ~np.isfinite(found)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        given = ", ".join(f"{to_numpy(e)[at]:.6g}" for e in entries)
        raise ValueError(f"function returned {found[at]} for the entry {given} at index row {rows[at].tolist()}")
    return found
