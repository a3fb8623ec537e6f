"""Products of very many leaf factors, as sums of logarithms: one matrix product for all of them.

Magnitudes and signs are carried apart.  A factor that is exactly zero has no logarithm: it is left out of the
sum, and the result is zero where a sample meets one.  Where a sample meets exactly one, the gradient with respect
to that factor is the product of all the others, as it must be.  (Second derivatives with respect to two factors that
are both exactly zero come out as zero.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from htf.engine.steps import Lookup, OneHot


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
        (nodes * rows, runs, width) of the size of 1, and (nodes * rows, runs), constant.
    """
    code, mean = inputs.code.to(table.dtype), inputs.mean.to(table.dtype)

    def total(x: Tensor) -> Tensor:
        """Sum of per-row quantities over the factors that each sample meets."""
        shared = (mean @ x).unsqueeze(1)
        difference = x.index_select(0, inputs.values.flatten()) - x.index_select(0, inputs.bases.flatten())
        return torch.baddbmm(shared, code, difference.unflatten(0, inputs.values.shape)).flatten(0, 1)

    return _signed_exp(table, total)


def lookup_product(table: Tensor, inputs: Lookup) -> tuple[Tensor, Tensor]:
    """Products of leaf rows that are looked up and summed, for modes with many values.

    Parameters and returns as in `one_hot_product`, with row numbers (nodes * rows, modes) for codes.
    """

    def total(x: Tensor) -> Tensor:
        return embedding_bag(inputs.index, x, mode="sum")

    return _signed_exp(table, total)


def _signed_exp(table: Tensor, total: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Products as exponentials of summed logarithms, with signs and zeros put back."""
    flat, shape = table.flatten(1), table.shape[1:]
    # Most fits start positive and stay so; one reduction tells.
    positive = bool(flat.detach().min() > 0)
    zero = None if positive else flat == 0
    magnitude = flat if positive else flat.abs().masked_fill(flat == 0, 1)
    logs = total(magnitude.log()).unflatten(1, shape)
    log_scale = logs.detach().squeeze(-1) if shape[-1] == 1 else logs.detach().amax(-1)
    value = (logs - log_scale.unsqueeze(-1)).exp().flatten(1)
    if zero is not None:
        value = value * _signs(flat, total, value)
        if bool(zero.any()):
            with torch.no_grad():
                met = total(zero.to(flat.dtype)).round()
            # The zero factors themselves: their sum is zero, and carries the gradient where just one is met.
            lone = total(torch.where(zero, flat, torch.zeros_like(flat)))
            none = torch.zeros_like(value)
            value = torch.where(met == 0, value, torch.where(met == 1, value * lone, none))
    return value.unflatten(1, shape), log_scale


@torch.no_grad()
def _signs(flat: Tensor, total: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Parity of the negative factors met, counted only for the columns that have any."""
    negative = flat < 0
    columns = negative.any(0).nonzero().squeeze(1)
    signs = torch.ones_like(like)
    if len(columns):
        met = total(negative[:, columns].to(flat.dtype)).round()
        signs[:, columns] = 1 - 2 * (met % 2)
    return signs
