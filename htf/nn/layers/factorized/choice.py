"""Tensor formats of weights: what factors there are, which contraction of them is the weight, how to find them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt, prod
from typing import Any

from htf._checks import positive
from htf.nn.layers.factorized._base import Format
from htf.nn.layers.factorized._routes import linear_times
from htf.nn.layers.factorized.cp import CPFormat
from htf.nn.layers.factorized.ht import HTFormat, paired_tree, pairs
from htf.nn.layers.factorized.matrix import MatrixFormat
from htf.nn.layers.factorized.tt import TTFormat
from htf.nn.layers.factorized.tucker import TuckerFormat
from htf.tree import DimensionTree

NAMES = ("matrix", "cp", "tucker", "tt", "ht")
Shape = tuple[tuple[int, ...], tuple[int, ...]]
DEFAULT = 3  # balanced modes a side
_SMALLEST = 4  # mode that a shape is chosen to have
_ENOUGH = 0.95  # of the dimension of the set of tensors with balanced modes
_BATCH = 64  # for which times are estimated


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


def check_shape(name: str, shape: object, out_features: int, in_features: int, share: float | None = None) -> Shape:
    """Modes of outputs and of inputs: as given, so many balanced ones, or those of the quickest step for a share."""
    if name == "matrix":
        if shape is not None:
            raise ValueError(f"shape is {shape}; expected None for format 'matrix', which has two modes")
        return (out_features,), (in_features,)
    if shape is None:
        if share is not None:
            return quickest_shape(name, out_features, in_features, share)
        shape = DEFAULT
    if isinstance(shape, int) and not isinstance(shape, bool):
        modes = positive("shape", shape)
        return balanced_factors(out_features, modes), balanced_factors(in_features, modes)
    if not (isinstance(shape, Sequence) and len(shape) == 2 and all(isinstance(s, Sequence) and s for s in shape)):
        raise ValueError(f"shape is {shape!r}; expected ((out_1, ...), (in_1, ...)) or a number of modes")
    outs, ins = (tuple(positive(f"shape[{side}][{k}]", n) for k, n in enumerate(s)) for side, s in enumerate(shape))
    for what, dims, features in (("out_features", outs, out_features), ("in_features", ins, in_features)):
        if prod(dims) != features:
            raise ValueError(f"shape has {dims}, which multiply to {prod(dims)}; {what} is {features}")
    return outs, ins


def balanced_factors(number: int, count: int = DEFAULT) -> tuple[int, ...]:
    """`count` factors above 1 in rising order whose sum is least; fewer where there are fewer prime factors."""
    if count == 1 or number == 1:
        return (number,)
    splits = [
        (first, *rest)
        for first in _divisors(number)
        for rest in [balanced_factors(number // first, count - 1)]
        if first <= rest[0]
    ]
    # Least of the longest.
    return min(splits, key=lambda split: (-len(split), sum(split)), default=(number,))


@lru_cache(maxsize=1024)
def quickest_shape(name: str, out_features: int, in_features: int, share: float) -> Shape:
    """Choose the modes of the quickest step, among tensors that can hold as much with a share of the matrix's numbers.

    Candidates have two modes a side, of at least `_SMALLEST` where the number allows it, since smaller ones make the
    tensor a matrix; or `DEFAULT` balanced modes, whose dimension of the set of tensors is what the others have to have.
    """
    balanced = balanced_factors(out_features), balanced_factors(in_features)
    size = share * out_features * in_features
    best, needed = balanced, 0.0
    least: float | None = None
    for shape in dict.fromkeys([balanced, *_two_a_side(name, out_features, in_features)]):
        layout = matrix_format(name, shape)
        rank = layout.of_size(size)
        if rank is None:
            continue
        freedom = layout.freedom(rank)
        if shape == balanced:
            needed = _ENOUGH * freedom
        time = min(linear_times(layout, rank, len(shape[0]), _BATCH).values())
        if freedom >= needed and (least is None or time < least):
            best, least = shape, time
    return best


def _two_a_side(name: str, out_features: int, in_features: int) -> list[Shape]:
    # The larger mode of the inputs is the last, along which they lie in memory.  A train has a single bond between the
    # pairs, and holds most where these are of like sizes; the others are better with the small modes in one pair.
    step = -1 if name == "tt" else 1
    return [(outs[::step], ins) for outs in _splits(out_features) for ins in _splits(in_features)]


def _splits(number: int) -> list[tuple[int, ...]]:
    """In two factors: the least and the most balanced ones, and those between."""
    small = [n for n in _divisors(number) if n >= _SMALLEST] or list(balanced_factors(number, 2)[:-1])
    chosen = sorted({small[0], small[len(small) // 2], small[-1]}) if small else []
    return [(n, number // n) for n in chosen] or [(number,)]


def _divisors(number: int) -> list[int]:
    """From 2 to the square root."""
    return [n for n in range(2, isqrt(number) + 1) if number % n == 0]
