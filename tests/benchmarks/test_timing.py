"""How speed scripts take times, and how they import peers."""

import sys
import time

import numpy
import pytest
import torch

from benchmarks.speed import timing
from benchmarks.speed.peers import importable

CPU = torch.device("cpu")


def test_sides_take_turns():
    calls = []
    sides = [lambda: calls.append("a"), lambda: calls.append("b")]
    found = timing.take_turns(sides, turns=3, steps=2, device=CPU)
    assert "".join(calls) == "a" * timing.WARM + "b" * timing.WARM + "aabb" * 3
    assert found[0]["ratio"] == 1
    assert all(each["ms"] > 0 for each in found)


def test_a_race_is_of_the_shortest_repetition(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def side(name, seconds):
        def call():
            calls.append(name)
            now[0] += seconds[min(calls.count(name), len(seconds)) - 1]

        return call

    single = timing.race([side("a", [4.0, 1.0, 2.0]), side("b", [0.5, 0.25, 0.5])], repeats=3)
    assert single == [1.0, 0.25]
    assert "".join(calls) == "ababab"
    calls.clear()
    # A repetition lasts as long as asked for, by the calls before it.
    assert timing.race([side("c", [0.25]), side("d", [2.0])], repeats=2, seconds=1.0) == [0.25, 2.0]
    assert "".join(calls) == "cc" + "dd" + ("cccc" + "d") * 2


def test_times_of_single_calls_are_medians(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call():
        calls.append(1)
        # Slow at first, and one round of the three is disturbed.
        now[0] += 9.0 if len(calls) == 1 else 7.0 if len(calls) == 4 else 0.1

    assert timing.seconds_of(call, CPU, budget=0.6, rounds=3) == pytest.approx(0.1)
    assert len(calls) == 2 + 3 * 2
    assert timing.kernels_of(call, CPU) is None


def test_peers_are_imported_from_their_checkout_and_forgotten(tmp_path):
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name / "common").mkdir(parents=True)
        (tmp_path / name / "common" / "__init__.py").write_text(f"import numpy\nVALUE = numpy.int({value})\n")
    for name, value in (("one", 1), ("two", 2)):
        with importable(tmp_path / name):
            import common

            assert value == common.VALUE
        assert "common" not in sys.modules
        assert str(tmp_path / name) not in sys.path
    assert not hasattr(numpy, "int")
    with pytest.raises(SystemExit, match="nowhere is not a checkout"), importable(tmp_path / "nowhere"):
        pass
