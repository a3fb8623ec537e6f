"""Jobs on a dask.distributed cluster."""

from __future__ import annotations

import importlib
import re
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from htf._files import read_plain_json
from htf._version import __version__
from htf.jobs._work import Outcome, Progress, Work, lost_too_often, portable_errors

POLL = 0.1
CONNECT_SECONDS = 5.0
# Seconds between two looks at the cluster's workers, and between two reports of a job.
LOOK_EVERY, TELL_EVERY = 1.0, 0.5


def address_of(scheduler: str | Path) -> str:
    """The address in an argument that is one, or the path of a scheduler file."""
    text = str(scheduler)
    if isinstance(scheduler, str) and ("://" in text or re.fullmatch(r"[\w.-]+:\d+", text)):
        return text
    if not Path(text).is_file():
        raise ValueError(
            f"scheduler is {text!r}; expected an address such as tcp://host:8786, or the path of a scheduler file"
        )
    content = read_plain_json(Path(text))
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str):
        raise ValueError(f"{text} is not the file of a scheduler: it has no address")
    return address


def distributed() -> Any:
    """The package, or an ImportError that names the extra."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            "scheduler needs dask.distributed: install htf-tensors[cluster] from a checkout, "
            "pip install -c constraints.txt '.[cluster]'"
        ) from error


def on_cluster(work: Work, address: str) -> Iterator[Outcome]:
    """Run the jobs on the workers of a scheduler; yields in the order of completion."""
    with _connected(address) as client:
        cluster = _Cluster(work, client, address)
        while cluster.unfinished:
            cluster.look()
            cluster.hand_out()
            time.sleep(POLL)
            cluster.listen()
            yield from cluster.take()
        # What still runs when the client leaves is no one's: the workers stop it, see `_on_worker`.


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    dask, package = importlib.import_module("dask"), distributed()
    try:
        client = package.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except ValueError as error:
        raise ValueError(f"scheduler {address} is not an address: {error}") from error
    except OSError as error:
        raise ConnectionError(f"no scheduler answers at {address} within {CONNECT_SECONDS:g} s ({error})") from error
    try:
        # The data of a run is sent once, on purpose.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            yield client
    finally:
        client.close(timeout=CONNECT_SECONDS)


class _Cluster:
    """The state of jobs on a cluster, as the client sees it.

    A worker gets no more jobs than it has threads, the next one when one is done.  dask does a job again elsewhere when
    its worker is lost.
    """

    def __init__(self, work: Work, client: Any, address: str) -> None:
        self._work, self._client, self._address = work, client, address
        self._waiting = list(reversed(range(len(work.jobs))))
        self._running: dict[int, Any] = {}  # futures
        self._at: dict[int, str] = {}  # addresses of workers
        self._worker: dict[int, str] = {}  # identities of workers that have begun
        self._threads: dict[str, int] = {}
        self._looked = -LOOK_EVERY
        self._said_empty = False
        self._news: SimpleQueue[tuple[int, float, str, str]] = SimpleQueue()
        self._topic = f"htf-{uuid.uuid4().hex}"
        client.subscribe_topic(self._topic, lambda event: self._news.put(event[1]))
        # A task of its own, so that it is sent to a worker once, and made again if the only worker that has it is lost.
        self._run = client.submit(_itself, work.run, key=f"{self._topic}-run")

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._running)

    def look(self) -> None:
        """See which workers there are."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        if self._client.status != "running":
            raise self._lost()
        try:
            self._threads = dict(self._client.nthreads())
        except (OSError, RuntimeError, ValueError) as error:
            raise self._lost() from error
        self._looked = time.monotonic()
        if not self._threads and not self._said_empty:
            self._said_empty = True
            warnings.warn(
                f"scheduler {self._address} has no workers at present; waiting for one", RuntimeWarning, stacklevel=2
            )

    def hand_out(self) -> None:
        """Give jobs to the workers that have a thread free."""
        load = Counter(self._at[index] for index in self._running)
        for address, threads in self._threads.items():
            for _ in range(threads - load[address]):
                if not self._waiting:
                    return
                index = self._waiting.pop()
                self._at[index] = address
                self._running[index] = self._client.submit(
                    _on_worker,
                    self._run,
                    self._work.jobs[index],
                    (index, self._topic, self._work.threads, __version__),
                    key=f"{self._work.names[index]}-{self._topic}-{index}",
                    workers=[address],
                    allow_other_workers=True,  # should this one be lost
                )

    def listen(self) -> None:
        """Hear from the jobs how far they are, and where."""
        while True:
            try:
                index, share, worker, address = self._news.get_nowait()
            except Empty:
                return
            if self._worker.get(index, worker) != worker:
                warnings.warn(
                    f"the worker {self._at[index]} was lost in job {self._work.names[index]}; {address} does the job "
                    "again, from its checkpoint if it has one",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._worker[index], self._at[index] = worker, address
            self._work.on_share(index, share)

    def take(self) -> Iterator[Outcome]:
        """Yield the outcomes of jobs that have ended since the last call."""
        for index in [index for index, future in self._running.items() if future.done()]:
            future = self._running.pop(index)
            if future.status == "finished":
                try:
                    result = future.result()
                except CancelledError as error:  # lost this very moment
                    raise self._lost() from error
                yield Outcome(index, result)
            elif future.status == "error":
                raised = future.exception()
                if isinstance(raised, distributed().KilledWorker):
                    raised = lost_too_often(raised.allowed_failures + 1)
                yield Outcome(index, error=raised.with_traceback(future.traceback()))
            else:  # cancelled or lost, which this client never asks for
                raise self._lost()

    def _lost(self) -> ConnectionError:
        return ConnectionError(
            f"the scheduler at {self._address} is lost; what is finished is kept, and the same command goes on"
        )


_LEAVING = ("closing", "closing_gracefully", "closed")


def _itself(run: Any) -> Any:
    return run


def _on_worker(run: Callable[[Any, Progress], Any], job: Any, about: tuple[int, str, int, str]) -> Any:
    """Run a job, telling the client how far it is; stops when the client does not want it any more, or the worker ends.

    A worker that is told to end gives its jobs back to the scheduler, with their checkpoints.
    """
    index, topic, threads, version = about
    if version != __version__:
        raise ImportError(f"a worker has htf {__version__}; this is htf {version}")
    # One number for the thread that runs the job.
    torch.set_num_threads(threads)
    worker = distributed().get_worker()
    key = worker.get_current_task()
    told = -TELL_EVERY

    def report(share: float) -> None:
        nonlocal told
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled" or worker.status.name in _LEAVING:
            raise KeyboardInterrupt
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            worker.log_event(topic, (index, share, worker.id, worker.address))

    try:
        with portable_errors():
            report(0.0)
            return run(job, report)
    except KeyboardInterrupt:
        # It would end the worker; and should someone want the task again by now, it is done again.
        raise distributed().Reschedule from None
