"""Arrays in npz archives of any origin, read no further than they declare and never unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from htf._files import replace_file

FORMAT = 1
SEAL = "seal"
_ENDING = ".npy"
# An array's header is at most so long, or it is none.
_LONGEST_HEADER = 10_000


Declared = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class Refused(ValueError):  # noqa: N818 (seen only where archives are read)
    """Raised by the check of `read_arrays`; its message goes on from the name of the file."""


def read_arrays(
    path: Path, wanted: Collection[str], check: Callable[[Collection[str], Declared], None]
) -> dict[str, NDArray[Any]]:
    """Plain arrays of an npz file.

    Parameters
    ----------
    path : Path
    wanted : collection of str
        Names of those to be read, where they are there; others are not decompressed.
    check : callable
        Of the names of all arrays, and the shapes and dtypes that the wanted ones declare, before any is decompressed;
        raises `Refused`.

    Returns
    -------
    dict of ndarray

    Raises
    ------
    ValueError
        If it is no such file, or damaged: one that could not be read without unpickling, or whose arrays are larger or
        smaller than their headers declare.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist()]
                if len(set(names)) < len(names):
                    raise ValueError("it holds two arrays of one name")
                arrays = [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]
                there = {name: archive.getinfo(f"{name}{_ENDING}") for name in wanted if name in arrays}
                check(arrays, {name: _read_header(archive, info)[:2] for name, info in there.items()})
                return {name: _read_array(archive, info) for name, info in there.items()}
        except Refused as error:
            raise ValueError(f"{path} {error}") from None
        except Exception as error:  # whatever parsers meet: zip, compression, encodings, NumPy's headers, memory
            why = str(error) or type(error).__name__
            raise ValueError(f"{path} is not an npz file of plain arrays, or is damaged ({why})") from error


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, dtype, whether the first index runs fastest, and where the entries begin."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{info.filename} has version {version}; expected 1.0 or 2.0")
        shape, fortran_order, dtype = read(file, _LONGEST_HEADER)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which would have to be unpickled")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + size != info.file_size:
        raise ValueError(
            f"{info.filename} declares {shape} of {dtype}, {size:,} bytes; {info.file_size - start:,} follow"
        )
    return shape, dtype, fortran_order, start


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    shape, dtype, fortran_order, start = _read_header(archive, info)
    with archive.open(info) as file:
        file.read(start)
        # No more than was declared; at its end zipfile compares the checksum.
        content = file.read(info.file_size - start)
    flat: NDArray[Any] = np.frombuffer(content, dtype=dtype, count=math.prod(shape))
    return flat.reshape(shape[::-1]).T.copy() if fortran_order else flat.reshape(shape).copy()


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file with a seal, the number of its format and a checksum, beside `path`, then rename."""
    seal = json.dumps({"format": FORMAT, "sha256": _digest(arrays)})

    def write(partial: Path) -> None:
        # As an open file: NumPy would add an ending to a name.
        with partial.open("wb") as file:
            np.savez(file, **{**arrays, SEAL: np.array(seal)})  # type: ignore[arg-type]

    replace_file(path, write)


def check_seal(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compare what `read_arrays` read with the seal of `write_arrays`.

    Raises
    ------
    ValueError
        If it has another format, or another content than was written.
    """
    try:
        seal = json.loads(str(arrays[SEAL]))
        number, sha256 = seal["format"], seal["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it has no valid seal ({error})") from error
    if type(number) is not int or number != FORMAT:
        raise ValueError(f"{path} has format {number!r}; this version of htf reads format {FORMAT}")
    if _digest({name: array for name, array in arrays.items() if name != SEAL}) != sha256:
        raise ValueError(f"{path} is damaged: its content does not match its checksum")


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256(str(FORMAT).encode())
    for name, array in sorted(arrays.items()):
        found.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
