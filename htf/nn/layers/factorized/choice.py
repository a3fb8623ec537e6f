"""Tensor formats of weights: what factors there are, which contraction of them is the weight, how to find them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from htf._checks import positive
from htf.nn.layers.factorized._base import Format
from htf.nn.layers.factorized.cp import CPFormat
from htf.nn.layers.factorized.ht import HTFormat, paired_tree, pairs
from htf.nn.layers.factorized.matrix import MatrixFormat
from htf.nn.layers.factorized.tt import TTFormat
from htf.nn.layers.factorized.tucker import TuckerFormat
from htf.tree import DimensionTree

NAMES = ("matrix", "cp", "tucker", "tt", "ht")
Shape = tuple[tuple[int, ...], tuple[int, ...]]


def check_format(name: object) -> str:
    """The name of a format that there is."""
    if not isinstance(name, str):
        raise TypeError(f"format is {name!r}; expected one of {', '.join(NAMES)}")
    if name not in NAMES:
        raise ValueError(f"format is {name!r}; expected one of {', '.join(NAMES)}")
    return name


def matrix_format(name: str, shape: Shape) -> Format:
    """The format of a linear layer's weight over the modes (out_1, ..., out_k, in_1, ..., in_k)."""
    dims = shape[0] + shape[1]
    if name == "matrix":
        return MatrixFormat(dims)
    if name == "cp":
        return CPFormat(dims)
    if name == "tucker":
        return TuckerFormat(dims)
    if name == "ht":
        return HTFormat(dims, paired_tree(shape))
    outs = range(len(shape[0]))
    sites = tuple(pairs([outs, range(len(outs), len(dims))]))
    # One core would be the matrix itself.
    return TTFormat(dims, sites if len(sites) > 1 else ((0,), (1,)))


def kernel_format(name: str, dims: tuple[int, ...]) -> Format:
    """The format of a convolution's kernel over the modes (out, in, and one per axis: rows and columns in 2-D)."""
    if name == "matrix":
        return MatrixFormat(dims)
    if name == "cp":
        return CPFormat(dims)
    if name == "tucker":
        return TuckerFormat(dims)
    if name == "ht":
        extent: Any = 2
        for mode in range(3, len(dims)):
            extent = (extent, mode)
        return HTFormat(dims, DimensionTree.from_nested(((0, 1), extent)))
    # The channels at the ends, where their cores are convolutions of 1×1.
    return TTFormat(dims, ((0,), *((mode,) for mode in range(2, len(dims))), (1,)))


def check_shape(name: str, shape: Any, out_features: int, in_features: int) -> Shape:
    """Modes of outputs and of inputs, as given or balanced ones."""
    if name == "matrix":
        if shape is not None:
            raise ValueError(f"shape is {shape}; expected None for format 'matrix', which has two modes")
        return (out_features,), (in_features,)
    if shape is None:
        return balanced_factors(out_features), balanced_factors(in_features)
    if not (isinstance(shape, Sequence) and len(shape) == 2 and all(isinstance(s, Sequence) and s for s in shape)):
        raise ValueError(f"shape is {shape!r}; expected ((out_1, ...), (in_1, ...))")
    outs, ins = (tuple(positive(f"shape[{side}][{k}]", n) for k, n in enumerate(s)) for side, s in enumerate(shape))
    for what, dims, features in (("out_features", outs, out_features), ("in_features", ins, in_features)):
        if prod(dims) != features:
            raise ValueError(f"shape has {dims}, which multiply to {prod(dims)}; {what} is {features}")
    return outs, ins


def balanced_factors(number: int) -> tuple[int, ...]:
    """Three factors above 1 in rising order whose sum is least; two or one where there are no more prime factors."""
    splits = [
        (first, second, number // first // second)
        for first in _divisors(number)
        for second in _divisors(number // first)
        if first <= second <= number // first // second
    ]
    if splits:
        return min(splits, key=sum)
    pairs_of = [(first, number // first) for first in _divisors(number)]
    return min(pairs_of, key=sum) if pairs_of else (number,)


def _divisors(number: int) -> list[int]:
    """From 2 to the square root."""
    return [n for n in range(2, int(number**0.5) + 1) if number % n == 0]
