import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from htf import DimensionTree
from htf import _files as files
from htf.datasets import load
from htf.probes import RankFit, rank_fit
from htf.training import FitSettings, LevenbergMarquardt

SHORT = FitSettings(epochs=3)
SMALL = {"ranks": [1, 3], "progress": False}


@pytest.fixture(scope="module")
def data():
    return load().take(300, 100)


@pytest.fixture(scope="module")
def result(data):
    return rank_fit(data, settings=SHORT, seeds=[0, 1], **SMALL)


def test_every_combination_is_there_once(result):
    keys = [(r.format, r.twin, r.rank, r.seed) for r in result.records]
    assert len(keys) == len(set(keys)) == 2 * 3 * 2 * 2
    assert keys == sorted(
        keys, key=lambda k: (k[0], ["original", "random_labels", "random_images"].index(k[1]), *k[2:])
    )
    assert all(len(r.train_history) == len(r.test_history) == 3 for r in result.records)


SECOND_ORDER = FitSettings(epochs=6, optimizer="levenberg_marquardt")


def test_second_order_steps_by_name(data, tmp_path):
    keys = {"formats": ["cp"], "ranks": [1, 3], "twins": ["original", "random_images"], "progress": False}
    found = rank_fit(data, settings=SECOND_ORDER, out=tmp_path, **keys)
    assert {(r.rank, r.twin) for r in found.records} == {(r, twin) for r in (1, 3) for twin in keys["twins"]}
    for record in found.records:
        assert len(record.train_history) == len(record.test_history) == 6
        assert record.train == record.train_history[-1] < 0.8 * found.variance[6]
        assert record.test == record.test_history[-1]
    read = rank_fit(data, settings=SECOND_ORDER, out=tmp_path, **keys)
    assert [r.train for r in read.records] == [r.train for r in found.records]
    with pytest.raises(ValueError, match="optimizer"):  # the folder is of another run
        rank_fit(data, settings=FitSettings(epochs=6), out=tmp_path, **keys)
    with pytest.raises(ValueError, match='levenberg_marquardt takes "cp" alone'):
        rank_fit(data, settings=SECOND_ORDER, ranks=[1], progress=False)


