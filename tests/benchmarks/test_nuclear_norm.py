"""The benchmark of nuclear norms and small starts, on few entries; its convex programs against what is known."""

import csv
import math

import numpy as np
import pytest

from benchmarks.nuclear_norm import __main__ as nuclear_norm
from benchmarks.nuclear_norm.convex import least_nuclear_norm
from htf.datasets import tensor_completion


def test_many_entries_of_a_matrix_of_low_rank_are_completed_exactly():
    problem = tensor_completion((12, 12), "matrix", rank=1, observed=110, norm=12, seed=0)
    found = least_nuclear_norm(problem)
    np.testing.assert_allclose(found, problem.target.numpy(), atol=1e-4)


def test_of_all_matrices_with_the_entries_none_has_a_smaller_norm():
    problem = tensor_completion((6, 5), "matrix", rank=2, observed=14, norm=6, seed=1)
    found = least_nuclear_norm(problem)
    observed = tuple(problem.indices.numpy().T)
    np.testing.assert_allclose(found[observed], problem.values.numpy(), atol=1e-5)
    least = np.linalg.norm(found, "nuc")
    assert least < np.linalg.norm(problem.target.numpy(), "nuc")
    free = np.ones(found.shape)
    free[observed] = 0
    generator = np.random.default_rng(0)
    for _ in range(50):
        other = found + 0.1 * free * generator.standard_normal(found.shape)
        assert np.linalg.norm(other, "nuc") > least - 1e-5


def test_tensors_have_the_sum_over_all_modes():
    problem = tensor_completion((4, 3, 3), "cp", rank=1, observed=33, norm=6, seed=0)
    np.testing.assert_allclose(least_nuclear_norm(problem), problem.target.numpy(), atol=1e-3)


@pytest.mark.parametrize("teacher", ["matrix", "cp"])
def test_a_run_leaves_a_table_and_a_figure(teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(nuclear_norm.SHAPES, teacher, (5,) * len(nuclear_norm.SHAPES[teacher]))
    arguments = ["--teachers", teacher, "--observed", "20", "--starts", "1e-2", "--steps", "100", "--seeds", "0:1"]
    nuclear_norm.main([*arguments, "--no-progress", "--out", str(tmp_path)])
    with (tmp_path / nuclear_norm.TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    depths = [0, *nuclear_norm.DEPTHS[teacher]]
    assert [int(row["depth"]) for row in rows] == sorted(depths * 2)
    for row in rows:
        assert math.isfinite(float(row["error"]))
        assert 1 <= int(row["rank"]) <= 5
    assert float(rows[0]["train_loss"]) < 1e-8
    assert (tmp_path / nuclear_norm.FIGURE).stat().st_size > 1000


def test_a_start_of_zero_is_refused(capsys):
    with pytest.raises(SystemExit):
        nuclear_norm._options(["--starts", "0"])
    assert "expected above 0" in capsys.readouterr().err
