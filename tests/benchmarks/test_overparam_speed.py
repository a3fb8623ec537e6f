"""The cost of over-parameterized layers, measured on a few small images."""

import pytest

from benchmarks.speed import overparam as speed
from htf._files import read_json

SMALL = ["--sizes", "8", "--batch-size", "2", "--turns", "1", "--steps", "1", "--threads", "1"]


def test_every_side_is_timed(tmp_path, capsys):
    speed.main([*SMALL, "--depths", "3", "--no-memory", "--json", str(tmp_path / "speed.json")])
    rows = read_json(tmp_path / "speed.json")["rows"]
    sides = [(row["what"], row["depth"]) for row in rows]
    assert sides == [("plain", 1), ("effective weight", 3), ("chain", 3)]
    assert rows[0]["ratio"] == 1
    assert all(row["ms"] > 0 for row in rows)
    assert rows[0]["parameters"] < rows[1]["parameters"] == rows[2]["parameters"]
    assert "effective weight  depth 3" in capsys.readouterr().out


def test_memory_of_one_side(capsys):
    speed.main([*SMALL, "--depths", "2", "--memory-of", "chain"])
    assert int(capsys.readouterr().out) >= 0


def test_a_checkout_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match="is not a checkout"):
        speed.main([*SMALL, "--overparam", str(tmp_path / "none")])