def test_second_order_fits_go_on_where_they_were_stopped(data, tmp_path, monkeypatch):
    keys = {"formats": ["cp"], "ranks": [2], "twins": ["original"], "progress": False}
    whole = rank_fit(data, settings=SECOND_ORDER, **keys)
    step, taken = LevenbergMarquardt.step, []

    def stopped(self):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(step(self))

    monkeypatch.setattr(LevenbergMarquardt, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        rank_fit(data, settings=SECOND_ORDER, out=tmp_path, **keys)
    taken.clear()
    monkeypatch.setattr(LevenbergMarquardt, "step", lambda self: taken.append(step(self)))
    rest = rank_fit(data, settings=SECOND_ORDER, out=tmp_path, **keys)
    assert len(taken) == 3
    assert rest.records[0].train_history == pytest.approx(whole.records[0].train_history, rel=1e-3)
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_variance_is_that_of_the_targets(result, data):
    share = float((data.train_labels == 6).float().mean())
    assert result.variance == pytest.approx({6: share * (1 - share)})


def test_parameters_are_counted(result):
    tree = DimensionTree.grid(8, 8)
    for record in result.records:
        inner = len(tree.inner_nodes) - 1
        expected = 64 * 2 * record.rank + (record.format == "ht") * (inner * record.rank**2 + record.rank)
        assert record.n_parameters == expected


def test_a_fit_does_not_depend_on_its_company(result, data):
    alone = rank_fit(
        data, formats=["cp"], ranks=[3], twins=["random_labels"], seeds=[1], settings=SHORT, progress=False
    )
    together = result.select(format="cp", rank=3, twin="random_labels", seed=1)
    # Up to rounding, and the scale of a step, which is a mean over all components of the job.
    assert alone.records[0].train == pytest.approx(together[0].train, rel=0.01)


def test_original_digits_fit_at_low_rank_and_random_labels_do_not():
    result = rank_fit("digits", ranks=[2, 5, 8], twins=["original", "random_labels"], progress=False)
    for form in ("cp", "ht"):
        for rank in (2, 5, 8):
            original = result.mean("train", format=form, rank=rank, twin="original")[0]
            random = result.mean("train", format=form, rank=rank, twin="random_labels")[0]
            assert original < 0.012 < 0.05 < random < result.mean_variance


def test_table_says_what_it_shows(result):
    table = result.table()
    assert "random_labels" in table
    assert f"variance of the targets {result.mean_variance:.4f}" in table
    assert len([line for line in table.splitlines() if line.startswith(("cp", "ht"))]) == 4


def test_saves_and_loads(result, tmp_path):
    result.save(tmp_path / "run")
    again = RankFit.load(tmp_path / "run")
    assert again.records == result.records
    assert again.table() == result.table()
    assert again.complete
    assert len(again.plot().axes) == 2


def test_finished_fits_are_not_repeated(data, tmp_path, monkeypatch):
    first = rank_fit(data, settings=SHORT, out=tmp_path, **SMALL)
    assert {p.suffix for p in (tmp_path / "fits").iterdir()} == {".json"}
    monkeypatch.setattr("htf.probes.jobs.LeastSquaresFit", None)
    again = rank_fit(data, settings=SHORT, out=tmp_path, **SMALL)
    assert again.records == first.records


def test_only_what_is_missing_is_fitted(data, tmp_path):
    first = rank_fit(data, settings=SHORT, out=tmp_path, **SMALL)
    (missing,) = (tmp_path / "fits").glob("ht_3_original0_*.json")
    missing.unlink()
    partial = RankFit.load(tmp_path)
    assert not partial.complete
    assert "not complete" in partial.table()
    again = rank_fit(data, settings=SHORT, out=tmp_path, **SMALL)
    assert again.records == first.records


def test_results_tell_settings_versions_and_device(result):
    assert result.settings["epochs"] == 3
    assert result.settings["versions"]["torch"] == torch.__version__
    assert result.settings["device"].startswith("cpu")


def test_several_processes_find_the_same(data, tmp_path):
    one = rank_fit(data, settings=SHORT, **SMALL)
    two = rank_fit(data, settings=SHORT, workers=2, out=tmp_path, **SMALL)
    for a, b in zip(one.records, two.records, strict=True):
        assert (a.format, a.rank, a.twin) == (b.format, b.rank, b.twin)
        assert a.train == pytest.approx(b.train, rel=1e-2)


def _endless(folder):
    rank_fit(load(), formats=["cp"], twins=["original"], ranks=[2], settings=FitSettings(epochs=400), out=folder)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Kill -9 in the middle of a fit: the next call resumes from the checkpoint and ends with the same numbers."""
    folder = tmp_path / "run"
    process = multiprocessing.get_context("spawn").Process(target=_saving_often, args=(str(folder),))
    process.start()
    deadline = time.monotonic() + 60
    while not list(folder.glob("fits/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (checkpoint,) = folder.glob("fits/*.safetensors")
    epoch = files.read_tensors(checkpoint)[1]["state"]["epoch"]
    assert 0 < epoch < 400
    settings = FitSettings(epochs=400)
    arguments = {"formats": ["cp"], "twins": ["original"], "ranks": [2], "settings": settings, "progress": False}
    resumed = rank_fit(load(), out=folder, **arguments)
    straight = rank_fit(load(), **arguments)
    assert resumed.records == straight.records


def _saving_often(folder):
    from htf.training.least_squares_fit import LeastSquaresFit

    original = LeastSquaresFit.run
    LeastSquaresFit.run = lambda self, on_epoch=None, save_every=0.0: original(self, on_epoch, 0.0)
    torch.set_num_threads(torch.get_num_threads())
    _endless(folder)


def test_a_full_disk_keeps_what_was_saved(data, tmp_path, monkeypatch):
    rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)
    before = {p.name: p.read_bytes() for p in (tmp_path / "fits").iterdir()}
    some = sorted(before)[0]
    (tmp_path / "fits" / some).unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="saved before is kept"):
        rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)
    after = {p.name: p.read_bytes() for p in (tmp_path / "fits").iterdir()}
    assert after == {name: content for name, content in before.items() if name != some}


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"formats": ["tucker"]}, "format is 'tucker'; known are cp, ht"),
            ({"twins": ["shuffled"]}, "twin is 'shuffled'; known are original, random_labels"),
            ({"ranks": [0, 1]}, "ranks holds 0"),
            ({"ranks": [-2]}, "ranks holds -2"),
            ({"ranks": []}, "ranks is empty"),
            ({"twins": []}, "twins is empty"),
            ({"classes": [12]}, "class 12 does not occur in digits"),
            ({"workers": 0}, "workers is 0"),
            ({"levels": 1}, "levels is 1"),
            ({"seeds": [-1]}, "seeds holds -1"),
            ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ],
    )
    def test_arguments(self, data, arguments, message):
        with pytest.raises(ValueError, match=message):
            rank_fit(data, settings=SHORT, **{"progress": False, "ranks": [1], **arguments})

    def test_unknown_data_set(self):
        with pytest.raises(ValueError, match="known are digits, mnist, fashion_mnist"):
            rank_fit("imagenet")

    def test_a_folder_of_other_settings(self, data, tmp_path):
        rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)
        with pytest.raises(ValueError, match="holds a probe with epochs = 3; this one has 4"):
            rank_fit(data, formats=["cp"], settings=FitSettings(epochs=4), out=tmp_path, **SMALL)
        with pytest.raises(ValueError, match=r"holds a probe with ranks = \[1, 3\]; this one has \[2\]"):
            rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, ranks=[2], progress=False)

    def test_a_refused_call_claims_no_folder(self, data, tmp_path):
        with pytest.raises(ValueError, match="levels is 1"):
            rank_fit(data, levels=1, out=tmp_path / "run", **SMALL)
        assert not (tmp_path / "run").exists()

    def test_a_folder_of_other_data(self, data, tmp_path):
        rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)
        other = replace(data, train_images=data.train_images.flip(0))
        with pytest.raises(ValueError, match="holds a probe with data_sha256"):
            rank_fit(other, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)

    def test_a_class_that_only_the_train_set_has(self, data):
        few = data.take(300, 1)
        absent = next(c for c in data.classes if c not in few.test_labels)
        with pytest.raises(ValueError, match=f"class {absent} does not occur in digits, test"):
            rank_fit(few, classes=[absent], **SMALL)

    def test_saving_into_the_folder_of_a_run(self, data, tmp_path):
        result = rank_fit(data, formats=["cp"], settings=SHORT, out=tmp_path, **SMALL)
        with pytest.raises(FileExistsError, match="holds the fits of a run already"):
            result.save(tmp_path)

    def test_a_run_without_finished_fits(self, result, tmp_path):
        result.save(tmp_path)
        (tmp_path / "fits" / "all.json").unlink()
        with pytest.raises(ValueError, match="no finished fits yet"):
            RankFit.load(tmp_path).table()

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="not the folder of a run"):
            RankFit.load(tmp_path)

    def test_a_damaged_file(self, result, tmp_path):
        result.save(tmp_path)
        (tmp_path / "fits" / "all.json").write_text('{"records": [')
        with pytest.raises(ValueError, match=r"all\.json is not valid JSON"):
            RankFit.load(tmp_path)

    @pytest.mark.parametrize("content", [{}, [], 3, {"records": [{}], "variance": {}, "seconds": 1.0}])
    def test_files_of_something_else(self, data, tmp_path, content):
        arguments = {"formats": ["cp"], "twins": ["original"], "settings": SHORT, "out": tmp_path, **SMALL}
        rank_fit(data, **arguments)
        (job,) = (tmp_path / "fits").glob("*.json")
        for path, what in ((job, "the records of fits"), (tmp_path / "settings.json", "the settings of a probe")):
            files.write_json(path, content, what)
            for read in (lambda: RankFit.load(tmp_path), lambda: rank_fit(data, **arguments)):
                with pytest.raises(ValueError, match=rf"{path.name} does not hold {what}"):
                    read()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("train", "0.1"), ("train_history", 3), ("test_history", ["0.1"]), ("seconds", "1"), ("variance", {"0": "1"})],
    )
    def test_values_of_other_types(self, result, tmp_path, name, value):
        result.save(tmp_path)
        path = tmp_path / "fits" / "all.json"
        content = files.read_json(path, "the records of fits")
        (content if name in content else content["records"][0])[name] = value
        files.write_json(path, content, "the records of fits")
        with pytest.raises(ValueError, match=r"all\.json does not hold the records of fits"):
            RankFit.load(tmp_path)


def test_repeated_arguments_and_numpy_integers_are_one(data):
    result = rank_fit(
        data, formats=["cp", "cp"], ranks=np.array([1, 1]), twins=["original"], settings=SHORT, progress=False
    )
    assert [(r.format, r.rank) for r in result.records] == [("cp", 1)]


def test_more_fits_than_one_network_takes(data, tmp_path):
    arguments = {"formats": ["cp"], "ranks": [1], "twins": ["original", "random_labels"], "seeds": range(40)}
    settings = FitSettings(epochs=1)
    result = rank_fit(data, **arguments, settings=settings, out=tmp_path, progress=False)
    assert len(result.records) == 80
    again = rank_fit(data, **arguments, settings=settings, out=tmp_path, progress=False)
    assert again.records == result.records
    assert len({(r.twin, r.seed) for r in result.records}) == 80


def test_joined_results_hold_equal_records_once(result):
    assert result.joined(result).records == result.records
    other = replace(result, records=[replace(result.records[0], train=1.0)])
    assert result.joined(other, other).records == [*result.records, *other.records]


def test_values_survive_json(result, tmp_path):
    result.save(tmp_path)
    content = json.loads((tmp_path / "fits" / "all.json").read_text())
    assert content["records"][0]["train"] == result.records[0].train
    shutil.rmtree(tmp_path / "fits")
    assert RankFit.load(tmp_path).records == []


def test_collapse_is_reported(data):
    # Targets that no rank-one product of so few steps can meet.
    result = rank_fit(
        data, formats=["cp"], ranks=[1], twins=["original"], settings=FitSettings(epochs=1, step=1e-6), progress=False
    )
    assert result.records[0].collapsed
    assert "ended no better than a constant: cp 1 original" in result.table()


def test_csv_has_a_line_a_fit(result, tmp_path):
    result.to_csv(tmp_path / "fits.csv")
    with (tmp_path / "fits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train"]) for row in rows] == [record.train for record in result.records]
    assert rows[0]["format"] == "cp"
