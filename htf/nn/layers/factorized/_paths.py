"""Contractions of labelled tensors in the order of fewest operations that opt_einsum finds, kept per shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import opt_einsum  # type: ignore[import-untyped,unused-ignore]
import torch
from torch import Tensor

from htf.nn.layers.drop_in import own_precision

Labels = tuple[int, ...]
Shape = tuple[int, ...]

_EXACT = 12  # tensors up to which the best order is searched; the time grows exponentially
# Operations in the time that it takes to read or write a number, and to call one product with its gradients: fitted to
# training steps of layers of 64 to 784 features on one core (least squares of relative errors), and rounded.
_MOVED, _CALL = 50, 2_000_000


class Count(NamedTuple):
    """Cost of contractions of pairs.

    Attributes
    ----------
    operations : int
        Multiplications and additions.
    moved : int
        Numbers read and written.
    products : int
        Pairs.
    """

    operations: int
    moved: int
    products: int

    @property
    def time(self) -> int:
        """Estimate in the time of an operation."""
        return self.operations + _MOVED * self.moved + _CALL * self.products

    def __add__(self, other: Any) -> Count:
        return Count(*(mine + its for mine, its in zip(self, other, strict=True)))


@lru_cache(maxsize=4096)
def _planned(inputs: tuple[Labels, ...], output: Labels, shapes: tuple[Shape, ...]) -> tuple[Callable[..., Any], Count]:
    equation = _equation(inputs, output)
    # Dynamic programming finds the best order without outer products, in milliseconds for a dozen tensors.
    search = "dp" if len(inputs) <= _EXACT else "auto"
    path, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=search)
    moved = sum(
        prod(info.size_dict[symbol] for symbol in term)
        for step in info.contraction_list
        for term in step[2].replace("->", ",").split(",")
    )
    several = len(inputs) > 1
    count = Count(int(info.opt_cost), moved, len(info.contraction_list)) if several else Count(0, 0, 0)
    return opt_einsum.contract_expression(equation, *shapes, optimize=path), count


def _equation(inputs: tuple[Labels, ...], output: Labels) -> str:
    terms = ["".join(map(opt_einsum.get_symbol, labels)) for labels in (*inputs, output)]
    return ",".join(terms[:-1]) + "->" + terms[-1]


def contract(tensors: Sequence[Tensor], inputs: tuple[Labels, ...], output: Labels) -> Tensor:
    """The sum over all labels that are not in `output`, in the dtype of the tensors also under autocast."""
    with own_precision(tensors[0].device.type):
        if torch.compiler.is_compiling() or not all(isinstance(n, int) for tensor in tensors for n in tensor.shape):
            # The search for an order cannot be compiled; torch has one of its own.
            return torch.einsum(_equation(inputs, output), *tensors)
        expression, _ = _planned(inputs, output, tuple(tuple(tensor.shape) for tensor in tensors))
        result: Tensor = expression(*tensors)
    return result


def count(shapes: tuple[Shape, ...], inputs: tuple[Labels, ...], output: Labels) -> Count:
    """Cost of `contract`, as opt_einsum counts it."""
    return _planned(inputs, output, shapes)[1]


def operations(shapes: tuple[Shape, ...], inputs: tuple[Labels, ...], output: Labels) -> int:
    """Multiplications and additions of `contract`."""
    return count(shapes, inputs, output).operations
