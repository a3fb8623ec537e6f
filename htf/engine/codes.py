"""Sums over the leaf rows met as matrix products with codes of zeros and ones, at the full precision of float32.

A matrix unit multiplies bfloat16 numbers many times faster than float32, and adds the products in float32.  Zeros and
ones are exact in bfloat16, and a float32 number is the sum of three bfloat16 numbers: so three fast products give what
a slow one would.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htf.engine.steps import Codes

# bfloat16 numbers of 8 bits in one float32 number of 24.
PARTS = 3
# Since torch 2.8 such products can be had in float32.
_WIDE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)


def coded_sum(x: Tensor, codes: Codes, transpose: bool) -> Tensor:
    """Sums of leaf rows, (table rows, columns) to (nodes * rows, columns), or the transpose of that."""
    code, leaves = codes.code, codes.leaves
    if not transpose:
        return _product(code, x.index_select(0, leaves.flatten()).unflatten(0, leaves.shape)).flatten(0, 1)
    of_leaves = _product(code.mT, x.unflatten(0, (len(code), -1))).flatten(0, 1)
    # Every leaf row belongs to one node: what is added are zeros of columns that no leaf has.
    return x.new_zeros(codes.table_rows, x.shape[1]).index_add_(0, leaves.flatten(), of_leaves)


def _product(code: Tensor, x: Tensor) -> Tensor:
    """(nodes, m, n) codes times (nodes, n, columns)."""
    if x.device.type != "cuda" or x.dtype != torch.float32 or not _WIDE:
        return torch.bmm(code.to(x.dtype), x)
    total, rest = None, x
    for part_number in range(PARTS):
        part = rest.bfloat16()
        product = torch.bmm(code, part, out_dtype=torch.float32)
        total = product if total is None else total.add_(product)
        if part_number < PARTS - 1:
            rest = rest - part
    assert total is not None
    return total
