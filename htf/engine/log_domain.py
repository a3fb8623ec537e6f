"""Products of very many leaf factors, as sums of logarithms, right for factors of every size.

Logarithms, to base 2, are taken relative to that of each mode's most frequent value, whose sum is constant and computed
in double precision: what is summed row by row is small, and so is its rounding error.  Where a factor is far from the
frequent one, whole multiples of some octaves are counted apart, in sums of integers, and so are signs and zeros.

The gradient of a factor is the sum, over the rows that meet it, of upstream gradient times product, divided by the
factor.  These rows alone are added, see `htf.engine.patterns`; and where products differ much, they are added at a
scale at which they cannot underflow, as the product of the others may be of ordinary size where that of all is not.

A factor that is exactly zero has no logarithm: it is left out of the sum, and the result is zero where a sample meets
one.  Where a sample meets exactly one, the gradient with respect to that factor is the product of all the others, as it
must be.  (Second derivatives with respect to two factors that are both exactly zero come out as zero.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from htf.engine.codes import coded_sum
from htf.engine.gather import bound_once
from htf.engine.steps import Bags, Patterns
from htf.engine.tracing import values_at_hand, values_known, values_worth_a_wait

# Logarithms that are summed lie within so many octaves of the frequent one; the rest is counted.
OCTAVES = 8
# Products of a row need no scale of their own unless they are smaller than the largest by more octaves than this.
ALIKE = 40
# Octaves between the largest term of a gradient's sums and the largest float: room for the sum.
HEADROOM = 38
# Octaves by which a product without its factors of zero may exceed the scale of its row.
LARGEST_SHIFT = 100
# On a GPU, where looking makes the host wait: products from which on the work that it spares takes longer.
WORTH_A_WAIT = 2**22


def met_product(table: Tensor, inputs: Patterns, least: float = -math.inf) -> tuple[Tensor, Tensor]:
    """Products of the leaf rows that each row of a step meets.

    Parameters
    ----------
    table : Tensor
        (table rows, runs, width), the leaf matrices end to end.
    inputs : Patterns
        Which leaf rows are met.
    least : float
        The smallest exponent to take out of a row: values of rows that are smaller then stay small.

    Returns
    -------
    value, exponent : Tensor
        (nodes * rows, runs, width), the largest of each row and run of the size of 1, and (nodes * rows, runs),
        constant whole numbers: the products are value * 2^exponent.
    """
    if table.dtype in (torch.float16, torch.bfloat16):
        value, exponent = met_product(table.float(), inputs, least)
        return value.to(table.dtype), exponent.to(table.dtype)
    flat, shape = table.flatten(1), table.shape[1:]
    at_hand = _can_look(flat, inputs)
    # Most fits start positive and stay so; one reduction tells.
    positive = at_hand and bool(flat.detach().min() > 0)
    zero = None if positive else flat.detach() == 0
    empty = None
    if zero is not None and at_hand:
        empty = _empty_columns(zero, shape[-1])
        if empty is not None:
            # As columns of others, for a scale, and as zeros in the end.
            flat = torch.where(empty, table.detach()[..., :1].expand_as(table).flatten(1), flat)
            positive, zero = bool(flat.detach().min() > 0), None
        elif not bool(zero.any()):
            zero = None
    if zero is None:
        value, _, _, _, exponent = _Met.apply(flat, None, inputs, shape[-1], least, positive)  # type: ignore[no-untyped-call]
        return (value if empty is None else value.masked_fill(empty, 0)).unflatten(1, shape), exponent
    others, _, _, met, exponent = _Met.apply(  # type: ignore[no-untyped-call]
        torch.where(zero, 1, flat), zero, inputs, shape[-1], least, False
    )
    # The zero factors themselves: their sum is zero, and carries the gradient where just one is met.
    lone = _SumOfZeros.apply(torch.where(zero, flat, 0), inputs)  # type: ignore[no-untyped-call]
    value = torch.where(met == 0, others, torch.where(met == 1, others * lone, 0))
    return value.unflatten(1, shape), exponent


def _empty_columns(zero: Tensor, width: int) -> Tensor | None:
    """Marks of the columns of zeros alone, as of runs of fewer components than others, if there are no other zeros."""
    empty = zero.all(0)
    if not bool(empty.any()) or bool(empty[::width].any()) or not torch.equal(zero.any(0), empty):
        return None
    return empty


@bound_once
class _Sum(torch.autograd.Function):
    """Sums over the leaf rows met, (table rows, columns) to (rows, columns), or the transpose of that."""

    @staticmethod
    def forward(x: Tensor, inputs: Patterns, transpose: bool) -> Tensor:
        if inputs.dense is not None:
            return coded_sum(x, inputs.dense, transpose)
        first, *last = [inputs.pieces, inputs.leaves] if transpose else [inputs.patterns, *inputs.rows]
        x = _added(first, x.contiguous())
        total = _added(last[0], x)
        for bags in last[1:]:
            total += _added(bags, x)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        _, ctx.inputs, ctx.transpose = inputs

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _Sum.apply(grad, ctx.inputs, not ctx.transpose), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info, in_dims, x, inputs, transpose):  # type: ignore[no-untyped-def]
        # Columns are summed apart: a batch is more of them.
        columns = x.movedim(in_dims[0], 1).flatten(1)
        return _Sum.apply(columns, inputs, transpose).unflatten(1, (info.batch_size, -1)), 1  # type: ignore[no-untyped-call]


@bound_once
class _SumOfZeros(torch.autograd.Function):
    """`_Sum` of zeros, which needs no additions forward; its gradient is that of `_Sum`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, inputs: Patterns) -> Tensor:
        return x.new_zeros(len(inputs.rows[0].starts), x.shape[1])

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.inputs = inputs[1]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _summed(grad, ctx.inputs, True), None


