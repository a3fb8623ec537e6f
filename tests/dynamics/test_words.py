"""Sentences on what a study found, from the numbers of its table."""

from dataclasses import replace

import pytest

import htf
from htf.dynamics._words import _of_start
from htf.dynamics.studies import ScaleSummary

ROW = ScaleSummary(0.003, "node 4", 10, 9, (5, 6), 2e-4, 0.1, (1e-3, 1e-4, 2e-3), 1e-9)


@pytest.mark.parametrize(
    ("rows", "planted", "said"),
    [
        (
            [ROW, replace(ROW, group="node 5", exact=8, risen=(4, 5), overlap=0.2, rest=3e-3)],
            5,
            "From starts of 0.003: 4 to 6 components at each of 2 nodes rose within 3,000 steps, one after another "
            "(overlap 0.20), where 5 were planted; in 8 of 10 seeds exactly as many, all others below 3e-03 of the "
            "largest. Mean test error 1.0e-03.",
        ),
        (
            [replace(ROW, exact=0, risen=(3, 3), overlap=0.8)],
            5,
            "From starts of 0.003: 3 components rose within 3,000 steps, together (overlap 0.80), where 5 were "
            "planted. Mean test error 1.0e-03.",
        ),
        (
            [replace(ROW, exact=0, risen=(1, 1))],
            1,
            "From starts of 0.003: 1 component rose within 3,000 steps, where 1 was planted. Mean test error 1.0e-03.",
        ),
    ],
)
def test_a_start_has_a_sentence(rows, planted, said):
    assert _of_start(rows, planted, 3000) == said


def test_each_start_has_one():
    small = {"dim": 8, "rank": 1, "depth": 2, "observed": 48, "seeds": range(2), "lr": 0.05, "steps": 200}
    lines = htf.dynamics.study("mf", init_std=(1e-3, 0.5), **small).in_words().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["From starts of 0.001", "From starts of 0.5"]
    assert "in 2 of 2 seeds exactly as many" in lines[0]
    assert "exactly" not in lines[1]
