"""Contractions of labelled tensors in the order of fewest operations that opt_einsum finds, kept per shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import opt_einsum  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

Labels = tuple[int, ...]
Shape = tuple[int, ...]


@lru_cache(maxsize=4096)
def _planned(inputs: tuple[Labels, ...], output: Labels, shapes: tuple[Shape, ...]) -> tuple[Callable[..., Any], int]:
    terms = ["".join(map(opt_einsum.get_symbol, labels)) for labels in (*inputs, output)]
    equation = ",".join(terms[:-1]) + "->" + terms[-1]
    # Dynamic programming finds the best order without outer products, in milliseconds for a dozen tensors.
    path, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="dp")
    cost = int(info.opt_cost) if len(inputs) > 1 else 0
    return opt_einsum.contract_expression(equation, *shapes, optimize=path), cost


def contract(tensors: Sequence[Tensor], inputs: tuple[Labels, ...], output: Labels) -> Tensor:
    """The sum over all labels that are not in `output`; gradients flow."""
    expression, _ = _planned(inputs, output, tuple(tuple(tensor.shape) for tensor in tensors))
    result: Tensor = expression(*tensors)
    return result


def operations(shapes: tuple[Shape, ...], inputs: tuple[Labels, ...], output: Labels) -> int:
    """Multiplications and additions of `contract`, as opt_einsum counts them."""
    return _planned(inputs, output, shapes)[1]
