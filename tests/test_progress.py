"""Progress where there is no terminal: lines, not one line over another."""

import io
import sys

from tqdm import tqdm

from htf import _progress
from htf._progress import Lines, bar_file


def bars(out, monkeypatch, seconds):
    """A bar of 100 steps, of which each takes so long."""
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with tqdm(total=100, file=Lines(out), mininterval=0, miniters=1, desc="fits") as bar:
        for _ in range(100):
            now[0] += seconds
            bar.update()
    return out.getvalue()


def test_a_bar_leaves_lines_that_become_rare(monkeypatch):
    text = bars(io.StringIO(), monkeypatch, 1.0)
    assert "\r" not in text
    assert text.endswith("\n")
    lines = text.splitlines()
    assert all(line.startswith("fits: ") for line in lines)
    assert len(set(lines)) == len(lines)
    # After 0, 0.5, 1, 2, 4, ... seconds, and at the end.
    assert [int(line.split("%")[0].split()[-1]) for line in lines] == [0, 1, 2, 4, 8, 16, 32, 64, 100]


def test_what_is_short_has_its_end_alone(monkeypatch):
    lines = bars(io.StringIO(), monkeypatch, 1e-4).splitlines()
    assert [line.split("|")[0].split()[-1] for line in lines] == ["0%", "100%"]


def test_a_terminal_is_written_to_itself(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert bar_file() is sys.stderr
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(bar_file(), Lines)
    assert not bar_file().isatty()
    with tqdm(total=1, disable=None, file=bar_file()) as bar:  # only where there is a terminal
        bar.update()
    assert sys.stderr.getvalue() == ""
