"""Correctness on the device: every kind of object against float64 on the CPU, checkpoints across, synchronizations."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from .checks import Check, all_checks
from .limits import allowing_tf32
from .run import Bench
from .steps import synchronizations


def run(bench: Bench) -> dict[str, Any]:
    """Errors of all checks, and what makes training steps wait for the host."""
    rows, found = [], []
    modes = [(torch.float64, False), (torch.float32, False)]
    if bench.device.type == "cuda":
        modes.append((torch.float32, True))
    for dtype, tf32 in modes:
        worst, name_of_worst, count, failures = 0.0, "", 0, []
        for check in all_checks(bench.tiny):
            with allowing_tf32(tf32):
                entry = _one(check, bench.device, dtype, tf32)
            found.append(entry)
            count += 1
            if not entry["ok"]:
                failures.append(entry["name"])
                bench.say(f"  {entry}")
            elif entry["error"] / entry["allowed"] > worst:
                worst, name_of_worst = entry["error"] / entry["allowed"], entry["name"]
        kind = str(dtype).removeprefix("torch.") + (", TF32" if tf32 else "")
        figure = f"{count - len(failures)} of {count} agree"
        figure += f"; not {', '.join(failures)}" if failures else ""
        rows.append(
            {
                "what": f"values and gradients, {kind}",
                "figure": figure,
                "limit": f"closest: {name_of_worst}, {worst:.2f} of the error allowed",
            }
        )
    steps = synchronizations(bench)
    waiting = {name: why for name, why in steps.items() if why}
    figure = f"{len(steps) - len(waiting)} of {len(steps)} do not wait for the host"
    rows.append(
        {"what": "training steps", "figure": figure, "limit": "; ".join(f"{n}: {w}" for n, w in waiting.items())}
    )
    return {"ok": all(entry["ok"] for entry in found), "rows": rows, "checks": found, "synchronizations": steps}


def _one(check: Check, device: torch.device, dtype: torch.dtype, tf32: bool) -> dict[str, Any]:
    allowed = check.allowed(dtype, tf32)
    entry: dict[str, Any] = {"name": check.name, "dtype": str(dtype), "tf32": tf32, "allowed": allowed}
    try:
        expected = check.values(torch.device("cpu"), torch.float64)
        values = check.values(device, dtype)
    except Exception as error:
        traceback.print_exc()
        return {**entry, "ok": False, "error": f"{type(error).__name__}: {error}"}
    errors = [_error(a, b) for a, b in zip(values, expected, strict=True)]
    # NaN compares false with everything, so it is never within what is allowed.
    return {**entry, "error": max(errors), "ok": all(error <= allowed for error in errors)}


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().cpu().double(), expected.detach().double()
    size = float(expected.norm())
    return float((found - expected).norm()) / (size or 1.0)
