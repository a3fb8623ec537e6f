"""The long-range benchmarks, on a few small images."""

import csv
import importlib.util
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster

from benchmarks.long_range import __main__ as long_range
from benchmarks.long_range import jobs, recipes
from benchmarks.speed import long_range as cost
from htf._files import read_json, write_json
from htf.datasets import far_parity
from htf.datasets.long_range import LongRangeData, Split

ROOT = Path(__file__).parents[2]
SMALL = ["--epochs", "2", "--batch-size", "16", "--train", "48", "--validation", "40", "--test", "32"]
PARITY = ["--task", "far_parity", "--distances", "2", "--no-progress", *SMALL]


def parity_jobs(*arguments):
    return list(long_range.make_jobs(long_range._options([*PARITY, *arguments])))


def table(out):
    with (out / "long_range.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def never(share):
    """A report that nobody reads."""


def test_a_sweep_leaves_a_table_and_a_figure_and_grows(tmp_path, capsys):
    arguments = [*PARITY, "--regularizers", "none", "interaction:samples=2", "--out", str(tmp_path)]
    long_range.main([*arguments, "--seeds", "0"])
    first = table(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/result.json")}
    long_range.main([*arguments, "--seeds", "0:1"])
    rows = table(tmp_path)
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["regularizer"] for row in rows] == ["none"] * 2 + ["interaction:patches=areas,samples=2"] * 2
    assert all(row in rows for row in first)
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert (tmp_path / "long_range.png").stat().st_size > 1000
    assert f"table: {tmp_path / 'long_range.csv'} (4 trainings)" in capsys.readouterr().out
    for row in rows:
        assert tuple(row) == jobs.COLUMNS
        (folder,) = tmp_path.glob(f"jobs/*_{row['settings_sha256'][:8]}")
        result = read_json(folder / "result.json")
        assert float(row["test"]) == result["test_best_validation"]
        assert float(row["train"]) == result["history"][-1]["train_accuracy"]
        assert float(row["validation"]) == max(epoch["validation_accuracy"] for epoch in result["history"])
        assert (row["epochs"], row["stopped"], row["receptive_field"]) == ("2", "epochs", "")
        assert f"torch {torch.__version__}" in row["versions"]


@pytest.mark.parametrize("task", ["pathfinder", "is_same_class"])
def test_dry_runs_of_the_tasks_on_pixels(task, tmp_path, monkeypatch):
    distance = 2
    if task == "is_same_class":
        setting = recipes.SETTINGS["cpu"][task]
        data = {**setting.data, "source": "digits", "scale": 1.0, "canvas": (10, 40)}
        monkeypatch.setitem(recipes.SETTINGS["cpu"], task, replace(setting, data=data))
    arguments = ["--distances", str(distance), "--seeds", "0", "--dry-run", "--out", str(tmp_path), "--no-progress"]
    long_range.main(["--task", task, *arguments])
    rows = table(tmp_path / "dry_run")
    assert {row["task"] for row in rows} == {task}
    expected = recipes.SETTINGS["cpu"][task].recipes
    assert sorted(row["regularizer"].partition(":")[0] for row in rows) == sorted(expected)
    field = "55" if task == "is_same_class" else "79"
    assert {(row["epochs"], row["receptive_field"]) for row in rows} == {("1", field)}


def test_an_interrupted_job_goes_on_and_leaves_the_row_that_it_would_have(tmp_path):
    (job,) = parity_jobs("--regularizers", "igc", "--seeds", "3")
    whole = jobs.Job.within(tmp_path / "whole")(job, never)
    shares = []

    def stopping(share):
        shares.append(share)
        if len(shares) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.Job.within(tmp_path / "cut")(job, stopping)
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6])
    assert not list((tmp_path / "cut").glob("jobs/*/row.json"))
    row = jobs.Job.within(tmp_path / "cut")(job, shares.append)
    assert shares[4:] == pytest.approx([5 / 6, 1.0])
    assert {**row, "seconds": 0} == {**whole, "seconds": 0}
    assert jobs.Job.within(tmp_path / "cut")(job, never) == row


