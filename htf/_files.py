"""Writing files so that a crash, a kill or a full disk leaves the previous state in place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside `path`, then rename."""

    def write(partial: Path) -> None:
        with partial.open("w") as file:
            json.dump(content, file, indent=1)

    _replace(path, write)


def write_text(path: Path, content: str) -> None:
    """Write text beside `path`, then rename."""
    _replace(path, lambda partial: partial.write_text(content, newline=""))


def read_json(path: Path) -> Any:
    """Read JSON, naming the file if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what is to be known about them in one safetensors file, beside, then rename."""
    # Copies, as the format refuses tensors that share memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    _replace(path, lambda partial: save_file(plain, partial, {"about": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote; nothing in the file is executed."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a checkpoint of this library, or is cut short ({error})") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot write {path} ({error}); what was saved before is kept") from error
    finally:
        partial.unlink(missing_ok=True)
