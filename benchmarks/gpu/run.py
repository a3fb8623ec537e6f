"""Stages one after another, each within its share of the time, each with a file of its own."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import htf
from htf._machine import describe_machine

# Share of the minutes, and the least seconds that a stage needs on a GPU (a tenth of it when tiny).
SHARES = {
    "limits": (0.04, 6.0),
    "tests": (0.22, 30.0),
    "probe": (0.23, 40.0),
    "dynamics": (0.10, 20.0),
    "tensors": (0.10, 15.0),
    "layers": (0.09, 15.0),
    "models": (0.10, 20.0),
    "long_range": (0.12, 20.0),
}
LEAST_MEMORY = 2 * 2**30  # bytes: the smallest probe batch with its graph, and CUDA's own
RUN = "run.json"


@dataclass
class Bench:
    """What a stage is given.

    Attributes
    ----------
    device : torch.device
    tiny : bool
        Smallest sizes.
    data_dir : Path or None
    deadline : float
        By `time.monotonic`.
    limits : dict
        Measured in the first stage: operations and bytes per second.
    """

    device: torch.device
    tiny: bool
    data_dir: Path | None
    out: Path
    deadline: float = 0.0
    limits: dict[str, float] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds left for this stage."""
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(text, flush=True)


Stage = Callable[[Bench], dict[str, Any]]


def run_all(options: argparse.Namespace) -> int:
    """Run the stages; see `main` for what is returned."""
    device = _device(options.device)
    out: Path = options.out
    _claim(out, options, device)
    bench = Bench(device, options.tiny, options.data_dir, out)
    if (out / "limits.json").exists():
        bench.limits = json.loads((out / "limits.json").read_text()).get("limits", {})
    end = time.monotonic() + 60 * options.minutes
    failed, skipped = [], []
    remaining = sum(SHARES[name][0] for name in options.only)
    for name in options.only:
        share, least = SHARES[name]
        left = end - time.monotonic()
        seconds = left * share / remaining  # what an earlier stage did not use goes to the later ones
        remaining -= share
        if seconds < (least / 10 if options.tiny else least):
            skipped.append(name)
            bench.say(f"{name}: skipped, {seconds:.0f} s are left for it and it needs {least:.0f}")
            continue
        bench.say(f"== {name}, {seconds:.0f} s at most")
        bench.deadline = time.monotonic() + seconds
        if not _run_one(name, bench):
            failed.append(name)
    _summary(out, options.only, skipped)
    if failed:
        bench.say(f"failed: {', '.join(failed)}")
    return 1 if failed else 3 if skipped else 0


def _run_one(name: str, bench: Bench) -> bool:
    stage: Stage = import_module(f".{name}", __package__).run
    began = time.perf_counter()
    content: dict[str, Any]
    try:
        content = stage(bench)
    except Exception as error:
        traceback.print_exc()
        content = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    content = {"ok": True, **content, "seconds": round(time.perf_counter() - began, 1)}
    if bench.device.type == "cuda":
        content["peak_GiB"] = round(torch.cuda.max_memory_allocated(bench.device) / 2**30, 2)
        torch.cuda.reset_peak_memory_stats(bench.device)
        torch.cuda.empty_cache()
    _write(bench.out / f"{name}.json", content)
    bench.say(f"== {name}: {'ok' if content['ok'] else 'FAILED'} in {content['seconds']} s")
    return bool(content["ok"])


def _write(path: Path, content: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit(
                f"--device is {name}, and torch {torch.__version__} finds no GPU; rehearse by --device cpu"
            )
        free = torch.cuda.mem_get_info(device)[0]
        if free < LEAST_MEMORY:
            raise SystemExit(
                f"--device {name} has {free / 2**30:.1f} GiB of free memory; the smallest batch needs "
                f"{LEAST_MEMORY / 2**30:.0f} GiB"
            )
    return device


def _claim(out: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Keep results of one source together: another's in the same folder are refused."""
    about = {
        "source_sha256": _digest(),
        "tiny": options.tiny,
        "machine": describe_machine(device),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["cuda"] = {"name": properties.name, "GiB": round(properties.total_memory / 2**30, 1)}
    path = out / RUN
    if path.exists():
        there = json.loads(path.read_text())
        for key in ("source_sha256", "tiny"):
            if there.get(key) != about[key]:
                raise SystemExit(
                    f"{out} holds results with {key} {there.get(key)}; here it is {about[key]}: take another --out"
                )
    out.mkdir(parents=True, exist_ok=True)
    _write(path, about)


def _digest() -> str:
    """Of the library's and this benchmark's source, how it takes times included."""
    found = hashlib.sha256()
    here = Path(__file__).parent
    for folder, pattern in ((Path(htf.__file__).parent, "*.py"), (here, "*.py"), (here.parent, "timing.py")):
        for path in sorted(folder.rglob(pattern)):
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def _summary(out: Path, names: list[str], skipped: list[str]) -> None:
    """A table of what every stage calls its figures."""
    lines = ["| stage | what | figure | limit, or of the CPU |", "|---|---|---|---|"]
    for name in names:
        path = out / f"{name}.json"
        if name in skipped or not path.exists():
            lines.append(f"| {name} | not run | | |")
            continue
        content = json.loads(path.read_text())
        if not content["ok"]:
            lines.append(f"| {name} | failed | {content.get('error', 'see the file')} | |")
        lines += [
            f"| {name} | {row['what']} | {row['figure']} | {row.get('limit', '')} |" for row in content.get("rows", [])
        ]
    text = "\n".join(lines) + "\n"
    (out / "summary.md").write_text(text)
    print(text, flush=True)
