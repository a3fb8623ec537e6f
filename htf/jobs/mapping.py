"""Many jobs: one after another, in local processes, or on a dask.distributed cluster."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from htf._checks import finite, positive
from htf._progress import bar_file
from htf.jobs._dask import address_of, distributed, on_cluster
from htf.jobs._processes import in_processes, one_by_one
from htf.jobs._work import Progress, Work

Job = TypeVar("Job")
Result = TypeVar("Result")
LOOK_AT_LOCK_EVERY = 0.2


def map_jobs(
    run: Callable[[Job, Progress], Result],
    jobs: Iterable[Job],
    *,
    workers: int = 1,
    scheduler: str | Path | None = None,
    name: Callable[[Job], str] = str,
    cost: Callable[[Job], float] | None = None,
    threads: int = 1,
    progress: bool | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Run jobs here, in local processes or on a cluster, and yield what comes of each as it comes.

    Nothing is lost with a worker: a job whose worker is killed is done again by another one.  So a job may begin twice;
    one that writes files holds `claimed` meanwhile, looks first for its finished file, and goes on from its checkpoint.

    Parameters
    ----------
    run : callable
        ``run(job, report)`` returns the result of a job, as plain values.  It calls ``report(share)`` now and then with
        the share of the job done, from 0 to 1.  When the run is stopped, report raises KeyboardInterrupt, after which
        the job saves its checkpoint (as `Resumable.run_to_end` does) and raises it again.  With workers or a
        scheduler, `run` and the jobs are pickled, and must be importable there.
    jobs : iterable
    workers : int
        Local processes; 1 stays in this process.  With more, a script must call this below
        ``if __name__ == "__main__":``, as multiprocessing asks.
    scheduler : str or Path, optional
        Of dask.distributed, in place of local processes: its address, such as "tcp://host:8786", or its scheduler
        file.  A worker gets as many jobs at once as it has threads.  Workers come and go as they like; all need this
        library in one version, and files that jobs share on a disk that all see.
    name : callable
        From a job to what it is called in messages.
    cost : callable, optional
        From a job to its cost, in any unit, for the time left; processes and workers start the dearest first.
        By default all cost the same.
    threads : int
        Of torch in each process or worker; this process keeps its own.
    progress : bool, optional
        Show a bar with the time left; by default where standard error is a terminal.

    Yields
    ------
    (job, result)
        In the order of completion.

    Raises
    ------
    ValueError
        If scheduler is neither an address nor a scheduler file, or comes with workers; for a cost that is not
        finite.
    ImportError
        If scheduler is given and dask.distributed is not installed.
    ConnectionError
        If no scheduler answers, or it is lost.
    ChildProcessError
        If a job takes down its process twice (or as often as the scheduler's allowed-failures say).
    Exception
        What a job raises, with its name as a note.  The other jobs are finished first, and a RuntimeWarning names it
        at once; only an OSError or ImportError, which others would meet as well (a full disk, a missing package),
        stops all of them.

    Warns
    -----
    RuntimeWarning
        When a worker is lost, when a job fails while others are left, and when the scheduler has no workers.

    See Also
    --------
    htf.jobs.FolderJob : jobs that are kept in files and go on where they were stopped.
    htf.jobs.claimed : for jobs that write files in another way.

    Notes
    -----
    An interrupt, and the end of the loop over the results, stop all jobs at their next report.  dask's wire protocol
    is pickle, so a scheduler can run any code in its workers and here: connect only to one that is trusted, on a
    network that is, or over TLS ("tls://host:8786", with certificates from dask's configuration).

    Examples
    --------
    >>> from htf.jobs import map_jobs
    >>> def run(number, report):
    ...     for step in range(number):
    ...         report(step / number)
    ...     return number**2
    >>> dict(map_jobs(run, [1, 2, 3]))
    {1: 1, 2: 4, 3: 9}

    With ``workers=4`` jobs run in four processes, with ``scheduler="tcp://host:8786"`` on a cluster; then `run` is a
    function of a module.
    """
    workers, threads = positive("workers", workers), positive("threads", threads)
    if not callable(run):
        raise TypeError(f"run is a {type(run).__name__}; expected a function of (job, report)")
    if not isinstance(jobs, Iterable):
        raise TypeError(f"jobs is a {type(jobs).__name__}; expected an iterable of jobs")
    jobs = list(jobs)
    address = None
    if scheduler is not None:
        if workers > 1:
            raise ValueError(f"workers is {workers}, scheduler {str(scheduler)!r}; expected one of them")
        distributed()
        address = address_of(scheduler)
    costs = [1.0 if cost is None else finite(f"cost of job {name(job)}", cost(job)) for job in jobs]
    if address is not None or workers > 1:
        # No long job is left to run alone at the end.
        order = sorted(range(len(jobs)), key=lambda k: -costs[k])
        jobs, costs = [jobs[k] for k in order], [costs[k] for k in order]
    return _results(run, jobs, [name(job) for job in jobs], costs, workers, address, threads, progress)


