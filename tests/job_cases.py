"""Jobs for tests of running many of them: importable in other processes, with files that tell what they did."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from htf.jobs import FolderJob, claimed
from htf.training import Training, objectives


def until(condition, seconds=120):
    """Wait for a condition; returns what it came to."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found
    return found


def alive(pid):
    """Whether a process is there and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def square(job, report):
    for step in range(4):
        report(step / 4)
    return job * job


@dataclass(frozen=True)
class When:
    """When a job began; the first ones end together, so that none of the others begins before all of these have."""

    folder: Path
    first: tuple[int, ...]

    def __call__(self, job, report):
        began = time.time()
        (self.folder / str(job)).touch()
        if job in self.first:
            until(lambda: all((self.folder / str(other)).exists() for other in self.first))
        return began


@dataclass(frozen=True)
class Squares:
    """Squares of numbers; leaves a file NUMBER.PID for each attempt, and may not end before it is killed or stopped."""

    folder: Path
    once: tuple[int, ...] = ()  # jobs whose first attempt does not end
    always: tuple[int, ...] = ()  # jobs of which none does

    def attempts(self, job):
        return [int(path.suffix[1:]) for path in self.folder.glob(f"{job}.[0-9]*")]

    def __call__(self, job, report):
        if job < 0:
            return fail_below_zero(job, report)
        first = not self.attempts(job)
        report(0.25)
        (self.folder / f"{job}.{os.getpid()}").touch()
        try:
            while job in self.always or (first and job in self.once):
                time.sleep(0.02)
                report(0.5)
        except KeyboardInterrupt:
            (self.folder / f"{job}.stopped").touch()
            raise
        return job * job


class StuckError(Exception):
    """Cannot be unpickled, as its constructor takes more than it passes on."""

    def __init__(self, job, why):
        super().__init__(f"job {job}: {why}")


def fail_below_zero(job, report):
    if job < -1:
        raise StuckError(job, "stuck")
    if job < 0:
        raise ValueError(f"there is no job {job}")
    return job * job


@dataclass(frozen=True)
class Outlast:
    """Fails below zero; other jobs end only once a file is there."""

    go_on: Path

    def __call__(self, job, report):
        if job >= 0:
            until(self.go_on.exists)
        return fail_below_zero(job, report)


@dataclass(frozen=True)
class FullDisk:
    """Meets a full disk in job 0, once the others have begun."""

    others: Squares
    wait_for: tuple[int, ...]

    def __call__(self, job, report):
        if job == 0:
            until(lambda: all(self.others.attempts(other) for other in self.wait_for))
            raise OSError("no space left on device")
        return self.others(job, report)


class EndsOnArrival:
    """Ends the process that it is sent to."""

    def __call__(self, job, report):
        raise AssertionError("it never arrives")

    def __reduce__(self):
        return os._exit, (1,)


class KilledOnArrival(EndsOnArrival):
    """Kills the process that it is sent to."""

    def __reduce__(self):
        return _kill_this, ()


def _kill_this():
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Heavy:
    """What does the jobs, with data that takes a while to be sent."""

    run: Squares
    data: bytes

    def __call__(self, job, report):
        return self.run(job, report)


@dataclass(frozen=True)
class Alone:
    """Notes in a file when it enters and leaves its claim, and finishes a job only if no one has."""

    folder: Path

    def __call__(self, job, report):
        with claimed(self.folder / "lock", report):
            if (self.folder / "done").exists():
                return "found"
            with (self.folder / "log").open("a") as log:
                log.write(f"in {job}\n")
                log.flush()
                time.sleep(0.5)
                log.write(f"out {job}\n")
            (self.folder / "done").touch()
            return "made"


@contextmanager
def meanwhile(do):
    """Do something in the background, and wait for its end."""
    thread = threading.Thread(target=do)
    thread.start()
    yield
    thread.join()


@contextmanager
def killing(find_pid, times=1):
    """Kill -9, in the background, the processes that `find_pid` comes up with."""
    killed = []

    def kill():
        for _ in range(times):
            pid = until(lambda: find_pid(killed))
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with meanwhile(kill):
        yield killed
    assert len(killed) == times


def newest(run, job):
    """For `killing`: the process of an attempt that was not killed yet, once it is in the middle of the job."""

    def find(killed):
        begun = time.time() - 0.4
        attempts = [path for path in run.folder.glob(f"{job}.[0-9]*") if path.stat().st_mtime < begun]
        return next((pid for path in attempts if (pid := int(path.suffix[1:])) not in killed), None)

    return find


@dataclass(frozen=True)
class Slope(FolderJob):
    """A few steps of a training whose end depends on all of them."""

    rate: float
    seed: int = 0

    columns = ("seed", "rate", "loss", "settings_sha256")

    def compute(self, folder, report, *, steps=6):
        def loss(model, generator):
            x = torch.randn(8, 3, generator=generator)
            return (model(x) - x.sum(1, keepdim=True)).square().mean()

        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            model = torch.nn.Linear(3, 1)
        training = Training(model, objectives.function(loss), optimizer="adam", lr=self.rate, out=folder, seed=7)
        history = training.run(steps, on_advance=lambda: report(training.step / steps))
        return {"loss": float(history.loss[-1])}
