import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import dask
import pytest
from cluster_cases import address, cluster  # noqa: F401 (fixtures)
from distributed import LocalCluster
from job_cases import (
    Alone,
    EndsOnArrival,
    FullDisk,
    Heavy,
    KilledOnArrival,
    Outlast,
    Squares,
    When,
    alive,
    fail_below_zero,
    killing,
    meanwhile,
    newest,
    square,
    until,
)

from htf.jobs import _dask, _processes, claimed, map_jobs
from htf.jobs._work import portable_errors
from htf.jobs.mapping import _Progress

JOBS = [3, 1, 4, 1, 5, 9, 2, 6]
AGAIN_THERE = r"worker tcp://\S+ was lost in job number {}; tcp://\S+ does the job again"


@pytest.fixture(params=["here", "cluster"])
def where(request):
    return {"scheduler": request.getfixturevalue("address")} if request.param == "cluster" else {}


def collect(found, *arguments, **settings):
    """Keep what comes before an error."""
    for each in map_jobs(*arguments, name="number {}".format, **{"progress": False, **settings}):
        found.append(each)


def told(warned, text):
    """Whether a warning has been given, among those that `pytest.warns` has caught so far."""
    return any(text in str(warning.message) for warning in warned)


def interrupt_when(condition):
    until(condition)
    os.kill(os.getpid(), signal.SIGINT)


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_every_job_is_done_once(where, capsys):
    found = list(map_jobs(square, JOBS, progress=True, **where))
    assert sorted(found) == sorted((job, job * job) for job in JOBS)
    err = capsys.readouterr().err
    assert "100%" in err
    assert "8 of 8 jobs" in err
    assert "left" in err


def test_here_the_order_is_kept():
    assert [job for job, _ in map_jobs(square, JOBS, cost=float, progress=False)] == JOBS


def test_elsewhere_the_dearest_start_first(address, tmp_path):  # noqa: F811
    run = When(tmp_path, first=(3, 9))
    began = dict(map_jobs(run, [3, 9, 1, 2], cost=float, scheduler=address, progress=False))
    assert max(began[9], began[3]) < min(began[1], began[2])


def test_no_jobs(where):
    assert list(map_jobs(square, [], progress=False, **where)) == []


def test_processes_that_die_and_jobs_that_fail(tmp_path, capsys):
    run = Squares(tmp_path, once=(8,), always=(9,))
    found = []

    def newest_9(killed):
        # Job 9 outlasts job -1: what fails last leaves no others to go on, and there is no such warning.
        return newest(run, 9)(killed) if not killed or told(warned, "number -1 failed") else None

    with (
        pytest.warns(RuntimeWarning, match="ended abruptly|failed") as warned,
        killing(newest(run, 8)) as killed,
        killing(newest_9, times=2),
        pytest.raises((ChildProcessError, ValueError, RuntimeError)) as error,  # whichever came first
    ):
        collect(found, run, [1, -1, 8, 2, -2, 9, 3], workers=2, cost=abs, progress=True)
    assert sorted(found) == [(1, 1), (2, 4), (3, 9), (8, 64)]
    assert len(run.attempts(8)) == len(run.attempts(9)) == 2
    assert killed[0] in run.attempts(8)
    assert all(len(run.attempts(job)) == 1 and os.getpid() not in run.attempts(job) for job in (1, 2, 3))
    said = sorted(str(warning.message) for warning in warned)
    assert [text.partition("number ")[2].partition(";")[0] for text in said if "ended" in text and "again" in text] == [
        "8",
        "9",
    ]
    assert any("job number -1 failed (ValueError: there is no job -1); the others go on" in text for text in said)
    # What was raised, and the others in its notes.
    whole = " ".join([f"{error.value} ({error.value.__notes__[0]})", *error.value.__notes__[1:]])
    assert re.search(
        r"ended abruptly [^;]* 2 times in this job; what is finished is kept[^(]*\(in job number 9\)", whole
    )
    assert "there is no job -1 (in job number -1)" in whole
    assert "StuckError: job -2: stuck (in job number -2)" in whole
    assert "7 of 7 jobs" in capsys.readouterr().err