def test_a_finished_job_is_loaded_with_its_model(tmp_path):
    (job,) = parity_jobs("--regularizers", "none", "--seeds", "1")
    row = jobs.Job.within(tmp_path)(job, never)
    (folder,) = (tmp_path / "jobs").iterdir()
    again, model, data = jobs.load_job(folder)
    assert (again.name, again.digest) == (job.name, job.digest)
    x, y = data.validation.tensors()
    with torch.no_grad():
        assert float(((model(x)[:, 0] > 0) == y).double().mean()) == pytest.approx(row["validation"])


def test_images_are_cached(tmp_path):
    (job,) = parity_jobs("--regularizers", "none", "--seeds", "1")
    data = jobs.make_data(job.task, job.data, cache=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert data.settings["distance"] == 2


# -- what is trained ------------------------------------------------------------------------------------


def test_jobs_of_the_options():
    found = parity_jobs("--regularizers", "none", "igc:samples=4", "--weights", "1", "3", "--seeds", "0:1")
    assert [(job.regularizer, job.weight, job.seed) for job in found] == [
        *(("none", 0.0, seed) for seed in (0, 1)),
        *(("igc:patches=areas,samples=4", weight, seed) for weight in (1.0, 3.0) for seed in (0, 1)),
    ]
    assert len({job.name for job in found}) == len({job.digest for job in found}) == 6
    assert {job.distance for job in found} == {2}
    assert found[0].data["train"] == 48
    assert (
        found[0].training_settings.epochs,
        found[0].training_settings.batch_size,
        found[0].training_settings.lr,
    ) == (2, 16, 0.006)
    assert found[0].cost < found[2].cost


def test_controls_are_of_the_network_without_regularizer():
    arguments = ["--regularizers", "none", "igc", "--seeds", "0", "--controls", "--weight-decay", "0.1", "--dropout"]
    found = parity_jobs(*arguments, "0.5", "--epochs-factor", "4", "--max-seconds", "7")
    told = [
        (j.regularizer, j.control, j.training_settings.weight_decay, j.dropout, j.training_settings.epochs)
        for j in found
    ]
    assert told == [
        ("none", "", 0.0, 0.0, 2),
        ("none", "weight decay", 0.1, 0.0, 2),
        ("none", "dropout", 0.0, 0.5, 2),
        ("none", "4 × the epochs", 0.0, 0.0, 8),
        ("none", "equal time", 0.0, 0.0, 10**6),
        ("igc:patches=areas", "", 0.0, 0.0, 2),
    ]
    assert [job.training_settings.max_seconds for job in found] == [None] * 4 + [7.0] + [None]


def test_a_training_of_equal_time_reports_its_share_of_it(tmp_path):
    (*_, job) = parity_jobs("--regularizers", "none", "--seeds", "0", "--controls", "--max-seconds", "0.2")
    shares = []
    row = jobs.Job.within(tmp_path)(job, shares.append)
    assert (row["stopped"], row["control"]) == ("time", "equal time")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_every_recipe_makes_a_model_and_a_regularizer(scale):
    for task, setting in recipes.SETTINGS[scale].items():
        for name, recipe in setting.recipes.items():
            area = [[1, 1, 4, 4], [1, 9, 4, 4]]
            images = torch.randint(0, 256, (6, 1, 8, 16), dtype=torch.uint8)
            part = Split(images, torch.arange(6) % 2)
            data = LongRangeData(task, part, part, part, {"areas": area})
            if task == "far_parity":
                data = far_parity(setting.data["shape"], 2, train=6, validation=0, test=0)
            model = recipes.make_model(setting.model, data)
            regularizer = recipes.make_regularizer(
                recipes.write_spec(name, recipe.options), recipe.weight, data, seed=0
            )
            if name == "none":
                assert regularizer is None
                continue
            x, y = data.train.tensors()
            value = regularizer(model, x, y, model(x))
            assert bool(value.isfinite())
            assert any(float(g.norm()) > 0 for g in torch.autograd.grad(value, model.parameters(), allow_unused=True)
                       if g is not None)  # fmt: skip


def test_specs_are_read_and_written():
    name, options = recipes.read_spec("interaction:patches=far,samples=4,spectral=True")
    assert (name, options) == ("interaction", {"patches": "far", "samples": 4, "spectral": True})
    assert recipes.write_spec(name, options) == "interaction:patches=far,samples=4,spectral=True"
    assert recipes.write_spec("none", {}) == "none"
    data = far_parity((4, 8), 2, train=8, validation=0, test=0)
    made = recipes.make_regularizer("interaction:samples=4,patches=far,size=1,apart=3,grid=2", 0.5, data, 7)
    assert (made.samples, made.grid, made.weight, made.seed) == (4, 2, 0.5, 7)
    first, second = made.patches(4, 8, torch.Generator().manual_seed(0))
    assert first.distance(second) >= 3
    assert first.height == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: recipes.read_spec("nothing"), "regularizer is 'nothing'; known are none, gradient_field"),
        (lambda data: recipes.read_spec("igc:samples"), "regularizer is 'igc:samples'; expected name:option=value"),
        (
            lambda data: recipes.make_regularizer("igc:patches=other", 1.0, data, 0),
            "patches is 'other'; expected areas",
        ),
        (
            lambda data: recipes.make_regularizer("igc:patches=areas", 1.0, replace(data, settings={}), 0),
            "patches is 'areas'; far_parity has none",
        ),
        (lambda data: recipes.make_model("other", data), "model is 'other'; known are small_resnet"),
        (lambda data: recipes.make_model("convac", data, dropout=0.5), "no dropout; got 1, 4 and 0.5"),
        (
            lambda data: recipes.make_model("convac", of_levels(data, 256)),
            "at most 16 levels and no dropout; got 1, 256",
        ),
    ],
)
def test_what_does_not_exist(make, message):
    with pytest.raises(ValueError, match=message):
        make(far_parity((4, 8), 2, train=8, validation=0, test=0))


