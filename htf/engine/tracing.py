"""Tests of whether the values of tensors may decide what is done next."""

from __future__ import annotations

import torch
from torch import Tensor


def values_known(tensor: Tensor) -> bool:
    """Whether the values can be looked at: not while `torch.compile` or `torch.export` traces, nor under `vmap`."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return True


def values_worth_a_wait(tensor: Tensor) -> bool:
    """Whether the host may wait for values on a GPU: known, and not while a CUDA graph is captured."""
    return values_known(tensor) and not (tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def values_at_hand(tensor: Tensor) -> bool:
    """Whether looking at the values costs nothing: known, and not on a GPU, which the host would wait for."""
    return tensor.device.type == "cpu" and values_known(tensor)
