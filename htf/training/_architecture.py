"""Description of any model by its modules and the shapes of its parameters."""

from __future__ import annotations

import re
from typing import Any

from torch import nn


def architecture(model: nn.Module) -> dict[str, Any]:
    """What a model is made of, as far as its modules tell, and the shapes of its parameters."""
    modules = {f"module {name}".strip(): _telling(module) for name, module in model.named_modules()}
    return modules | {f"shape of {name}": list(p.shape) for name, p in model.named_parameters()}


def _telling(module: nn.Module) -> str:
    name = type(module).__name__
    # These say where their parameters are.
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return name
    # An address in memory would differ in the next process.
    return re.sub(r" at 0x\w+", "", f"{name}({module.extra_repr()})")
