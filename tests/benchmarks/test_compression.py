"""The compression benchmark, on a few made-up images."""

import csv

import pytest
import torch
from torch import nn

import htf
from benchmarks.compression import __main__ as compression
from htf._files import read_json
from htf.datasets import ImageData


def small_network(seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(8, 8, 3)
    features = (nn.Conv2d(1, 8, 5, 4), nn.ReLU(), nn.Identity(), conv, nn.ReLU(), nn.Identity(), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture
def few_images(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator), torch.arange(n) % 10

    data = ImageData("mnist", *draw(80), *draw(40))
    monkeypatch.setattr(htf.datasets, "load", lambda name, data_dir: data)
    monkeypatch.setattr(compression, "VALIDATION", 40)
    monkeypatch.setattr(compression, "network", small_network)
    monkeypatch.setattr(compression, "SHARES", (0.5, 0.4))


def test_a_run_leaves_a_table_and_goes_on_where_it_was(few_images, tmp_path, capsys):
    options = ["--variants", "matrix", "plain", "--epochs", "1", "--batch-size", "32", "--no-progress"]
    compression.main([*options, "--seeds", "0", "--out", str(tmp_path)])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*.json")}
    assert len(files) == 2
    compression.main([*options, "--seeds", "0:1", "--out", str(tmp_path)])
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert f"table: {tmp_path / 'compression.csv'} (12 rows)" in capsys.readouterr().out
    with (tmp_path / "compression.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows[:4]] == [("matrix", "0"), ("matrix", "1")] * 2
    size = compression.count(small_network(0))
    for row in rows:
        assert int(row["parameters"]) <= float(row["share"]) * size
        assert (row["test_tuned"] == "") == (row["share"] == "1.0")
        assert 0 <= float(row["test"]) <= 1
    settings = read_json(tmp_path / "settings.json")
    assert settings["variants"]["plain"]["train"] == 40
    assert settings["versions"]["torch"] == torch.__version__


def test_variants_have_the_plain_outputs_shape_and_seeds_differ():
    assert compression.count(compression.network(0)) == 225_034
    x = torch.rand(2, 1, 28, 28)
    for name in compression.RECIPES:
        assert compression.variant(name, 0)(x).shape == (2, 10)
    first, again, other = (compression.network(seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dry_run(few_images, tmp_path):
    arguments = ["--variants", "deep", "--seeds", "0", "--dry-run", "--batch-size", "16", "--no-progress"]
    compression.main([*arguments, "--out", str(tmp_path)])
    (job,) = (tmp_path / "dry_run" / "jobs").glob("*.json")
    assert [row["share"] for row in read_json(job)] == [1.0, 0.5, 0.4]
