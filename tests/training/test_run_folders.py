"""Folders of fits and trainings: whose they are, one writer at a time, read-only and full disks, damaged files."""

import json
import os
import resource
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from classification_cases import net, same_state, task
from fit_cases import FirstParameter, matrix_net, parameters, problem

from htf._files import previous_of
from htf.datasets import load
from htf.dynamics import study
from htf.probes import RankFit, rank_fit
from htf.training import ClassifyResult, ClassifySettings, FitSettings, classify, fit, load_trained
from htf.training.history import History

SHORT = ClassifySettings(epochs=2, batch_size=8, lr=0.05)
PROBE = {"formats": ["cp"], "ranks": [1], "twins": ["original"], "settings": FitSettings(epochs=1), "progress": False}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_run_takes_the_folder_of_another(tmp_path):
    data = load().take(120, 60)

    def quick_fit(out):
        fit(matrix_net(), problem(), steps=2, out=out)

    def quick_study(out):
        study("mf", dim=8, rank=1, depth=2, observed=48, init_std=0.1, seeds=[0], steps=2, out=out)

    runs = {
        "probe": lambda out: rank_fit(data, **PROBE, out=out),
        "fit": quick_fit,
        "study": quick_study,
        "training": lambda out: classify(net(), task(), settings=SHORT, out=out),
    }
    for kind, run in runs.items():
        run(tmp_path / kind)
        before = contents(tmp_path / kind)
        for other, another in runs.items():
            if other != kind:
                with pytest.raises(ValueError, match=rf"out .*{kind} holds a run that is no {other} but a {kind}"):
                    another(tmp_path / kind)
        assert contents(tmp_path / kind) == before
    assert RankFit.load(tmp_path / "probe").complete
    history = fit(matrix_net(), problem(), steps=2)
    for kind in ("probe", "training"):
        with pytest.raises(ValueError, match=f"holds a run that is no history but a {kind}"):
            history.save(tmp_path / kind)
    with pytest.raises(ValueError, match="holds a run that is no saved probe but a fit"):
        rank_fit(data, **PROBE).save(tmp_path / "fit")


def test_two_fits_of_different_rates_at_once(tmp_path):
    """One gets the folder, and the other is told that it is being written, or which rate it has."""
    got, refused, begin = [], [], threading.Barrier(2)

    def run(lr):
        net_, data = matrix_net(), problem()
        begin.wait()
        try:
            got.append((lr, fit(net_, data, steps=60, every=20, lr=lr, out=tmp_path / "run")))
        except (ValueError, BlockingIOError) as error:
            refused.append((lr, str(error)))

    threads = [threading.Thread(target=run, args=(lr,)) for lr in (0.01, 0.02)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((lr, history),), ((_, message),) = got, refused
    told = ("is being written by", f"holds a fit with optimizer.lr = {lr}", f"with lr = {lr}; this one has")
    assert any(words in message for words in told), message
    assert torch.equal(History.load(tmp_path / "run").loss, history.loss)


def test_one_that_is_running_is_not_written_by_the_same_fit_again(tmp_path):
    class Again(FirstParameter):
        """Begins the same fit in the middle of the fit."""

        def measure(self, moment):
            if moment.step == 10:
                with pytest.raises(BlockingIOError, match=rf"is being written by process {os.getpid()} on "):
                    fit(matrix_net(), problem(), steps=20, every=10, track=FirstParameter(), out=tmp_path)
            return super().measure(moment)

    history = fit(matrix_net(), problem(), steps=20, every=10, track=Again(), out=tmp_path)
    assert history.steps.tolist() == [0, 10, 20]
    assert History.load(tmp_path).steps.tolist() == [0, 10, 20]


def test_what_does_not_fit_leaves_the_folder_free(tmp_path):
    entries = (torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, float("inf")]))
    with pytest.raises(ValueError, match=r"loss|finite"):
        fit(matrix_net(), entries, steps=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fit(matrix_net(), problem(), steps=2, out=tmp_path / "run")


# -- damage ----------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    whole = fit(expected := matrix_net(), problem(), steps=40, every=5)
    fit(matrix_net(), problem(), steps=20, every=5, out=tmp_path, save_every=0.0)
    path = tmp_path / "checkpoint.safetensors"
    damage(path)
    with pytest.warns(RuntimeWarning, match=r"checkpoint\.safetensors is not .*\.previous, is used in its place"):
        history = fit(net_ := matrix_net(), problem(), steps=40, every=5, out=tmp_path)
    assert torch.equal(parameters(net_), parameters(expected))
    assert torch.equal(history.loss, whole.loss)
    damage(path)
    damage(previous_of(path))
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=r"checkpoint\.safetensors is not a checkpoint of this library, or is cut short"
    ):
        fit(matrix_net(), problem(), steps=40, every=5, out=tmp_path)
    assert contents(tmp_path) == before


def test_a_damaged_training_gives_way_to_the_one_before(tmp_path):
    classify(expected := net(), task(), settings=SHORT)
    classify(net(), task(), settings=replace(SHORT, epochs=1), out=tmp_path, save_every=0.0)
    flip(tmp_path / "checkpoint.safetensors")
    with pytest.warns(RuntimeWarning, match="is used in its place"):
        classify(model := net(), task(), settings=SHORT, out=tmp_path)
    assert same_state(model, expected)
    flip(tmp_path / "checkpoint.safetensors")
    with pytest.warns(RuntimeWarning, match="is used in its place"):
        load_trained(net(), tmp_path, "last")
    (tmp_path / "result.json").write_text((tmp_path / "result.json").read_text().replace("0.", "1.", 1))
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        ClassifyResult.load(tmp_path / "result.json")


