"""A fingerprint of tensors, to tell whether two fits are the same."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of all entries."""
    found = hashlib.sha256()
    for tensor in tensors:
        # Flat, as a tensor without axes has no last one to be seen as bytes.
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
