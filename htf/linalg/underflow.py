"""Certificates that a product of all factors, computed without scaling, was not harmed by overflow or underflow.

What overflows on the way leaves an infinity or a NaN in the result.  What underflows leaves an absolute error of at
most the smallest normal number τ per multiplication, and later steps enlarge it by the Frobenius norms of the factors
they multiply by at most.  So M multiplications with factors f are off by less than M τ Π (1 + ‖f‖²)^½, and a result
that is larger by the digits of its dtype is right to rounding.  The product is bounded in turn by the mean of the
squares (inequality of arithmetic and geometric means), so that a sum over the factors is all there is to compute.

Dividing by powers of two instead gives the same bits at every scale, but costs several operations per factor, which
are most of the time of small tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from htf.linalg.backend import Array, Backend
from htf.linalg.threads import LARGE_VECTOR, views

_PLAIN_TENSORS = {torch.Tensor, torch.nn.Parameter}


class Certificate:
    """Bound on the errors of underflow, as factors are added that a result is computed from.

    Attributes
    ----------
    recorded : bool
        Whether autograd records what is done to a factor.  Derivatives with respect to a factor are products of the
        others and ⟨gradient, factor⟩ is the result, so the same bound with some room for the gradient that comes in
        holds for them.
    """

    __slots__ = ("_count", "_limits", "_squares", "recorded")

    def __init__(self, dtype: Any, recorded: bool) -> None:
        self._limits = _limits(dtype)
        self.recorded = recorded
        self._count = 0
        self._squares = 0.0

    def add(self, arrays: Sequence[Array], copies: int = 1) -> None:
        """Factors of a product, each of them `copies` times."""
        for array in arrays:
            self._squares += copies * _square(array)
        self._count += copies * len(arrays)

    def _growth(self) -> float:
        """Binary logarithm of how much an error can grow."""
        return self._count / 2 * math.log2(1 + self._squares / max(self._count, 1))

    def hopeless(self) -> bool:
        """Whether only a result near the end of the range could be certified."""
        _, _, largest = self._limits
        return not self._squares < math.inf or self._growth() > largest * (0.7 if self.recorded else 1.2)

    def holds(self, result: float, multiplications: float) -> bool:
        """Whether a result of this size is right to rounding, and derivatives are where they are recorded."""
        size = abs(result)
        if not 0 < size < math.inf or not self._squares < math.inf:
            return False
        smallest, digits, largest = self._limits
        growth = self._growth()
        room = 0.0
        if self.recorded:
            room = largest / 4
            if growth + room > largest or math.log2(1 + self._squares) > room:
                return False
        return math.log2(size) > smallest + digits + math.log2(multiplications) + growth + room


def certificate(B: Backend, factors: Sequence[Array]) -> Certificate | None:
    """An empty certificate for what is computed from some factors; None where values may not be looked at for free."""
    if B.backend_name == "numpy":
        return Certificate(factors[0].dtype, False)
    if B.backend_name != "pytorch" or not host_reads():
        return None
    # All factors are on one device.
    if factors[0].device.type != "cpu" or not _PLAIN_TENSORS.issuperset(map(type, factors)):
        return None
    return Certificate(factors[0].dtype, torch.is_grad_enabled() and any(f.requires_grad for f in factors))


def host_reads() -> bool:
    """Whether nothing traces, maps or differentiates forward what PyTorch computes."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


def size_of(array: Array) -> float:
    """Frobenius norm on the host; as `Certificate.add`, of arrays that a certificate may be made for."""
    return math.sqrt(_square(array))


def _square(array: Array) -> float:
    """Square of the Frobenius norm on the host."""
    if type(array) is not np.ndarray:
        if array.numel() > LARGE_VECTOR and array.is_contiguous():
            flat = array.detach().reshape(-1)
            return float(torch.vdot(flat, flat).real)
        array = views([array])[0]
    return float(np.vdot(array, array).real)


def ordinary(size: float, dtype: Any) -> bool:
    """Whether squares of numbers of this size are far from the ends of the range."""
    _, _, largest = _limits(dtype)
    return 2.0 ** (-largest / 4) < size < 2.0 ** (largest / 4)


@cache
def _limits(dtype: Any) -> tuple[float, float, float]:
    """Binary logarithms of the smallest normal number, of the inverse precision and of the largest number."""
    limits = torch.finfo(dtype) if isinstance(dtype, torch.dtype) else np.finfo(dtype)
    # A product of complex numbers takes four of real ones.
    digits = (4 if "complex" in str(dtype) else 2) - math.log2(float(limits.eps))
    return math.log2(float(limits.tiny)), digits, math.log2(float(limits.max)) - 1
