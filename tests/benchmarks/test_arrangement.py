"""The arrangement benchmark, on a few digits."""

import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas
import pytest

from benchmarks.arrangement import fetch
from benchmarks.arrangement.__main__ import main
from benchmarks.arrangement.data import permuted
from benchmarks.arrangement.jobs import distance, places
from benchmarks.arrangement.plots import plot_accuracies
from benchmarks.arrangement.summary import rank_correlation

FEW = ["--data", "digits", "--seeds", "0", "--train", "60", "--test", "40", "--no-progress"]


def test_a_run_leaves_tables_and_goes_on_where_it_was(tmp_path, capsys):
    options = [*FEW, "--epochs", "1", "--measured", "20", "--arrangements", "given", "correlation"]
    options += ["--widths", "4", "--out", str(tmp_path)]
    main([*options, "--networks", "line"])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*.json")}
    assert len(files) == 2
    main([*options, "--networks", "line", "grid", "attention", "ht"])
    assert "(8 rows)" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["means"]) == 8
    # The tree of images in the given order joins four at a time; the others are binary.
    assert summary["rank_correlation"]["all"] is None
    assert [ax.get_title() for ax in plot_accuracies(tmp_path / "summary.json").axes] == ["digits"]
    assert (tmp_path / "arrangement.png").stat().st_size > 0
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no means of arrangements"):
        plot_accuracies(tmp_path / "other.json")


def test_settings_are_chosen_on_a_part_of_the_training_samples(tmp_path, capsys):
    options = [*FEW, "--epochs", "1", "6", "--widths", "4", "--measured", "20", "--arrangements", "given"]
    main([*options, "--networks", "line", "--out", str(tmp_path)])
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("jobs/*.json")]
    held_out = [row for row in rows if row["held_out"]]
    # Two settings, each in the permuted order and in that of the correlations.
    assert len(held_out) == 4
    means = {n: np.mean([r["test_accuracy"] for r in held_out if r["epochs"] == n]) for n in (1, 6)}
    (final,) = (row for row in rows if not row["held_out"])
    assert final["epochs"] == max(means, key=means.get)
    assert "(1 rows)" in capsys.readouterr().out
    whole, part = (permuted("digits", 60, 40, 0, None, None, held_out) for held_out in (False, True))
    np.testing.assert_array_equal(part.permutation, whole.permutation)
    np.testing.assert_array_equal(np.concatenate([part.test_y, part.y]), whole.y)


def test_distances(tmp_path):
    main([*FEW, "--distances", "--arrangements", "given", "random", "correlation", "--out", str(tmp_path)])
    text = (tmp_path / "distances.json").read_text()
    table = permuted("digits", 60, 40, 0, None, None)
    assert distance(places(table, "given", 0)[0], table) == 1
    assert distance(places(table, "random", 0)[0], table) > 3.5
    assert '"distance": 1.0' in text


def test_the_given_order_undoes_the_permutation():
    table = permuted("digits", 60, 40, 0, None, None)
    grid, halves = places(table, "given", 0, "grid")
    np.testing.assert_array_equal(table.permutation[grid].ravel(), np.arange(64))
    order, tree = places(table, "given", 0, "ht")
    np.testing.assert_array_equal(order, grid.ravel())
    assert tree.find([order[k] for k in (0, 1, 8, 9)]) is not None
    # Of a grid the halves are rectangles, and of a line intervals.
    assert halves.find(grid[:4, :2].ravel()) is not None
    line, pairs = places(table, "random", 0, "line")
    np.testing.assert_array_equal(line, np.arange(64))
    assert pairs.find([2, 3]) is not None


def test_rank_correlations_are_within_data_and_networks():
    rows = [
        {"data": data, "network": "line", "seed": seed, "test_accuracy": 0.1 * k + base, "entanglement": base - k}
        for data, base in (("a", 0.0), ("b", 5.0))
        for seed in range(2)
        for k in range(5)
    ]
    found = rank_correlation(rows, draws=200)
    assert found["value"] == pytest.approx(-1)
    assert found["low"] <= found["high"] < -0.9
    assert (found["rows"], found["clusters"]) == (20, 4)
    # Rows of a data set and seed are drawn together: one seed that contradicts is drawn or not.
    for row in rows[-5:]:
        row["entanglement"] *= -1
    found = rank_correlation(rows, draws=200)
    assert found["high"] - found["low"] > 0.4
    assert rank_correlation(rows[:7]) is None


def test_sets_of_mlbench_are_read_from_a_local_file(monkeypatch, tmp_path):
    frame = pandas.DataFrame({"V1": ["0", "1"] * 15, "V2": range(30), "Class": ["ei", "ie", "n"] * 10})
    fake = types.SimpleNamespace(read_rda=lambda path: {path.stem: frame})
    monkeypatch.setitem(sys.modules, "rdata", fake)
    (tmp_path / "DNA.rda").write_bytes(b"content")
    with pytest.raises(ValueError, match=r"DNA\.rda has the SHA-256"):
        permuted("dna", 10, 5, 0, None, str(tmp_path))
    monkeypatch.setitem(fetch.SHA256, "DNA.rda", hashlib.sha256(b"content").hexdigest())
    table = permuted("dna", 10, 5, 0, None, str(tmp_path))
    assert table.x.shape == (10, 2)
    assert table.test_x.shape == (5, 2)
    assert set(table.y) <= {0, 1, 2}
    with pytest.raises(FileNotFoundError, match="--mlbench"):
        permuted("dna", 10, 5, 0, None, None)


def test_files_of_mlbench_are_fetched_and_checked(monkeypatch, tmp_path):
    contents = {name: name.encode() for name in fetch.SHA256}
    commands = []

    def run(command, cwd, check):
        commands.append(command[0])
        if "dpkg-deb" in command[-1]:
            folder = Path(cwd, "unpacked", "data")
            folder.mkdir(parents=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda program: program)
    for name, content in contents.items():
        monkeypatch.setitem(fetch.SHA256, name, hashlib.sha256(content).hexdigest())
    main(["--fetch", str(tmp_path / "mlbench")])
    assert {path.name: path.read_bytes() for path in (tmp_path / "mlbench").iterdir()} == contents
    assert commands == ["apt-get", "sh"]
    monkeypatch.setattr(fetch.shutil, "which", lambda program: None)
    with pytest.raises(SystemExit, match="apt-get is not there"):
        fetch.fetch_mlbench(tmp_path)
