"""Tables of results as CSV files.

A CSV is for spreadsheets and other programs, so its checksum lies in a file beside it, TABLE.csv.sha256, which
``sha256sum --check`` reads too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from htf._files import read_bytes, write_text

FORMAT = 1
_HEAD = "# htf table, format "
# As Python and spreadsheets write numbers; float() would also read "1_0" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows beside `path`, then rename; columns that a row lacks stay empty.  Its checksum goes beside it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue()
    after = hashlib.sha256(content.encode()).hexdigest()
    # Between the two files the table may be the old one or the new one: for so long both are right.
    before = [hashlib.sha256(read_bytes(path)).hexdigest()] if path.exists() else []
    _write_checksums(path, [*before, after])
    write_text(path, content)
    if before:
        _write_checksums(path, [after])


def read_table(
    path: Path, numbers: Iterable[str], texts: Iterable[str] = (), *, may_be_missing: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of a CSV, with numbers, or None, where they are expected.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its checksum is beside it and does not match; if it is no text, there are no rows, a column is not there or
        twice, a row is longer or shorter than the header, or a number is none.  The message names file and line.
    """
    numbers, texts = list(dict.fromkeys(numbers)), list(texts)
    content = read_bytes(path)
    if not _is_whole(path, content):
        raise ValueError(
            f"{path} is damaged: it does not match its checksum; delete {checksum_of(path).name} if it was edited"
        )
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text file with comma-separated values ({error})") from error
    if len(lines) < 2:
        raise ValueError(f"{path} has no rows to plot")
    (_, names), *rest = lines
    for name in (*texts, *numbers):
        if names.count(name) != 1:
            often = "no" if name not in names else f"{names.count(name)} times the"
            raise ValueError(f"{path} has {often} column {name}; expected {', '.join((*texts, *numbers))}")
    rows: list[dict[str, Any]] = []
    for number, fields in rest:
        row: dict[str, Any] = dict.fromkeys(names) | dict(zip(names, fields, strict=False))
        for name in numbers:
            text = row[name]
            row[name] = None if text is None else number_in(text)
            if row[name] is None and not (text == "" and name in may_be_missing):
                raise ValueError(f"{path}, line {number}: {name} is {text!r}; expected a number")
        if len(fields) != len(names):
            raise ValueError(f"{path}, line {number}: it has {len(fields)} fields; the header has {len(names)}")
        rows.append(row)
    return rows


def number_in(text: str) -> float | None:
    """The number that a field of a CSV holds, as plain digits of ASCII; None if it holds something else."""
    text = text.strip(" ")
    return float(text) if _NUMBER.fullmatch(text) else None


def integer_in(text: str) -> int | None:
    """The integer that a field of a CSV holds, "3" or, as NumPy writes it among floats, "3.000e+00"; None if none."""
    text = text.strip(" ")
    if re.fullmatch(r"[+-]?\d{1,400}", text, re.ASCII):
        return int(text)
    number = number_in(text)
    return int(number) if number is not None and math.isfinite(number) and number.is_integer() else None


def checksum_of(path: Path) -> Path:
    """Where the checksum of a table is."""
    return path.with_name(f"{path.name}.sha256")


def _write_checksums(path: Path, checksums: list[str]) -> None:
    lines = "".join(f"{checksum}  {path.name}\n" for checksum in checksums)
    write_text(checksum_of(path), f"{_HEAD}{FORMAT}\n{lines}")


def _is_whole(path: Path, content: bytes | None = None) -> bool:
    """Whether a table matches the checksum beside it; one without, of another origin, is taken as it is."""
    beside = checksum_of(path)
    if not beside.exists():
        return True
    head, *lines = read_bytes(beside).decode(errors="replace").splitlines() or [""]
    if not head.startswith(_HEAD):
        raise ValueError(f"{beside} is damaged: it does not begin with {_HEAD!r}")
    if head != f"{_HEAD}{FORMAT}":
        raise ValueError(f"{beside} has the format {head.removeprefix(_HEAD)!r}; this version of htf reads {FORMAT}")
    found = hashlib.sha256(read_bytes(path) if content is None else content).hexdigest()
    return any(line.split("  ")[0] == found for line in lines)
