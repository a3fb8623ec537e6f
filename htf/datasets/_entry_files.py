"""Entries in a user's own files, checked row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from htf._tables import integer_in, number_in
from htf.datasets._archives import SEAL, Declared, Refused, check_seal, read_arrays
from htf.datasets._arguments import check_shape, is_number
from htf.datasets._entries import entry_numbers
from htf.tree import DimensionTree


@dataclass(frozen=True)
class Entries:
    """Content of a file, unchecked but for its form."""

    path: Path
    indices: NDArray[np.int64]
    values: NDArray[np.float64]
    place: Callable[[int], str]  # how a message calls a row
    shape: tuple[int, ...] | None = None
    observed: int | None = None  # where the file has a split: its first rows
    tree: DimensionTree | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_csv(path: Path) -> Entries:
    """Entries of a CSV file: the indices, then the value, an optional header."""
    indices: list[list[int]] = []
    values: list[float] = []
    lines: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for number, row in enumerate(row for row in reader if row):
                line = f"{path} line {reader.line_num}"
                if number == 0:
                    width = len(row)
                    if not any(map(_like_a_number, row)):
                        continue
                if len(row) != width:
                    raise ValueError(f"{line} has {len(row)} fields; the first row has {width}")
                indices.append([_index(text, line, mode) for mode, text in enumerate(row[:-1])])
                if (value := number_in(row[-1])) is None:
                    raise ValueError(f"{line} has the value {row[-1]!r}; expected a number")
                values.append(value)
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text file with comma-separated values ({error})") from error
    if not values:
        raise ValueError(f"{path} holds no entries")
    return Entries(path, np.array(indices, dtype=np.int64), np.array(values), lambda row: f"line {lines[row]}")


def _like_a_number(text: str) -> bool:
    """Whether a field of the first row shows that it is no header; "1_0" and "٣" are refused where they are read."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _index(text: str, line: str, mode: int) -> int:
    index = integer_in(text)
    if index is None:
        raise ValueError(f"{line} has the index {text!r} of mode {mode}; expected an integer")
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"{line} has the index {text!r} of mode {mode}, out of range")
    return index


_SAVED = ("indices", "values", "test_indices", "test_values", "shape", "about")


def read_npz(path: Path) -> Entries:
    """Entries of an npz file, nothing of which is unpickled."""
    arrays = read_arrays(path, (*_SAVED, SEAL), _check_arrays)
    if SEAL in arrays:
        check_seal(path, arrays)
    indices, values = _arrays(path, arrays, "")
    shape = None
    if "shape" in arrays:
        if arrays["shape"].ndim != 1 or arrays["shape"].dtype.kind not in "iu":
            raise ValueError(f"{path} has a shape {arrays['shape']!r}; expected one integer per mode")
        shape = check_shape(arrays["shape"].tolist(), f"the shape in {path}")
    if "test_indices" not in arrays:
        if not len(values):
            raise ValueError(f"{path} holds no entries")
        return Entries(path, indices, values, lambda row: f"row {row}", shape)
    test_indices, test_values = _arrays(path, arrays, "test_")
    if test_indices.shape[1] != indices.shape[1]:
        raise ValueError(f"{path} has indices of {indices.shape[1]} modes and test_indices of {test_indices.shape[1]}")
    count = len(values)
    if not count:
        raise ValueError(f"{path} holds no observed entries")
    tree, settings = _about(path, arrays, indices.shape[1])
    return Entries(
        path,
        np.concatenate([indices, test_indices]),
        np.concatenate([values, test_values]),
        lambda row: f"row {row}" if row < count else f"row {row - count} of test_indices",
        shape,
        count,
        tree,
        settings,
    )


def _check_arrays(names: Collection[str], declared: Declared) -> None:
    for name in ("indices", "values"):
        if name not in names:
            raise Refused(f"has the arrays {', '.join(names) or 'none'}; expected indices and values")
    if "about" in names and not set(names) <= {*_SAVED, SEAL}:
        raise Refused(f"is damaged: it has the arrays {', '.join(names)}")
    for prefix in ("", "test_"):
        indices, values = (declared[f"{prefix}{name}"][0] if f"{prefix}{name}" in declared else None for name in _PAIR)
        if indices is not None and values is not None and (len(indices) != 2 or values != indices[:1]):
            raise Refused(
                f"has {prefix}indices of shape {indices} and {prefix}values of shape {values}; "
                "expected (m, order) and (m,)"
            )


_PAIR = ("indices", "values")


def _arrays(path: Path, arrays: Mapping[str, NDArray[Any]], prefix: str) -> tuple[NDArray[Any], NDArray[Any]]:
    for name in (f"{prefix}indices", f"{prefix}values"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}")
    indices, values = arrays[f"{prefix}indices"], arrays[f"{prefix}values"]
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{path} has {prefix}indices of dtype {indices.dtype}; expected integers")
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{path} has {prefix}values of dtype {values.dtype}; expected real numbers")
    return indices.astype(np.int64), values.astype(np.float64)


def _about(
    path: Path, arrays: Mapping[str, NDArray[Any]], order: int
) -> tuple[DimensionTree | None, Mapping[str, Any]]:
    """Tree and settings of a saved problem."""
    if "about" not in arrays:
        return None, {}
    try:
        about = json.loads(str(arrays["about"]))
        return DimensionTree(order, about["children"]), dict(about["settings"])
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_entries(entries: Entries, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape, after checks that entries fit it, are finite, and come once."""
    path, indices, values, place = entries.path, entries.indices, entries.values, entries.place
    if (indices < 0).any():
        row, mode = (int(k) for k in np.argwhere(indices < 0)[0])
        raise ValueError(f"{path} {place(row)} has the index {indices[row, mode]} of mode {mode}; expected 0 or more")
    if shape is None:
        shape = check_shape((indices.max(0) + 1).tolist(), f"the shape of the entries in {path}")
    if len(shape) != indices.shape[1]:
        raise ValueError(f"shape is {shape}; {path} has indices of {indices.shape[1]} modes")
    high = np.argwhere(indices >= np.array(shape))
    if len(high):
        row, mode = (int(k) for k in high[0])
        raise ValueError(
            f"{path} {place(row)} has the index {indices[row, mode]} of mode {mode}, whose dimension is {shape[mode]}"
        )
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{path} {place(row)} has the value {values[row]}; expected a finite number")
    keys = entry_numbers(indices, shape)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    repeated = first[inverse.reshape(-1)] != np.arange(len(keys))
    if repeated.any():
        row = int(np.argmax(repeated))
        before = int(first[inverse.reshape(-1)[row]])
        same = "the same value" if values[row] == values[before] else f"{values[row]} for {values[before]}"
        raise ValueError(
            f"{path} {place(row)} has the indices {tuple(indices[row].tolist())} of {place(before)} again, with {same}"
        )
    return shape


def testing_count(fraction: float, total: int, path: Path) -> int:
    """How many of the entries are for testing."""
    if not (is_number(fraction) and 0 < fraction < 1):
        raise ValueError(f"test_fraction is {fraction!r}; expected between 0 and 1")
    tested = round(fraction * total)
    if not 0 < tested < total:
        part = "testing" if not tested else "fitting"
        raise ValueError(f"test_fraction is {fraction}; of {total} entries it leaves none for {part} in {path}")
    return tested
