"""Units: powers of two by which tensors are divided before they are decomposed, and multiplied afterwards."""

from __future__ import annotations

import math

import numpy as np

from htf.linalg.backend import Array, asarray, backend_of
from htf.linalg.scaling import in_range
from htf.tensors.ht_tensor import HTTensor


def times_unit(x: HTTensor, unit: float) -> HTTensor:
    """A tensor times a power of two, at the root, or in the leaves where the root cannot hold it."""
    if unit == 1:
        return x
    root = x.factors[-1]
    if in_range(backend_of(root), root, math.log2(unit)):
        return x * unit
    part = unit ** (1 / x.order)
    return HTTensor._of(x.tree, [f * part if node < x.order else f for node, f in enumerate(x.factors)])


def beside(x: HTTensor, like: Array, name: str, largest: float) -> HTTensor:
    """A tensor of NumPy's doubles in the backend, precision and device of an array, which is called `name`.

    Raises a ValueError where single precision cannot hold the `largest` value that the tensor was made of.
    """
    limits = backend_of(like).finfo(like.dtype)
    single = float(limits.eps) > np.finfo(np.float64).eps
    if single and largest and not float(limits.tiny) <= largest <= float(limits.max):
        raise ValueError(
            f"function returned values of size up to {largest:.1e}, which is beyond the range of {like.dtype}, "
            f"the dtype of {name}; scale them, or take double precision"
        )
    # The norm, and with it the root, can be out of range where entries are not.
    size = float(np.max(np.abs(x.factors[-1])))
    unit = 2.0 ** (math.frexp(size)[1] - 1) if single and size else 1.0
    factors = [*x.factors[:-1], x.factors[-1] / unit]
    return times_unit(HTTensor._of(x.tree, [asarray(backend_of(like), factor, like) for factor in factors]), unit)
