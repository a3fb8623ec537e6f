"""The compression benchmark, on a few made-up images."""

import csv

import pytest
import torch
from torch import nn

import htf
from benchmarks.compression import jobs
from benchmarks.compression.__main__ import main
from htf._files import read_json, write_json
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
    monkeypatch.setattr(jobs, "VALIDATION", 40)
    monkeypatch.setattr(jobs, "network", small_network)
    monkeypatch.setattr(jobs, "SHARES", (0.5, 0.4))


def test_a_run_leaves_a_table_and_goes_on_where_it_was(few_images, tmp_path, capsys):
    options = ["--variants", "matrix", "plain", "--epochs", "1", "--batch-size", "32", "--no-progress"]
    main([*options, "--seeds", "0", "--out", str(tmp_path)])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*.json")}
    assert len(files) == 2
    main([*options, "--seeds", "0:1", "--out", str(tmp_path)])
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert f"table: {tmp_path / 'compression.csv'} (12 rows)" in capsys.readouterr().out
    with (tmp_path / "compression.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows[:4]] == [("matrix", "0"), ("matrix", "1")] * 2
    size = jobs.count(small_network(0))
    for row in rows:
        assert int(row["parameters"]) <= float(row["share"]) * size
        assert (row["test_tuned"] == "") == (row["share"] == "1.0")
        assert 0 <= float(row["test"]) <= 1
    settings = read_json(tmp_path / "settings.json")
    assert settings["variants"]["plain"]["train"] == 40
    assert settings["versions"]["torch"] == torch.__version__


def test_variants_have_the_plain_outputs_shape_and_seeds_differ():
    assert jobs.count(jobs.network(0)) == 225_034
    x = torch.rand(2, 1, 28, 28)
    for name in jobs.RECIPES:
        assert jobs.variant(name, 0)(x).shape == (2, 10)
    first, again, other = (jobs.network(seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dry_run(few_images, tmp_path):
    arguments = ["--variants", "deep", "--seeds", "0", "--dry-run", "--batch-size", "16", "--no-progress"]
    main([*arguments, "--out", str(tmp_path)])
    (job,) = (tmp_path / "dry_run" / "jobs").glob("*.json")
    assert [row["share"] for row in read_json(job)] == [1.0, 0.5, 0.4]


def test_a_training_is_that_of_a_plain_loop(tmp_path):
    x, y = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 10
    job = jobs.make_job("plain", 3, {"lr": None, "weight_decay": 0.1}, 2, 16, 50)
    ours, plain = small_network(0), small_network(0)
    job._trained((x, y), tmp_path, lambda share: None, ours, 0, 2, 0.01)
    job._trained((x, y), tmp_path, lambda share: None, ours, 2, 1, 0.003)
    generator = torch.Generator().manual_seed(3)
    for epochs, lr in ((2, 0.01), (1, 0.003)):
        optimizer = torch.optim.AdamW(plain.parameters(), lr=lr, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * epochs)
        for _ in range(epochs):
            for batch in torch.randperm(50, generator=generator).split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(plain(x[batch]), y[batch]).backward()
                optimizer.step()
                schedule.step()
    for own, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other)
    # What is finished is read, by a network of the same start.
    again = small_network(0)
    job._trained((x, y), tmp_path, lambda share: None, again, 0, 2, 0.01)
    assert not torch.equal(again[0].weight, small_network(0)[0].weight)


def test_a_stopped_job_goes_on(few_images, tmp_path):
    job = jobs.make_job("matrix", 0, {"lr": None, "weight_decay": None}, 2, 16, 40)
    given = {"data_dir": None, "few": False, "device": "cpu"}
    whole, shares = jobs.Job.within(None, **given)(job, lambda share: None), []

    def stopping(share):
        shares.append(share)
        if len(shares) == 8:
            raise KeyboardInterrupt

    run = jobs.Job.within(tmp_path, **given)
    with pytest.raises(KeyboardInterrupt):
        run(job, stopping)
    rows = run(job, shares.append)
    # Two epochs of three batches, and one for each of two shares.
    assert shares == pytest.approx([k / 12 for k in range(1, 13)])
    for found in (rows, whole):
        for row in found:
            row["seconds_epoch"] = 0
    assert rows == whole
    assert not list(tmp_path.rglob("checkpoint*"))


def test_files_of_something_else(tmp_path):
    file = tmp_path / "jobs" / "plain_seed0_01234567.json"
    rows = [{"settings_sha256": "01234567"}, {"settings_sha256": "76543210"}]
    for content, message in (([], "does not hold the rows of a training"), (rows, "is of another job")):
        write_json(file, content, "the rows of a training")
        with pytest.raises(ValueError, match=rf"plain_seed0_01234567\.json {message}"):
            jobs.Job.contents(tmp_path)
