"""The arrangement benchmark, on a few digits."""

import json
import sys
import types

import numpy as np
import pandas
import pytest

from benchmarks.arrangement.__main__ import _correlation, main
from benchmarks.arrangement.data import permuted
from benchmarks.arrangement.jobs import distance, places

FEW = ["--data", "digits", "--seeds", "0", "--train", "60", "--test", "40", "--no-progress"]


def test_a_run_leaves_tables_and_goes_on_where_it_was(tmp_path, capsys):
    options = [*FEW, "--epochs", "1", "--measured", "20", "--arrangements", "given", "correlation"]
    main([*options, "--networks", "line", "--out", str(tmp_path)])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*.json")}
    assert len(files) == 2
    main([*options, "--networks", "line", "grid", "attention", "ht", "--out", str(tmp_path)])
    assert "(8 rows)" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "rank_correlation" in json.dumps(summary)


def test_distances(tmp_path):
    main([*FEW, "--distances", "--arrangements", "given", "random", "correlation", "--out", str(tmp_path)])
    text = (tmp_path / "distances.json").read_text()
    table = permuted("digits", 60, 40, 0, None, None)
    assert distance(places(table, "given", 0)[1], table) == 1
    assert distance(places(table, "random", 0)[1], table) > 3.5
    assert '"distance": 1.0' in text


def test_the_given_order_undoes_the_permutation():
    table = permuted("digits", 60, 40, 0, None, None)
    order, grid, tree = places(table, "given", 0)
    np.testing.assert_array_equal(table.permutation[grid].ravel(), np.arange(64))
    assert tree.find([order[k] for k in (0, 1, 8, 9)]) is not None


def test_rank_correlations_are_within_data_and_networks():
    rows = [
        {"data": data, "network": "line", "test_accuracy": 0.1 * k + base, "entanglement": base - k}
        for data, base in (("a", 0.0), ("b", 5.0))
        for k in range(5)
    ]
    found = _correlation(rows)
    assert found["value"] == pytest.approx(-1)
    assert found["low"] <= found["high"] < -0.9


def test_sets_of_mlbench_are_read_from_a_local_file(monkeypatch):
    frame = pandas.DataFrame({"V1": ["0", "1"] * 15, "V2": range(30), "Class": ["ei", "ie", "n"] * 10})
    fake = types.SimpleNamespace(read_rda=lambda path: {path.stem: frame})
    monkeypatch.setitem(sys.modules, "rdata", fake)
    table = permuted("dna", 10, 5, 0, None, "folder")
    assert table.x.shape == (10, 2)
    assert table.test_x.shape == (5, 2)
    assert set(table.y) <= {0, 1, 2}
    with pytest.raises(FileNotFoundError, match="--mlbench"):
        permuted("dna", 10, 5, 0, None, None)
