"""Jobs in this process, or in local processes that are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any

import torch

from htf.jobs._work import Outcome, Progress, Work, lost_too_often, portable_errors, told_errors

POLL = 0.2
# A job whose process dies is tried once more: a machine short of memory may have room for it later, a crash will not.
ATTEMPTS = 2
# So often in a row a process may be killed while it starts, before its job has begun.
STARTS = 5


def one_by_one(work: Work) -> Iterator[Outcome]:
    """Run the jobs in this process."""
    for index, job in enumerate(work.jobs):
        try:
            with told_errors():
                result = work.run(job, lambda share, i=index: work.on_share(i, share))  # type: ignore[misc]
        except Exception as error:  # told to the caller
            yield Outcome(index, error=error)
        else:
            yield Outcome(index, result)


def in_processes(work: Work, workers: int) -> Iterator[Outcome]:
    """Run the jobs in processes of one job at a time; yields in the order of completion."""
    waiting = list(reversed(range(len(work.jobs))))
    losses: Counter[int] = Counter()
    places = [_Place(work) for _ in range(min(workers, len(waiting)))]
    try:
        while True:
            for place in places:
                if place.future is None and waiting:
                    place.start(waiting.pop())
            busy = {place.future: place for place in places if place.future is not None}
            if not busy:
                return
            done, _ = wait(busy, timeout=POLL, return_when=FIRST_COMPLETED)
            for place in busy.values():
                work.on_share(place.index, place.share)
            for place in (busy[future] for future in done):
                result, error = place.take()
                if not isinstance(error, BrokenProcessPool):
                    yield Outcome(place.index, result, error)
                    continue
                if not place.replace():
                    # The job had not begun: this is no fault of it.
                    warnings.warn(
                        "a worker process was killed while it started (out of memory?); a new one takes its place",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    waiting.append(place.index)
                    continue
                losses[place.index] += 1
                if losses[place.index] == ATTEMPTS:
                    yield Outcome(place.index, error=lost_too_often(ATTEMPTS))
                    continue
                warnings.warn(
                    f"a worker process ended abruptly (out of memory?) in job {work.names[place.index]}; "
                    "a new one does the job again, from its checkpoint if it has one",
                    RuntimeWarning,
                    stacklevel=2,
                )
                waiting.append(place.index)
    finally:
        # All are told before any is waited for.
        for place in places:
            place.stop()
        for place in places:
            place.pool.shutdown(wait=True, cancel_futures=True)


class _Place:
    """A process for one job at a time.

    A pool for each, as the death of a process breaks its whole pool.  What it tells and is told lies in shared memory
    without locks: a process killed while it holds a lock would stop all others.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        # "spawn": forking a process whose libraries have started threads can deadlock.
        self._context = multiprocessing.get_context("spawn")
        self._share, self._stop = self._context.RawValue("d", 0.0), self._context.RawValue("b", 0)
        self._started = self._context.RawValue("b", 0)
        self.index = 0
        self.future: Future[Any] | None = None
        self._failed_starts = 0
        self._process: Any = None
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        self._has_run = False
        marks = self._share, self._stop, self._started
        return ProcessPoolExecutor(1, self._context, _start_worker, (self._work.threads, *marks))

    def replace(self) -> bool:
        """A new process in place of the one that died; whether that one had started.

        Raises
        ------
        ChildProcessError
            If it ended by itself while it started, as any other would, or was killed then too often in a row.
        """
        process, self._process = self._process, None
        self.pool.shutdown(wait=True)
        started = bool(self._started.value)
        self._failed_starts = 0 if started else self._failed_starts + 1
        # Ended by a signal, as by a kill or for want of memory, the code is negative.
        code = 0 if process is None or process.exitcode is None else int(process.exitcode)
        if not started and code >= 0:
            raise ChildProcessError(
                "a worker process ended while it started; a script must start its jobs below "
                'if __name__ == "__main__":, and what runs them must be importable'
            )
        if self._failed_starts == STARTS:
            raise ChildProcessError(
                f"a worker process was killed while it started (signal {-code}; out of memory?) {STARTS} times in a row"
            )
        self._started.value = 0
        self.pool = self._new_pool()
        return started

    def start(self, index: int) -> None:
        self.index, self._share.value = index, 0.0
        job = self._work.jobs[index]
        while self.future is None:
            try:
                # What runs the jobs comes with the first job: what a process is started with has to fit into a pipe, or
                # this one would wait forever for one that was killed before it had read all.
                run = None if self._has_run else self._work.run
                self.future = self.pool.submit(_work, run, job)
                self._has_run = True
                # The pool forgets a process that died.
                self._process = self._process or next(iter((self.pool._processes or {}).values()), None)
            except BrokenProcessPool:  # it died while it had nothing to do
                self.replace()

    def take(self) -> tuple[Any, Exception | None]:
        """Result and error of the job that is done."""
        future, self.future = self.future, None
        assert future is not None
        error = future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error  # an interrupt
        return (None if error else future.result()), error

    @property
    def share(self) -> float:
        return self._share.value

    def stop(self) -> None:
        """Tell the job to save its checkpoint and end."""
        self._stop.value = 1


# The state of a worker process.
_run: Callable[[Any, Progress], Any]
_report: Progress
_started: Any  # set once a job has begun
_busy = threading.Lock()


def _start_worker(threads: int, share: Any, stop: Any, started: Any) -> None:
    global _report, _started
    torch.set_num_threads(threads)

    def report(done: float) -> None:
        share.value = done
        if stop.value:
            raise KeyboardInterrupt

    _report, _started = report, started
    # A terminal interrupts all processes at once; this one is told by its parent, and listens only to the second time.
    signal.signal(signal.SIGINT, _first_interrupt)
    threading.Thread(target=_leave_with_parent, args=(stop,), daemon=True).start()


def _first_interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_with_parent(stop: Any) -> None:
    """End with the parent, even one that was killed: no one would hand out jobs or take results any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.value = 1
    with _busy:  # a job saves its checkpoint first
        os._exit(1)


def _work(run: Callable[[Any, Progress], Any] | None, job: Any) -> Any:
    global _run
    if run is not None:
        _run = run
    # From here on it is the job whose process dies.
    _started.value = 1
    with _busy, portable_errors():
        return _run(job, _report)
