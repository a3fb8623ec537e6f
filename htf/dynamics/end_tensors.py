"""End tensors of all runs, written out where they are small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from htf.nn import Factorization

# Entries of the largest tensors that are written out: ten runs of (8, 8, 8, 8) then take 8 ms on one core, where their
# factors, taken apart run by run and node by node in small operations, take 23 ms.
LARGEST = 2**14


def is_small(network: Factorization) -> bool:
    """Whether the tensor of a run is small enough to be written out."""
    return math.prod((*network.dims, network.outputs)) <= LARGEST


def check_written_out(tracker: str, network: Factorization) -> None:
    """Raise a ValueError for a tensor that is too large to be written out, of a factorization on no tree."""
    if not is_small(network):
        raise ValueError(
            f"{tracker} of a {type(network).__name__}, which is on no tree, are those of its tensors written out; they "
            f"have {math.prod((*network.dims, network.outputs)):,} entries, expected at most {LARGEST:,}"
        )


def written_out(network: Factorization) -> Tensor:
    r"""The tensors of all runs in float64 on the CPU, (\*dims, runs, outputs)."""
    indices = torch.cartesian_prod(*(torch.arange(dim, device=network.device) for dim in network.dims))
    double = {name: parameter.double() for name, parameter in network.named_parameters()}
    # torch.cartesian_prod of one mode is flat.
    entries: Tensor = torch.func.functional_call(network, double, (indices.view(-1, network.order),))
    return entries.view(*network.dims, network.runs, -1).cpu()
