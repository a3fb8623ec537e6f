"""Numbers added to HT tensors, and integer powers."""

from __future__ import annotations

import operator
from typing import Any

from htf.linalg.backend import Array, backend_of, context, scalar
from htf.tensors.arithmetic import ht_add, ht_hadamard
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht


def ht_add_scalar(ht_tensor: HTTensor | RawHT, number: float | Array) -> HTTensor:
    """Add a number to every entry: ``x + number``.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    number : float, complex or 0-dimensional array
        A complex number makes a real tensor complex.

    Returns
    -------
    HTTensor
        Exact: the sum with a tensor of rank 1, so every rank below the root grows by one.  Adding 0 adds no rank.

    Raises
    ------
    TypeError
        For arrays with axes and what is no number.

    See Also
    --------
    htf.tensors.ht_scale : products with a number.
    htf.tensors.ht_add : sums of tensors.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> (1 - x).rank
    (3, 3, 3, 3, 1)
    """
    x = as_ht(ht_tensor)
    value = scalar(number, x.factors[-1])
    if value is None:
        raise TypeError(f"number is {number!r}; expected a number")
    if isinstance(value, float | complex) and value == 0:
        return x.beside_number(value)
    x = x.beside_number(value)
    return ht_add(x, filled(x, value))


def filled(like: HTTensor, value: Any) -> HTTensor:
    """A tensor of rank 1 with the tree, shape and dtype of another one and equal entries."""
    B = backend_of(like.factors[0])
    factors = []
    for node, factor in enumerate(like.factors):
        shape: tuple[int, ...] = (int(factor.shape[0]), 1) if node < like.order else (1,) * len(factor.shape)
        if node == like.tree.root:
            shape = (*shape[:-1], like.outputs)
        factors.append(B.ones(shape, **context(factor)))
    return HTTensor._of(like.tree, [*factors[:-1], factors[-1] * value])


def ht_power(ht_tensor: HTTensor | RawHT, exponent: int) -> HTTensor:
    """Raise every entry to an integer power: ``x ** exponent``.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    exponent : int
        At least 0.

    Returns
    -------
    HTTensor
        Exact: entrywise products, so ranks are raised to the power too (a leaf's are its dimension at most).  For
        higher powers, `ht_round` in between, or ``htf.apply(lambda entries: entries**exponent, x)``, which finds the
        ranks that are needed.

    Raises
    ------
    TypeError, ValueError
        For exponents that are no integers, or negative; `htf.apply` takes those.

    See Also
    --------
    htf.tensors.ht_hadamard : products of two tensors.
    htf.apply : any function of entries.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((8, 8, 8), rank=2, random_state=0)
    >>> square = htf.tensors.ht_power(x, 2)  # or x ** 2
    >>> square.rank, np.allclose(square.to_tensor(), x.to_tensor() ** 2)
    ((4, 4, 4, 4, 1), True)
    """
    x = as_ht(ht_tensor)
    try:
        number = operator.index(exponent)
    except TypeError:
        number = None
    if number is None or isinstance(exponent, bool):
        raise TypeError(
            f"exponent is {exponent!r}; expected an integer; others are taken by "
            f"htf.apply(lambda entries: entries**{exponent!r}, x)"
        )
    if number < 0:
        raise ValueError(
            f"exponent is {number}; expected at least 0; htf.apply(lambda entries: 1.0 / entries**{-number}, x) takes "
            "inverses of what has no zeros"
        )
    if number == 0:
        return filled(x, 1.0)
    power: HTTensor | None = None
    while True:
        if number % 2:
            power = x if power is None else ht_hadamard(power, x)
        number //= 2
        if not number:
            assert power is not None
            return power
        x = ht_hadamard(x, x)
