"""Products of very many leaf factors, as sums of logarithms: one matrix product for all of them.

Magnitudes and signs are carried apart.  A factor that is exactly zero has no logarithm: it is left out of the
sum, and the result is zero where a sample meets one.  Where a sample meets exactly one, the gradient with respect
to that factor is the product of all the others, as it must be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from htf.engine.plan import Lookup, OneHot


def one_hot_product(table: Tensor, inputs: OneHot) -> tuple[Tensor, Tensor]:
    """Products of leaf rows by centred one-hot codes.

    Parameters
    ----------
    table : Tensor
        (table rows, runs, width), the leaf matrices end to end.
    inputs : OneHot
        Codes of shape (nodes, rows, columns).

    Returns
    -------
    value, log_scale : Tensor
        (nodes * rows, runs, width), and (nodes * rows, runs) to be carried.
    """
    flat = table.flatten(1)
    nodes = inputs.code.shape[0]
    code = inputs.code.to(flat.dtype)
    weights = inputs.mean_weights.to(flat.dtype)

    def total(x: Tensor, exact: bool = False) -> Tensor:
        """Sum of per-row quantities over the factors that each sample meets."""
        terms = x.index_select(0, inputs.mean_rows) * weights[:, None]
        # The constant is a sum over all modes: double precision keeps it as exact as one term.
        terms = terms.double() if exact else terms
        constant = terms.new_zeros(nodes, x.shape[1]).index_add(0, inputs.mean_node, terms).to(x.dtype)
        difference = x[inputs.value_rows] - x[inputs.base_rows]
        return torch.baddbmm(constant[:, None], code, difference).flatten(0, 1)

    value, log_scale = _signed_exp(flat, total, table.shape[1:])
    return value, log_scale


def lookup_product(table: Tensor, inputs: Lookup) -> tuple[Tensor, Tensor]:
    """Products of leaf rows that are looked up and summed, for modes with many values.

    Parameters and returns as in `one_hot_product`, with row numbers (nodes * rows, modes) for codes.
    """

    def total(x: Tensor, exact: bool = False) -> Tensor:
        return embedding_bag(inputs.index, x, mode="sum")

    return _signed_exp(table.flatten(1), total, table.shape[1:])


def _signed_exp(flat: Tensor, total, shape: torch.Size) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    zero = flat == 0
    any_zero = bool(zero.any())
    magnitude = flat.abs().masked_fill(zero, 1) if any_zero else flat.abs()
    logs = total(magnitude.log(), exact=True).unflatten(1, shape)
    with torch.no_grad():
        log_scale = logs.amax(-1)
        log_scale = torch.where(log_scale.isfinite(), log_scale, torch.zeros_like(log_scale))
    value = (logs - log_scale.unsqueeze(-1)).exp().flatten(1)
    with torch.no_grad():
        negative = flat < 0
        # Most fits start positive and stay so: count signs only for the columns that have any.
        columns = negative.any(0).nonzero().squeeze(1)
        sign = None
        if len(columns):
            met = total(negative[:, columns].to(flat.dtype)).round()
            sign = torch.ones_like(value)
            sign[:, columns] = 1 - 2 * (met % 2)
    if sign is not None:
        value = value * sign
    if any_zero:
        with torch.no_grad():
            met = total(zero.to(flat.dtype)).round()
        # The zero factors themselves: their sum is zero, and carries the gradient where just one is met.
        lone = total(torch.where(zero, flat, torch.zeros_like(flat)))
        value = torch.where(met == 0, value, torch.where(met == 1, value * lone, torch.zeros_like(value)))
    return value.unflatten(1, shape), log_scale