def of_levels(data, levels):
    return replace(data, train=replace(data.train, maximum=levels - 1))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_every_split_is_needed(part, capsys):
    with pytest.raises(SystemExit):
        long_range.main([*PARITY, f"--{part}", "0"])
    assert f"--{part} is 0; expected 1 at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "far_parity", "--scale", "gpu"], "scale gpu has no recipe for far_parity"),
        (["--task", "pathfinder", "--regularizers", "tree_entropy"], "pathfinder has no recipe for tree_entropy"),
        (["--task", "pathfinder", "--regularizers", "icg"], "--regularizers: regularizer is 'icg'; known are none"),
        (
            ["--task", "pathfinder", "--regularizers", "interaction:foo=3"],
            "interaction has no foo; it has samples, grid",
        ),
        ([*PARITY, "--devices", "2", "--workers", "2"], "share each training"),
    ],
)
def test_options_that_do_not_fit(arguments, message):
    if "--devices" in arguments and importlib.util.find_spec("lightning_fabric") is None:
        pytest.skip("needs the extra 'train' (Lightning Fabric)")
    with pytest.raises(SystemExit, match=message):
        long_range.main(arguments)


def test_a_folder_holds_one_recipe_for_each_point(tmp_path):
    arguments = [*PARITY, "--regularizers", "none", "--out", str(tmp_path), "--seeds"]
    long_range.main([*arguments, "0"])
    before = table(tmp_path)
    message = r"--out: \S+ has trainings of recipe \w+, and those of \w+ would be the same point .* distance 2, model"
    with pytest.raises(SystemExit, match=message):
        long_range.main([*arguments, "1", "--lr", "0.5"])
    assert table(tmp_path) == before
    assert len(list(tmp_path.glob("jobs/*"))) == 1


def test_the_convac_reads_levels_and_has_gradients_at_pixels():
    data = far_parity((4, 8), 2, levels=3, train=8, validation=0, test=0)
    model = recipes.make_model("convac", data, seed=2)
    x, _ = data.train.tensors()
    expected = model.network(data.train.images.flatten(1).long()) - 1
    x.requires_grad_()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert bool((gradient != 0).all())


# -- several processes ----------------------------------------------------------------------------------