# On a busy machine the death may be seen only once job 3 is given to the process.
@pytest.mark.filterwarnings("ignore:.* in job 3; a new one:RuntimeWarning")
def test_an_idle_process_that_dies_and_the_end_of_the_loop(tmp_path):
    run = Squares(tmp_path, always=(2, 3))
    jobs = map_jobs(run, [1, 2, 3], workers=2, cost=lambda job: -job, progress=False)
    assert next(jobs) == (1, 1)
    # Its process gets job 3 when the next result is asked for.
    (idle,) = run.attempts(1)
    os.kill(idle, signal.SIGKILL)
    until(lambda: not alive(idle))
    until(lambda: run.attempts(2))
    threading.Thread(target=interrupt_when, args=(lambda: run.attempts(3) and len(run.attempts(2)) == 2,)).start()
    with (
        pytest.warns(RuntimeWarning, match="in job 2; a new one"),
        killing(newest(run, 2)),
        pytest.raises(KeyboardInterrupt),
    ):
        next(jobs)
    assert (tmp_path / "2.stopped").exists()
    assert (tmp_path / "3.stopped").exists()
    assert not any(map(alive, run.attempts(2) + run.attempts(3)))


def test_a_process_that_is_killed_while_it_starts_is_replaced(tmp_path):
    """Also where it is to be sent more than a pipe holds: this process must not wait for it forever."""
    others, run = multiprocessing.active_children(), Heavy(Squares(tmp_path), bytes(1 << 22))

    def just_started(killed):
        # It takes a second at least to import the library.
        return next((p.pid for p in multiprocessing.active_children() if p not in others), None)

    with pytest.warns(RuntimeWarning, match="was killed while it started"), killing(just_started):
        found = list(map_jobs(run, [1, 2], workers=2, progress=False))
    assert sorted(found) == [(1, 1), (2, 4)]


def test_processes_that_are_killed_again_and_again_while_they_start(monkeypatch):
    monkeypatch.setattr(_processes, "STARTS", 1)
    with pytest.raises(ChildProcessError, match=r"killed while it started \(signal 9; out of memory\?\) 1 times in a"):
        list(map_jobs(KilledOnArrival(), [1, 2], workers=2, progress=False))


def test_processes_that_cannot_start():
    with pytest.raises(ChildProcessError, match="a worker process ended while it started; a script must"):
        list(map_jobs(EndsOnArrival(), [1, 2], workers=2, progress=False))


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\nfrom htf.jobs import map_jobs\nfrom job_cases import Squares\n"
        "if __name__ == '__main__':\n"
        f"    run = Squares(Path({str(tmp_path)!r}), always=(4,))\n"
        "    for found in map_jobs(run, [4, 5], workers=2, progress=False): pass\n"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment())
    run = Squares(tmp_path)
    pids = until(lambda: run.attempts(4)) + until(lambda: run.attempts(5))
    parent.kill()
    parent.wait()
    until(lambda: not any(map(alive, pids)))
    assert (tmp_path / "4.stopped").exists()


