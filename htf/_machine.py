"""Where results are computed: checks of devices, and what a result says of the machine that made it."""

from __future__ import annotations

import platform
from typing import Any

import numpy
import tensorly
import torch

from htf._version import __version__


def usable_device(device: torch.device | str) -> torch.device:
    """The device of a name, or a ValueError that says why it cannot be used."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        # torch's first line says which devices there are, or why this one is not.
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return found


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions, as JSON can hold them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "versions": {
            "htf": __version__,
            "torch": torch.__version__,
            "tensorly": tensorly.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
    }
