"""The IDX format of MNIST: a magic number, the sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08
_MOST_DIMENSIONS = 32  # of NumPy's arrays, in every version
_CHUNK = 1 << 20
_DEFLATE = 1032  # bytes that one byte of a gzip file can become, at most


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
        the file.  Of a gzipped file no more is decompressed than the header declares.
    FileNotFoundError
        If there is none.

    See Also
    --------
    htf.datasets.load : MNIST and Fashion-MNIST with their labels, checked.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from htf.datasets import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "images-idx3-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)]))  # uint8, 2 axes, 2 by 3
    ...     read_idx(path)
    array([[0, 1, 2],
           [3, 4, 5]], dtype=uint8)
    """
    return parse_idx(read_content(Path(path)), str(path))


def read_content(path: Path) -> bytes:
    """The bytes of an IDX file, decompressed, no further than its header says, if it is gzipped."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return _read_as_declared(file, path, path.stat().st_size)
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) as plain:
                return _read_as_declared(plain, path, _DEFLATE * path.stat().st_size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error})") from error


def _read_as_declared(file: IO[bytes] | gzip.GzipFile, path: Path, most: int) -> bytes:
    """Header and as many bytes as it declares, and one more where there is one; `most` is what there can be at most."""
    start = file.read(4)
    shape = file.read(4 * start[3]) if _is_idx(start) else b""
    if not shape or len(shape) < 4 * start[3]:
        return start + shape + file.read(_CHUNK)  # for `parse_idx` to refuse
    left = math.prod(struct.unpack(f">{start[3]}I", shape)) + 1
    if left - 1 > most:
        raise ValueError(
            f"{path} is cut short: its header says {struct.unpack(f'>{start[3]}I', shape)}, which so small a file "
            "cannot hold"
        )
    parts = [start, shape]
    while left and (part := file.read(min(left, _CHUNK))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _is_idx(start: bytes) -> bool:
    return len(start) == 4 and start[:3] == bytes([0, 0, _UNSIGNED_BYTE]) and start[3] > 0


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
        raise ValueError(f"{name} is {state}: its header says {shape}, {expected} bytes, and {found} follow at least")
    if ndim > _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {ndim} dimensions; expected {_MOST_DIMENSIONS} at most")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