class TestCluster:
    def test_nothing_is_lost_with_a_worker(self, address, tmp_path):  # noqa: F811
        run, found = Squares(tmp_path, once=(4,)), []
        with pytest.warns(RuntimeWarning, match=AGAIN_THERE.format(4)), killing(newest(run, 4)) as killed:
            collect(found, run, [3, 4, 5, 6], scheduler=address)
        assert sorted(found) == [(3, 9), (4, 16), (5, 25), (6, 36)]
        assert len(run.attempts(4)) == 2
        assert killed[0] in run.attempts(4)
        assert all(len(run.attempts(job)) == 1 for job in (3, 5, 6))

    def test_a_job_that_takes_down_every_worker(self, tmp_path):
        run, found = Squares(tmp_path, always=(4,)), []
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 0}),
            LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as strict,
            killing(newest(run, 4)),
            pytest.raises(ChildProcessError, match=r"ended abruptly .* 1 times in this job") as error,
        ):
            collect(found, run, [4], scheduler=strict.scheduler_address)
        assert error.value.__notes__ == ["in job number 4"]

    @pytest.mark.parametrize("end", ["close", "interrupt", "error"])
    def test_jobs_stop_with_the_loop(self, address, tmp_path, end):  # noqa: F811
        run, found = Squares(tmp_path, always=(1,)), []
        if end == "close":
            jobs = map_jobs(run, [2, 1], scheduler=address, progress=False)
            assert next(jobs) == (2, 4)
            until(lambda: run.attempts(1))
            jobs.close()
        elif end == "interrupt":
            threading.Thread(target=interrupt_when, args=(lambda: found and run.attempts(1),)).start()
            with pytest.raises(KeyboardInterrupt):
                collect(found, run, [1, 2], scheduler=address)
            assert found == [(2, 4)]
        else:
            with pytest.raises(OSError, match="no space left on device") as error:
                collect(found, FullDisk(run, wait_for=(1,)), [1, 0], scheduler=address)
            assert error.value.__notes__ == ["in job number 0"]
        until((tmp_path / "1.stopped").exists)

    def test_a_scheduler_file(self, address, tmp_path):  # noqa: F811
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps({"address": address}))
        for scheduler in (file, str(file)):
            assert list(map_jobs(square, [3], scheduler=scheduler, progress=False)) == [(3, 9)]

    def test_a_worker_of_another_version(self, address, monkeypatch):  # noqa: F811
        monkeypatch.setattr(_dask, "__version__", "0.0")
        with pytest.raises(ImportError, match=r"a worker has htf \S+; this is htf 0\.0"):
            list(map_jobs(square, [1], scheduler=address, progress=False))

    def test_workers_that_come_and_a_scheduler_that_goes(self, tmp_path):
        run, found = Squares(tmp_path, always=(1,)), []
        with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0") as short:

            def come_and_go():
                until(lambda: told(warned, "no workers at present"))
                short.scale(1)
                until(lambda: found and run.attempts(1))
                short.close()

            with (
                pytest.warns(
                    RuntimeWarning, match=r"scheduler tcp://\S+ has no workers at present; waiting for one"
                ) as warned,
                meanwhile(come_and_go),
                pytest.raises(ConnectionError, match=r"scheduler at \S+ is lost; what is finished is kept"),
            ):
                collect(found, run, [1, 2], scheduler=short.scheduler_address)
        assert found == [(2, 4)]


class TestFailingJobs:
    def test_others_go_on_and_the_job_is_named(self, where, tmp_path):
        found, go_on = [], tmp_path / "go on"
        with (
            pytest.warns(
                RuntimeWarning, match=r"job number -1 failed \(ValueError: there is no job -1\); the others"
            ) as warned,
            meanwhile(lambda: until(lambda: told(warned, "number -1 failed")) and go_on.touch()),
            pytest.raises(ValueError, match="there is no job -1") as error,
        ):
            collect(found, Outlast(go_on), [-1, 1, 2, 3], cost=lambda job: -job, **where)
        assert sorted(found) == [(1, 1), (2, 4), (3, 9)]
        assert error.value.__notes__ == ["in job number -1"]

    def test_what_others_would_meet_stops_all(self, tmp_path):
        run, found = Squares(tmp_path), []
        with pytest.raises(OSError, match="no space left") as error:
            collect(found, FullDisk(run, wait_for=()), [1, 0, 2])
        assert error.value.__notes__ == ["in job number 0"]
        assert found == [(1, 1)]

    def test_an_error_that_cannot_travel(self, address):  # noqa: F811
        with pytest.raises(RuntimeError, match="StuckError: job -2: stuck"):
            list(map_jobs(fail_below_zero, [-2], scheduler=address, progress=False))