def _results(
    run: Callable[[Job, Progress], Result],
    jobs: list[Job],
    names: list[str],
    costs: list[float],
    workers: int,
    address: str | None,
    threads: int,
    progress: bool | None,
) -> Iterator[tuple[Job, Result]]:
    if not jobs:
        return
    errors: list[Exception] = []
    with _Progress(costs, progress) as bar:
        work = Work(run, jobs, names, threads, bar.show)
        with closing(_outcomes(work, workers, address)) as outcomes:
            for index, result, error in outcomes:
                bar.finish(index)
                if error is None:
                    yield jobs[index], result
                    continue
                error.add_note(f"in job {names[index]}")
                errors.append(error)
                if _meets_all(error):
                    break
                if bar.left:
                    what = f"job {names[index]} failed ({type(error).__name__}: {error}); the others go on"
                    warnings.warn(what, RuntimeWarning, stacklevel=2)
    if errors:
        first, *others = errors
        for other in others:
            first.add_note(f"{type(other).__name__}: {other} ({', '.join(other.__notes__)})")
        raise first


def _outcomes(work: Work, workers: int, address: str | None) -> Any:
    if address is not None:
        return on_cluster(work, address)
    return in_processes(work, workers) if workers > 1 and len(work.jobs) > 1 else one_by_one(work)


def _meets_all(error: Exception) -> bool:
    return isinstance(error, (OSError, ImportError)) and not isinstance(error, ChildProcessError)


@contextmanager
def claimed(lock: str | Path, report: Progress) -> Iterator[None]:
    """Hold a job's lock file, so that no two processes write its files at once, nor two machines that share a disk.

    Whoever comes second waits until the first is done or dead, and must then look for what is finished.  Two can meet
    when the same command runs twice, or when a cluster gives up a worker that is still alive.

    Parameters
    ----------
    lock : str or Path
        A file for this alone, left in place.  The operating system frees it when its holder dies.
    report : callable
        The job's, called while it waits, so that it can be stopped.

    Yields
    ------
    None
        Once the lock is held, which it is until the block ends.

    Warns
    -----
    RuntimeWarning
        When it has to wait.

    See Also
    --------
    htf.jobs.map_jobs : whose jobs hold it.
    htf.jobs.FolderJob : holds it by itself.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from htf.jobs import claimed, map_jobs
    >>> folder = tempfile.TemporaryDirectory()
    >>> def run(name, report):
    ...     done = Path(folder.name) / f"{name}.txt"
    ...     with claimed(done.with_suffix(".lock"), report):
    ...         if not done.exists():  # nobody did it while this one waited
    ...             _ = done.write_text(name.upper())
    ...     return done.read_text()
    >>> dict(map_jobs(run, ["a", "b"]))
    {'a': 'A', 'b': 'B'}
    >>> folder.cleanup()
    """
    file = Path(lock)
    file.parent.mkdir(parents=True, exist_ok=True)
    held, waited = FileLock(file), False
    while True:
        try:
            held.acquire(blocking=False)
            break
        except Timeout:
            if not waited:
                warnings.warn(f"{file} is held by another process; waiting for it", RuntimeWarning, stacklevel=3)
            waited = True
            report(0.0)
            time.sleep(LOOK_AT_LOCK_EVERY)
    try:
        yield
    finally:
        held.release()


class _Progress:
    """One bar for all jobs."""

    def __init__(self, costs: list[float], progress: bool | None) -> None:
        self._costs, self._shares, self._finished = costs, [0.0] * len(costs), [False] * len(costs)
        self._bar = tqdm(
            file=bar_file(),
            total=sum(costs),
            disable=None if progress is None else not progress,
            mininterval=0.5,
            miniters=0,  # the time goes on when the shares do not
            smoothing=0,  # several jobs report in turns: only the mean rate tells the time left
            bar_format="{l_bar}{bar}| {elapsed} so far, {remaining} left{postfix}",
        )

    def __enter__(self) -> _Progress:
        self._say()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    @property
    def left(self) -> int:
        """How many jobs are not finished."""
        return self._finished.count(False)

    def show(self, index: int, share: float) -> None:
        """A job is done to a share, which is less than before if it began again."""
        # A share that is no number tells nothing.
        if not self._finished[index] and share == share:
            self._shares[index] = min(max(share, 0.0), 1.0)
            # A sum anew each time ends at the total exactly.
            self._bar.update(sum(map(operator.mul, self._shares, self._costs)) - self._bar.n)

    def finish(self, index: int) -> None:
        """A job is done, well or not."""
        self.show(index, 1.0)
        self._finished[index] = True
        self._say()

    def _say(self) -> None:
        self._bar.set_postfix_str(f"{self._finished.count(True)} of {len(self._costs)} jobs")
