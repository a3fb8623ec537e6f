"""Where bars of progress are written: over each other on a terminal, below each other anywhere else."""

from __future__ import annotations

import io
import sys
import time
from typing import Any, TextIO

_FIRST, _LAST = 0.5, 60.0  # seconds between lines, at first and in the end


def bar_file() -> Any:
    """Standard error for tqdm's ``file``, or what makes lines of its bars where that is no terminal."""
    out = sys.stderr
    return out if out is None or out.isatty() else Lines(out)


class Lines(io.TextIOBase):
    """A file that gets a line now and then in place of what would be written over the line before.

    Logs of hours stay short: the time between lines doubles from half a second to a minute.  The last state is always
    written.

    Parameters
    ----------
    out : TextIO
    """

    def __init__(self, out: TextIO) -> None:
        self._out, self._state, self._written = out, "", ""
        self._next, self._wait = 0.0, _FIRST

    def write(self, text: str) -> int:
        # A bar ends with a line feed, or, where it is not to stay, with blanks.
        self._state = text.rpartition("\r")[2].strip() or self._state
        now, ends = time.monotonic(), text.endswith("\n")
        if self._state != self._written and (ends or now >= self._next):
            self._out.write(self._state + "\n")
            self._out.flush()
            self._written, self._next = self._state, now + self._wait
            self._wait = min(2 * self._wait, _LAST)
        return len(text)

    def flush(self) -> None:
        self._out.flush()