class TestClaims:
    def test_two_processes_do_a_job_once(self, address, tmp_path):  # noqa: F811
        found = [result for _, result in map_jobs(Alone(tmp_path), ["a", "b"], scheduler=address, progress=False)]
        assert sorted(found) == ["found", "made"]
        entered, left = (tmp_path / "log").read_text().splitlines()
        assert entered.split()[1] == left.split()[1]

    def test_it_is_free_after_its_holder_was_killed(self, tmp_path):
        # The same kind of lock, held by a process that need not import all of the library.
        script = "import filelock, sys, time\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\n"
        script += "print('held', flush=True)\ntime.sleep(60)"
        lock = tmp_path / "lock"
        with subprocess.Popen([sys.executable, "-c", script, lock], stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            reports = []

            def report(share):
                reports.append(share)
                holder.kill()

            with pytest.warns(RuntimeWarning, match="lock is held by another process"), claimed(lock, report):
                assert reports[0] == 0.0

    def test_who_waits_can_be_stopped(self, tmp_path):
        def stop(share):
            raise KeyboardInterrupt

        with (
            claimed(tmp_path / "lock", stop),
            pytest.warns(RuntimeWarning, match="waiting for it"),
            pytest.raises(KeyboardInterrupt),
            claimed(tmp_path / "lock", stop),
        ):
            pass
        with claimed(tmp_path / "lock", stop):
            pass


def test_progress_weighs_shares_by_cost():
    with _Progress([1.0, 3.0], True) as bar:
        bar.show(1, 0.5)
        assert bar._bar.n == pytest.approx(1.5)
        bar.show(1, 0.0)  # it begins again elsewhere
        bar.finish(0)
        assert bar._bar.n == pytest.approx(1.0)
        bar.finish(1)
        bar.show(1, 0.25)  # comes late
        assert bar._bar.n == pytest.approx(4.0)
        assert bar.left == 0


@pytest.mark.parametrize("ending", [SystemExit(0), GeneratorExit(), StopIteration("mine")])
def test_a_job_that_would_end_the_program_fails_alone(ending):
    def run(job, report):
        if job == 1:
            raise ending
        return square(job, report)

    found = []
    with (
        pytest.warns(RuntimeWarning, match="number 1 failed"),
        pytest.raises(RuntimeError, match=re.escape(f"the job raised {ending!r}, which would have ended other jobs")),
    ):
        collect(found, run, [2, 1, 3])
    assert found == [(2, 4), (3, 9)]
    # In processes and on clusters too, where errors travel.
    with pytest.raises(RuntimeError, match="which would have ended other jobs"), portable_errors():
        raise ending


def test_shares_that_are_none_move_no_bar():
    with _Progress([1.0, 1.0], True) as bar:
        for share, shown in ((0.5, 0.5), (float("nan"), 0.5), (7.0, 1.0), (-1.0, 0.0)):
            bar.show(0, share)
            assert bar._bar.n == pytest.approx(shown)


class TestBadInput:
    @pytest.mark.parametrize("cost", [float("nan"), float("inf")])
    def test_costs(self, cost):
        with pytest.raises(ValueError, match=f"cost of job 3 is {cost}; expected a finite number"):
            map_jobs(square, [3], cost=lambda job: cost)

    def test_what_is_run(self):
        with pytest.raises(TypeError, match="run is a int; expected a function"):
            map_jobs(3, [1])
        with pytest.raises(TypeError, match="jobs is a int; expected an iterable"):
            map_jobs(square, 3)

    def test_counts(self):
        with pytest.raises(ValueError, match="workers is 0; expected at least 1"):
            map_jobs(square, [1], workers=0)
        with pytest.raises(ValueError, match="threads is 0; expected at least 1"):
            map_jobs(square, [1], threads=0)

    def test_workers_and_scheduler(self):
        with pytest.raises(ValueError, match="workers is 2, scheduler 'tcp://here:1'; expected one of them"):
            map_jobs(square, [1], workers=2, scheduler="tcp://here:1")

    @pytest.mark.parametrize("scheduler", ["", "here", "/nowhere/scheduler.json"])
    def test_neither_an_address_nor_a_file(self, scheduler):
        with pytest.raises(ValueError, match=f"scheduler is '{scheduler}'; expected an address such as"):
            map_jobs(square, [1], scheduler=scheduler)

    def test_an_unknown_kind_of_address(self):
        with pytest.raises(ValueError, match="scheduler smoke://here:8786 is not an address"):
            list(map_jobs(square, [1], scheduler="smoke://here:8786", progress=False))

    def test_no_scheduler_there(self, monkeypatch):
        monkeypatch.setattr(_dask, "CONNECT_SECONDS", 0.5)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=rf"no scheduler answers at tcp://127.0.0.1:{port} within 0.5 s"):
            list(map_jobs(square, [1], scheduler=f"tcp://127.0.0.1:{port}", progress=False))
        assert time.monotonic() - began < 5

    def test_files_that_are_not_a_schedulers(self, tmp_path):
        file = tmp_path / "scheduler.json"
        file.write_text("{")
        with pytest.raises(ValueError, match=r"scheduler\.json is not valid JSON"):
            map_jobs(square, [1], scheduler=file)
        for content in ("[]", '{"address": 3}'):
            file.write_text(content)
            with pytest.raises(ValueError, match=r"scheduler\.json is not the file of a scheduler: it has no address"):
                map_jobs(square, [1], scheduler=file)

    def test_the_missing_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(ImportError, match=r"install htf-tensors\[cluster\]"):
            map_jobs(square, [1], scheduler="tcp://here:8786")
