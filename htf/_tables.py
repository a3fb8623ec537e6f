"""Tables of results as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from htf._files import write_text


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows beside `path`, then rename; columns that a row lacks stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(
    path: Path, numbers: Iterable[str], texts: Iterable[str] = (), *, may_be_missing: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of a CSV, with numbers, or None, where they are expected.

    Raises
    ------
    ValueError
        If there are no rows, a column is not there, or a number is none.
    """
    numbers, texts = list(dict.fromkeys(numbers)), list(texts)
    with path.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows to plot")
    for name in (*texts, *numbers):
        if name not in rows[0]:
            raise ValueError(f"{path} has no column {name}; expected {', '.join((*texts, *numbers))}")
    for number, row in enumerate(rows, 2):
        for name in numbers:
            try:
                row[name] = None if row[name] == "" and name in may_be_missing else float(row[name])
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {number}: {name} is {row[name]!r}; expected a number") from None
    return rows
