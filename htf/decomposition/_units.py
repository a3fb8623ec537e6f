"""Units: powers of two by which tensors are divided before they are decomposed, and multiplied afterwards."""

from __future__ import annotations

import math

from htf.linalg.backend import backend_of
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
