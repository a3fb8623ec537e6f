"""Training and evaluation modes of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluated(model: object) -> Iterator[None]:
    """Evaluation mode, if it is a module; afterwards each of its modules has its own mode again."""
    if not isinstance(model, nn.Module):
        yield
        return
    whole, modes = model.training, [(module, module.training) for module in model.modules()]
    try:
        # By its own methods, which may do more than to set a flag.
        model.eval()
        yield
    finally:
        model.train(whole)
        for module, mode in modes:
            module.training = mode