def run_script(arguments, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-m", "benchmarks.long_range", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None, reason="needs the extra 'train' (Lightning Fabric)"
)
def test_two_devices_share_each_training(tmp_path):
    arguments = [*PARITY, "--regularizers", "interaction", "--seeds", "0", "--devices", "2", "--out", str(tmp_path)]
    run = run_script(arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    (row,) = table(tmp_path)
    (job,) = tmp_path.glob("jobs/*")
    assert read_json(job / "result.json")["settings"]["processes"] == 2
    assert row["epochs"] == "2"
    assert run.stdout.count("far_parity 2, interaction") == 1


def test_a_scheduler_gets_the_jobs(tmp_path, monkeypatch):
    # As the workers of a cluster must be started.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    arguments = [*PARITY, "--regularizers", "none", "interaction", "--seeds", "0", "--out", str(tmp_path)]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        long_range.main([*arguments, "--scheduler", cluster.scheduler_address])
    there = table(tmp_path)
    for job, row in zip(sorted(tmp_path.glob("jobs/*")), sorted(there, key=lambda r: r["regularizer"]), strict=True):
        assert asdict(jobs.Job(**read_json(job / "job.json")))["regularizer"] == row["regularizer"]


# -- cost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkout", [None, "imp_reg_htf"])
def test_costs_are_measured_side_by_side(checkout, tmp_path, monkeypatch):
    arguments = ["--size", "8", "8", "--batch-size", "4", "--turns", "2", "--steps", "1", "--threads", "1"]
    if checkout:
        path = Path(os.environ.get("HTF_PEERS", "")) / checkout
        if "HTF_PEERS" not in os.environ or not path.is_dir():
            pytest.skip(f"HTF_PEERS does not hold {checkout}")
        arguments += ["--imp-reg-htf", str(path)]
    cost.main([*arguments, "--ours", "igc", "interaction:samples=2", "--json", str(tmp_path / "cost.json")])
    report = read_json(tmp_path / "cost.json")
    assert [row["what"] for row in report["steps"]] == ["plain", cost.PAPERS, "igc", "interaction:samples=2"]
    assert report["steps"][0]["ratio"] == 1.0
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in report["steps"])
    assert report["images"] == [4, 1, 8, 8]
    assert report["papers_code"] == bool(checkout)
    with pytest.raises(SystemExit, match="is not a checkout"):
        cost.main([*arguments, "--imp-reg-htf", str(tmp_path / "nowhere")])


def test_rows_in_the_wrong_place_are_refused(tmp_path):
    folder = tmp_path / "jobs" / "parity_seed0_01234567"
    row = dict.fromkeys(jobs.COLUMNS) | {"settings_sha256": "0123456789"}
    write_json(folder / "row.json", row, "the row of a training")
    assert jobs.Job.read(folder / "row.json") == row
    write_json(folder / "row.json", row | {"settings_sha256": "9876543210"}, "the row of a training")
    with pytest.raises(ValueError, match=r"row\.json is of another job than the folder"):
        jobs.gather_table(tmp_path)
    write_json(folder / "row.json", {"settings_sha256": "0123456789"}, "the row of a training")
    with pytest.raises(ValueError, match=r"row\.json does not hold the row of a training"):
        jobs.gather_table(tmp_path)
    write_json(folder / "job.json", {"task": "parity"}, "a training of long_range.py")
    with pytest.raises(ValueError, match=r"job\.json does not hold a training of long_range\.py"):
        jobs.load_job(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    write_json(tmp_path / "claim.json", {"kind": "probe", "about": {}}, "a claim")
    with pytest.raises(SystemExit, match=r"holds a run that is no benchmark of long_range\.py but a probe"):
        long_range.main([*PARITY, "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["claim.json"]


def test_a_field_that_does_not_span_the_distance_is_told(tmp_path):
    near, far = (far_parity((4, 64), distance=distance, train=2, validation=0, test=0) for distance in (20, 60))
    model = recipes.make_model("small_resnet_near", near)
    recipes.warn_of_short_sight(model, near)
    recipes.warn_of_short_sight(recipes.make_model("convac", far_parity((4, 8), 2, train=2, validation=0, test=0)), far)
    with pytest.warns(
        RuntimeWarning, match="the receptive field of the network is 55 pixels, and far_parity at this dist"
    ):
        recipes.warn_of_short_sight(model, far)
    (job,) = parity_jobs("--regularizers", "none", "--seeds", "1", "--model", "small_resnet_near")
    wide = {**job.data, "shape": (4, 64), "distance": 60}
    with pytest.warns(RuntimeWarning, match="spans 61: no remedy makes it see farther"):
        jobs.Job.within(tmp_path)(replace(job, data=wide), never)
