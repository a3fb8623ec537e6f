"""The IDX format of MNIST: a magic number, the sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray of uint8
        With the shape that the header gives.

    Raises
    ------
    ValueError
        If the file is not IDX, holds another type, or is shorter or longer than its header says; the message names
        the file.
    FileNotFoundError
        If there is none.
    """
    return parse_idx(read_content(Path(path)), str(path))


def read_content(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is gzipped."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error})") from error


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Parse the content of an IDX file; `name` is for messages."""
    if len(content) < 4:
        raise ValueError(f"{name} holds {len(content)} bytes; an IDX file begins with a magic number of 4")
    zeros, kind, ndim = struct.unpack(">HBB", content[:4])
    if zeros != 0 or ndim == 0:
        raise ValueError(f"{name} begins with {content[:4]!r}; that is not the magic number of an IDX file")
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"{name} holds IDX type 0x{kind:02x}; expected unsigned bytes (0x08)")
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"{name} is cut short within its header")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    expected, found = math.prod(shape), len(content) - start
    if found != expected:
        state = "cut short" if found < expected else "too long"
        raise ValueError(f"{name} is {state}: its header says {shape}, {expected} bytes, and {found} follow")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
