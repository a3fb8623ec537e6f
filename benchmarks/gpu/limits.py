"""What the device can do at most: matrix products and copies, measured before anything is compared with them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.speed.timing import seconds_of

from .run import Bench


def run(bench: Bench) -> dict[str, Any]:
    """Operations per second of square matrix products, and bytes read and written per second by a copy."""
    size = 256 if bench.tiny else 8192 if bench.device.type == "cuda" else 1024
    found: dict[str, float] = {}
    kinds: list[tuple[str, torch.dtype, bool]] = [("float32", torch.float32, False), ("float64", torch.float64, False)]
    if bench.device.type == "cuda":
        kinds += [("tf32", torch.float32, True), ("bfloat16", torch.bfloat16, False)]
    for name, dtype, tf32 in kinds:
        with allowing_tf32(tf32):
            generator = torch.Generator().manual_seed(0)
            a, b = (torch.randn(size, size, generator=generator).to(bench.device, dtype) for _ in range(2))
            c = torch.empty_like(a)
            found[f"{name}_per_s"] = 2 * size**3 / seconds_of(partial(torch.mm, a, b, out=c), bench.device)
    cells = 2**20 if bench.tiny else 2**28
    source = torch.rand(cells, device=bench.device)
    target = torch.empty_like(source)
    found["bytes_per_s"] = 8 * cells / seconds_of(lambda: target.copy_(source), bench.device)
    tick = torch.zeros((), device=bench.device)
    found["launch_s"] = seconds_of(lambda: [tick.add_(1) for _ in range(100)], bench.device) / 100
    bench.limits = found
    rows = [
        {"what": f"matrix products, {name}", "figure": f"{found[f'{name}_per_s'] / 1e12:.3g} Tflop/s"}
        for name, *_ in kinds
    ]
    rows.append({"what": "copy, read and written", "figure": f"{found['bytes_per_s'] / 1e9:.4g} GB/s"})
    rows.append({"what": "launch of a small operation", "figure": f"{found['launch_s'] * 1e6:.1f} us"})
    return {"limits": found, "rows": rows}


class allowing_tf32:  # noqa: N801 (used as a context, like torch's own)
    """Let float32 matrix products and convolutions use TensorFloat-32, or not, and put the settings back."""

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.allowed

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before
