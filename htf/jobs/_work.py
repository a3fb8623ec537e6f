"""Work to be done and outcomes of jobs, shared by all ways of running them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

# Called within a job with the share of it that is done; raises KeyboardInterrupt once the job is to stop.
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Work:
    """Jobs, in the order in which they are to be started.

    Attributes
    ----------
    run : callable
        From a job and a `Progress` to its result.
    jobs, names : sequences
    threads : int
        Of torch, in processes of their own.
    on_share : callable
        Called here with the number of a job and the share of it that is done.
    """

    run: Callable[[Any, Progress], Any]
    jobs: Sequence[Any]
    names: Sequence[str]
    threads: int
    on_share: Callable[[int, float], None]


class Outcome(NamedTuple):
    """Outcome of a job: its result, or the error that it raised."""

    number: int
    result: Any = None
    error: Exception | None = None


def lost_too_often(times: int) -> ChildProcessError:
    """The error of a job that took its process down each time it was tried."""
    return ChildProcessError(
        f"a worker process ended abruptly (out of memory?) {times} times in this job; what is finished is kept, "
        "and the same command goes on"
    )


@contextmanager
def portable_errors() -> Iterator[None]:
    """Replace an error that cannot travel between processes by one that says the same."""
    try:
        with told_errors():
            yield
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


@contextmanager
def told_errors() -> Iterator[None]:
    """Replace what would end more than its job, such as sys.exit, by an error that says so."""
    try:
        yield
    except (SystemExit, GeneratorExit, StopIteration) as error:
        # contextlib takes an error whose cause is a StopIteration for that itself.
        cause = None if isinstance(error, StopIteration) else error
        raise RuntimeError(f"the job raised {error!r}, which would have ended other jobs too") from cause