@bound_once
class _Met(torch.autograd.Function):
    """Products of factors that are not zero, (table rows, runs * width) to (rows, runs * width).

    Returns the values, relative to 2^exponent; the products as signed numbers of the size of 1, and the octaves from
    them to the values (None for both, where values differ little); how many of the factors marked by `zero` each
    product has (None, where none is marked); and the exponents, (rows, runs).  Marked factors must be 1.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        flat: Tensor, zero: Tensor | None, inputs: Patterns, width: int, least: float, positive: bool
    ):
        split = _split(flat, zero, inputs, positive)
        shape = (inputs.nodes, -1, flat.shape[1] // width, width)  # nodes, rows, runs, width
        summed = _summed(torch.cat(split.parts, 1) if len(split.parts) > 1 else split.parts[0], inputs, False)
        sums, *counts = summed.split([part.shape[1] for part in split.parts], 1) if len(split.parts) > 1 else [summed]
        sums = sums.view(shape)
        common = split.common.view(inputs.nodes, 1, *shape[2:])
        whole = common.round()
        rest = (common - whole).to(flat.dtype)
        whole = whole.to(flat.dtype)
        if not counts and (alike := _alike(sums, whole, rest, least)) is not None:
            value, exponent = alike
            return value.view(-1, flat.shape[1]), None, None, None, exponent.flatten(2).flatten(0, 1)
        sums = sums + rest
        octaves = sums.round()
        unit = sums.sub_(octaves).exp2_()
        octaves += whole
        met = None
        if counts:
            far, marks = (
                _all_columns(count, columns, flat.shape[1]).view(shape)
                for count, columns in zip(counts, split.columns, strict=True)
            )
            octaves = octaves + OCTAVES * far
            met = (marks / split.mark).floor()
            unit = unit * (1 - 2 * (marks - split.mark * met).remainder(2))
        exponent = _largest(octaves, met).clamp(min=least)
        shift = octaves - exponent
        unit, shift = unit.view(-1, flat.shape[1]), shift.view(-1, flat.shape[1])
        met = None if met is None else met.view(-1, flat.shape[1])
        return unit * shift.exp2(), unit, shift, met, exponent.flatten(2).flatten(0, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        flat, zero, *ctx.options = inputs
        value, unit, shift, met, exponent = output
        ctx.mark_non_differentiable(*(t for t in (shift, met, exponent) if t is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(flat, zero, value if unit is None else unit, shift)

    @staticmethod
    def backward(ctx, of_value, of_unit, _shift, _met, _exponent):  # type: ignore[no-untyped-def]
        flat, zero, unit, shift = ctx.saved_tensors
        inputs = ctx.options[0]
        if torch.is_grad_enabled():
            # To be differentiated once more, as a function of the factors.
            value, unit, *_ = _Met.apply(flat, zero, *ctx.options)  # type: ignore[no-untyped-call]
            unit = value if unit is None else unit
        grads = []
        if of_value is not None:
            terms = of_value * unit
            grads.append(_of_alike(terms, flat, inputs) if shift is None else _of_factors(terms, shift, flat, inputs))
        if of_unit is not None:
            grads.append(_of_alike(of_unit * unit, flat, inputs))
        return (sum(grads) if grads else None), *[None] * 5


def _alike(sums: Tensor, whole: Tensor, rest: Tensor, least: float) -> tuple[Tensor, Tensor] | None:
    """Values and exponents where the products of no row and run differ by many octaves, nor from 2^least; or None."""
    if sums.shape[-1] == 1:
        octaves, of_run = sums + rest, whole
        largest = octaves.round()
        octaves -= largest
    else:
        of_run = whole.amax(-1, keepdim=True)
        octaves = sums + (rest + (whole - of_run))
        largest = octaves.amax(-1, keepdim=True).round_()
        octaves -= largest
        if not bool(octaves.min() > -ALIKE):
            return None
    exponent = largest + of_run
    if least > -math.inf and not bool(exponent.min() >= least):
        return None
    return octaves.exp2_(), exponent


def _summed(x: Tensor, inputs: Patterns, transpose: bool) -> Tensor:
    # Nothing will differentiate this where gradients are off, and a bare call takes half the time.
    if torch.is_grad_enabled() or not values_known(x):
        return _Sum.apply(x, inputs, transpose)  # type: ignore[no-untyped-call]
    return _Sum.forward(x, inputs, transpose)


def _added(bags: Bags, x: Tensor) -> Tensor:
    # The function of torch.nn.functional checks its arguments, which takes as long as a small sum.
    return torch.embedding_bag(x, bags.index, bags.starts, mode=0)[0]


def _of_alike(terms: Tensor, flat: Tensor, inputs: Patterns) -> Tensor:
    """Gradients of the factors: sums of terms over the rows that meet a factor, divided by it."""
    return _summed(terms, inputs, True) / flat


def _of_factors(terms: Tensor, shift: Tensor, flat: Tensor, inputs: Patterns) -> Tensor:
    """`_of_alike` for terms * 2^shift, which are added in each column at the scale of the largest."""
    with torch.no_grad():
        info = torch.finfo(flat.dtype)
        least = math.log2(info.tiny)
        largest = terms.abs().log2_().add_(shift).amax(0).round_().clamp(min=least)
        lift = math.log2(info.max) - HEADROOM - largest
        # Each power in two steps, as it may be beyond all floats where the result is not.
        there = ((shift + lift) / 2).clamp(max=-least).exp2_()
        exponent = flat.abs().log2_().floor_().clamp(least, -least)
        half = ((lift + exponent) / 2).floor_()
        back, rest = (-half).exp2_(), (half - lift - exponent).exp2_()
        inverse = (-exponent).exp2_()
    summed = _summed(terms * there * there, inputs, True)
    return summed / (flat * inverse) * back * rest


@dataclass(frozen=True)
class _Split:
    """Logarithms of factors in parts that are summed as columns of one table.

    `parts` has the logarithms themselves, and, unless all are of ordinary size and sign, for some of the columns how
    many times OCTAVES were left out of them, and the marks of negative factors, 1, and of zeros, `mark`.
    """

    parts: list[Tensor]
    columns: tuple[Tensor | None, Tensor | None]  # of the second and third part; None for all
    common: Tensor  # (nodes, columns) double: sums over the frequent values
    mark: int


def _split(flat: Tensor, zero: Tensor | None, inputs: Patterns, positive: bool) -> _Split:
    logs = (flat if positive else flat.abs()).double().log2()
    common = logs.index_select(0, inputs.common.flatten()).unflatten(0, inputs.common.shape).sum(1)
    logs = logs - logs.index_select(0, inputs.base)
    mark = 2 ** (inputs.arity + 1).bit_length()
    at_hand = _can_look(flat, inputs)
    if at_hand and positive and bool(logs.abs().max() <= OCTAVES):
        return _Split([logs.to(flat.dtype)], (None, None), common, mark)
    far = (logs / OCTAVES).round()
    logs = logs - OCTAVES * far
    marks = (flat < 0).to(flat.dtype)
    if zero is not None:
        marks = marks + mark * zero
    parts, columns = [logs.to(flat.dtype)], []
    for part in (far.to(flat.dtype), marks):
        # NaN is not zero either.
        columns.append(part.bool().any(0).nonzero().squeeze(1) if at_hand else None)
        parts.append(part[:, columns[-1]] if at_hand else part)
    return _Split(parts, tuple(columns), common, mark)  # type: ignore[arg-type]


def _can_look(flat: Tensor, inputs: Patterns) -> bool:
    """Check whether values may decide what is computed."""
    if values_at_hand(flat):
        return True
    many = inputs.dense is not None and inputs.dense.rows * flat.shape[1] >= WORTH_A_WAIT
    return many and values_worth_a_wait(flat)


def _all_columns(counts: Tensor, columns: Tensor | None, n_columns: int) -> Tensor:
    return counts if columns is None else counts.new_zeros(len(counts), n_columns).index_copy(1, columns, counts)


def _largest(octaves: Tensor, met: Tensor | None) -> Tensor:
    """The largest exponent of each row and run, (nodes, rows, runs, 1), of products without zeros where that can be."""
    largest = octaves.amax(-1, keepdim=True)
    if met is None or octaves.shape[-1] == 1:
        return largest
    other = octaves.masked_fill(met > 0, -math.inf).amax(-1, keepdim=True)
    return torch.where(other == -math.inf, largest, other.maximum(largest - LARGEST_SHIFT))