def test_files_of_different_fits_are_told_apart(tmp_path):
    for lr in (0.01, 0.02):
        fit(matrix_net(), problem(), steps=10, every=5, lr=lr, out=tmp_path / str(lr))
    for name in ("history.safetensors", "settings.json"):
        mixed = tmp_path / name.partition(".")[0]
        shutil.copytree(tmp_path / "0.01", mixed)
        shutil.copy(tmp_path / "0.02" / name, mixed)
        with pytest.raises(ValueError, match=r"settings\.json and history\.safetensors are of different runs"):
            History.load(mixed)
        # The fit itself knows better, and puts it right.
        fit(matrix_net(), problem(), steps=10, every=5, lr=0.01, out=mixed)
        assert History.load(mixed).settings["optimizer"]["lr"] == 0.01


def test_every_file_of_a_fit_is_guarded(tmp_path):
    """A change of any bit of any file that is read back is noticed, or changes nothing."""
    fit(matrix_net(), problem(), steps=10, every=5, out=tmp_path / "run")
    expected, rng = History.load(tmp_path / "run"), np.random.default_rng(0)
    for name in ("settings.json", "history.safetensors"):
        path, refused = tmp_path / "run" / name, 0
        content = path.read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            try:
                found = History.load(tmp_path / "run")
            except ValueError as error:
                refused += str(path.parent) in str(error)
            else:
                assert found.settings == expected.settings
                assert all(
                    torch.equal(a, b)
                    for a, b in zip(found.tensors().values(), expected.tensors().values(), strict=True)
                )
                refused += 1
        assert refused == 60
        path.write_bytes(content)


# -- probes ----------------------------------------------------------------------------------------------


def test_files_of_different_probes_are_told_apart(tmp_path):
    data = load().take(120, 60)
    for rank in (1, 2):
        rank_fit(data, **PROBE | {"ranks": [rank]}, out=tmp_path / str(rank))
    first, second = tmp_path / "1", tmp_path / "2"
    (one,), (two,) = ((folder / "fits").glob("*.json") for folder in (first, second))
    before = one.read_bytes()
    shutil.copy(two, one)
    for read in (lambda: RankFit.load(first), lambda: rank_fit(data, **PROBE, out=first)):
        with pytest.raises(ValueError, match=rf"{one.name} holds fits of another run"):
            read()
    one.write_bytes(before)
    shutil.copy(one, one.with_name("copy.json"))
    with pytest.raises(ValueError, match=r"holds a fit that another file of the run, or itself, holds too"):
        RankFit.load(first)
    one.with_name("copy.json").unlink()
    shutil.copy(second / "settings.json", first)
    with pytest.raises(ValueError, match=r"settings\.json is of another run than the folder"):
        rank_fit(data, **PROBE, out=first)
    with pytest.raises(ValueError, match="holds fits of another run than the settings beside it say"):
        RankFit.load(first)


# -- disks -----------------------------------------------------------------------------------------------


@contextmanager
def full_disk():
    """No file can grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_finished_run_is_read_where_nothing_can_be_written(tmp_path):
    data = load().take(120, 60)
    history = fit(matrix_net(), problem(), steps=10, out=tmp_path / "fit")
    result = classify(net(), task(), settings=SHORT, out=tmp_path / "training")
    probe = rank_fit(data, **PROBE, out=tmp_path / "probe")
    before = contents(tmp_path)
    with full_disk():
        assert torch.equal(fit(matrix_net(), problem(), steps=10, out=tmp_path / "fit").loss, history.loss)
        assert classify(net(), task(), settings=SHORT, out=tmp_path / "training") == result
        assert rank_fit(data, **PROBE, out=tmp_path / "probe").records == probe.records
    assert contents(tmp_path) == before


def test_nothing_is_computed_that_could_not_be_written(tmp_path):
    data, computed = load().take(120, 60), []

    class Note(FirstParameter):
        def measure(self, moment):
            computed.append(moment.step)
            return super().measure(moment)

    fit(matrix_net(), problem(), steps=10, out=tmp_path / "fit", track=Note())
    rank_fit(data, **PROBE, out=tmp_path / "probe")
    next((tmp_path / "probe" / "fits").glob("*.json")).unlink()
    computed.clear()
    with full_disk():
        for out in ("fit", "new"):
            with pytest.raises(OSError, match=rf"cannot write to the folder {tmp_path / out} "):
                fit(matrix_net(), problem(), steps=20, out=tmp_path / out, track=Note())
        with pytest.raises(OSError, match=rf"cannot write to the folder {tmp_path / 'probe' / 'fits'} "):
            rank_fit(data, **PROBE, out=tmp_path / "probe")
        with pytest.raises(OSError, match=rf"cannot write to the folder {tmp_path / 'training'} "):
            classify(net(), task(), settings=SHORT, out=tmp_path / "training")
    assert not computed
    assert not (tmp_path / "new").exists()
    assert json.loads((tmp_path / "probe" / "claim.json").read_text())["kind"] == "probe"
