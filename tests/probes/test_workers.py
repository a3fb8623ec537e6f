"""Probes on workers: a cluster's, or processes that are killed."""

import multiprocessing
import shutil
import sys
import time

import pytest
import torch
from cluster_cases import address, cluster  # noqa: F401 (fixtures)
from job_cases import killing, until

from htf._files import read_json
from htf._folders import Folder, claim_folder
from htf.cli import main
from htf.datasets import load
from htf.probes import RankFit, rank_fit
from htf.probes.jobs import Inputs, Job, make_jobs
from htf.training import FitSettings

# Two jobs that take long enough to be killed in the middle.
LONG = {"formats": ["ht"], "ranks": [2, 3], "twins": ["original"], "settings": FitSettings(epochs=16)}
SHORT = {"ranks": [1, 2], "twins": ["original", "random_images"], "settings": FitSettings(epochs=2)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have, so that sums are rounded alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data():
    return load().take(300, 100)


def inputs_of(data, settings):
    return Inputs(data, 2, settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def long_result(data):
    return rank_fit(data, **LONG, progress=False)


def in_the_middle(folder, pid):
    """For `killing`: a worker, once both jobs have been trained for a while and none is finished."""

    def find(killed):
        locks = list(folder.glob("locks/*"))
        if len(locks) < 2 or max(lock.stat().st_mtime for lock in locks) > time.time() - 0.4:
            return None
        assert not list(folder.glob("fits/*.json"))
        return pid()

    return find


def test_a_cluster_finds_the_same(data, address, tmp_path):  # noqa: F811
    here = rank_fit(data, **SHORT, progress=False)
    there = rank_fit(data, **SHORT, scheduler=address, out=tmp_path / "run", progress=False)
    assert there.records == here.records
    assert there.variance == here.variance
    assert there.settings == here.settings
    assert RankFit.load(tmp_path / "run").records == here.records
    # And without a folder.
    assert rank_fit(data, **SHORT, scheduler=address, progress=False).records == here.records


def test_a_cluster_loses_nothing_with_a_worker(data, long_result, address, cluster, tmp_path):  # noqa: F811
    find = in_the_middle(tmp_path, lambda: cluster.workers[0].pid)
    with pytest.warns(RuntimeWarning, match=r"worker \S+ was lost in job ht_\d_original0"), killing(find):
        there = rank_fit(data, **LONG, scheduler=address, out=tmp_path, progress=False)
    assert there.records == long_result.records
    assert {path.suffix for path in (tmp_path / "fits").iterdir()} == {".json"}


def test_processes_lose_nothing_with_one_of_them(data, long_result, tmp_path):
    others = multiprocessing.active_children()  # the cluster's
    find = in_the_middle(tmp_path, lambda: next(p.pid for p in multiprocessing.active_children() if p not in others))
    with pytest.warns(RuntimeWarning, match=r"ended abruptly .* in job ht_\d_original0"), killing(find):
        again = rank_fit(data, **LONG, workers=2, out=tmp_path, progress=False)
    assert again.records == long_result.records


def test_what_another_process_has_finished_is_read(data, tmp_path, monkeypatch):
    one = rank_fit(data, formats=["cp"], **SHORT, out=tmp_path, progress=False)
    monkeypatch.setattr("htf.probes.jobs.LeastSquaresFit", None)
    settings = SHORT["settings"]
    run = Job.within(Folder(tmp_path, "probe", {}, None), inputs=inputs_of(data, settings), settings=settings)
    job = next(make_jobs(["cp"], SHORT["ranks"], [6], SHORT["twins"], [0]))
    assert [fit["rank"] for fit in run(job, until)["records"]] == [rank for rank, *_ in job.fits]
    assert one.complete


def test_a_worker_that_does_not_see_the_folder(data, tmp_path):
    settings = SHORT["settings"]
    folder = claim_folder(tmp_path / "run", "probe", {})
    run = Job.within(folder, inputs=inputs_of(data, settings), settings=settings)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="is not the folder of this run; all workers must see the same one"):
        run(next(make_jobs(["cp"], [1], [6], ["original"], [0])), until)
    assert not list(tmp_path.iterdir())


def test_plans_do_not_travel(data):
    inputs = Inputs(data, 2, FitSettings(), torch.device("cpu"))
    job = next(make_jobs(["cp"], [1], [6], ["original"], [0]))
    plans = inputs.plans(job, inputs.network(job))
    assert inputs.plans(job, inputs.network(job)) is plans
    assert inputs.__getstate__()["_latest"] == (None, ([], []))
    assert inputs.__getstate__()["data"] is data


def test_the_command(address, tmp_path, capsys):  # noqa: F811
    options = ["--ranks", "1,2", "--format", "cp", "--twins", "original", "--epochs", "2"]
    assert main(["probe", *options, "--scheduler", address, "--out", str(tmp_path / "there")]) == 0
    there = capsys.readouterr().out
    assert main(["probe", *options, "--workers", "1", "--out", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out == there.replace(str(tmp_path / "there"), str(tmp_path / "here"))
    assert read_json(tmp_path / "there" / "settings.json")["device"].startswith("cpu")


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--scheduler", "there"], "htf: scheduler is 'there'; expected an address such as tcp://host:8786"),
            (["--scheduler", "tcp://127.0.0.1:1"], "htf: no scheduler answers at tcp://127.0.0.1:1 within 0.2 s"),
            (
                ["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"],
                "htf: workers is 2, scheduler 'tcp://127.0.0.1:1'",
            ),
        ],
    )
    def test_the_command_says_so_and_claims_no_folder(self, options, message, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("htf.jobs._dask.CONNECT_SECONDS", 0.2)
        assert main(["probe", *options, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(message)
        assert not (tmp_path / "run").exists()

    def test_the_missing_extra(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        assert main(["probe", "--scheduler", "tcp://here:8786", "--out", str(tmp_path)]) == 2
        assert "htf: scheduler needs dask.distributed: install htf-tensors[cluster]" in capsys.readouterr().err

    def test_a_device_that_workers_do_not_have(self, data, address, tmp_path):  # noqa: F811
        with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
            rank_fit(data, **SHORT, device="gpu", scheduler=address, out=tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()

    def test_a_failing_job_is_named_on_the_last_line(self, tmp_path, capsys, monkeypatch):
        def full(path, content):
            raise OSError("no space left")

        monkeypatch.setattr("htf.probes.jobs.write_job", full)
        options = ["--ranks", "1", "--format", "cp", "--twins", "original", "--epochs", "1", "--workers", "1"]
        assert main(["probe", *options, "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("htf: no space left (in job cp_1_original0_")
