"""Jobs with folders of their own: what is finished is read, what was stopped goes on, and one table has all rows."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from htf._files import check_writable, read_json, remove_leftovers, write_json
from htf._folders import CLAIM, claim_folder
from htf._tables import write_table
from htf.jobs._work import Progress
from htf.jobs.mapping import claimed

DIGEST = "settings_sha256"


@dataclass(frozen=True)
class FolderJob(ABC):
    """A job that is done once for its settings, in a folder of its own, where it goes on if it was stopped.

    A subclass is a frozen dataclass whose fields are the settings of the job, and says in `compute` what is done.  Jobs
    of equal settings are the same job: finished, it is read and not repeated.

    Attributes
    ----------
    kind : str
        Of the run that the folder of all jobs holds; jobs of another kind are refused there.  By default "series of
        NAME jobs", with the name of the class.
    holds : str
        Description of what the file of a finished job holds.
    pattern : str
        Where that file is in the folder of all jobs; the asterisk stands for the job's name.
    columns : tuple of str
        Of the table; by default those of the rows, settings first.
    temporary : tuple of str
        Patterns of files in the job's folder that are deleted once it is finished, such as "checkpoint*".

    See Also
    --------
    htf.jobs.map_jobs : runs many of them.
    htf.jobs.collect : their table.

    Examples
    --------
    Fits of several ranks and seeds, in one process or several, which can be stopped and started again at any time:

    >>> import htf
    >>> from dataclasses import dataclass
    >>> from htf.jobs import FolderJob, collect, map_jobs
    >>> from htf.training import Training, objectives
    >>> @dataclass(frozen=True)
    ... class Fit(FolderJob):
    ...     rank: int
    ...     seed: int = 0
    ...
    ...     def compute(self, folder, report):
    ...         problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=150)
    ...         net = htf.nn.CPNetwork((6, 6, 6), self.rank, seed=self.seed)
    ...         training = Training(net, objectives.entries(problem), optimizer="adam", lr=0.02, out=folder)
    ...         history = training.run(steps=200, on_advance=lambda: report(training.step / training.steps))
    ...         return {"loss": float(history.loss[-1])}
    >>> import tempfile
    >>> out = tempfile.mkdtemp()
    >>> jobs = [Fit(rank, seed) for rank in (1, 4) for seed in (0, 1)]
    >>> losses = {(job.rank, job.seed): row["loss"] for job, row in map_jobs(Fit.within(out), jobs)}
    >>> losses[4, 0] < losses[1, 0]
    True
    >>> rows = collect(Fit, out)  # table.csv there
    >>> list(rows[0])
    ['rank', 'seed', 'loss', 'settings_sha256']
    """

    kind: ClassVar[str] = ""
    holds: ClassVar[str] = "the row of a job"
    pattern: ClassVar[str] = "jobs/*/row.json"
    columns: ClassVar[tuple[str, ...]] = ()
    temporary: ClassVar[tuple[str, ...]] = ()

    # -- what a job is ------------------------------------------------------------------------------------

    @abstractmethod
    def compute(self, folder: Path | None, report: Progress, *args: Any, **kwargs: Any) -> Any:
        """Do the job, or go on where it was stopped.

        Parameters
        ----------
        folder : Path or None
            The job's own, for checkpoints: the ``out`` of a `htf.training.Training`, which claims it.  None where
            nothing is kept.
        report : callable
            To be called now and then with the share done, see `map_jobs`.
        **kwargs
            Given to `within`: what does not change the result, as where data are.

        Returns
        -------
        dict
            Columns of the row besides the settings, as JSON can hold them.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """All that makes the job, as JSON can hold it: tuples are lists."""
        if "__dataclass_fields__" not in vars(type(self)):
            raise TypeError(f"{type(self).__name__} is no dataclass; expected @dataclass(frozen=True) above it")
        return {name: _as_json(value, f"{name} of {type(self).__name__}") for name, value in asdict(self).items()}

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return digest_of(self.settings)

    @property
    def label(self) -> str:
        """Beginning of its name; by default the class."""
        return type(self).__name__.lower()

    @property
    def name(self) -> str:
        """Name of its folder, also in messages: the label and the digest, which tells jobs apart."""
        label = self.label
        if not label or "/" in label or "\\" in label:
            raise ValueError(f"label of {type(self).__name__} is {label!r}; expected the beginning of a folder's name")
        return f"{label}_{self.digest[:8]}"

    def __str__(self) -> str:
        return self.name

    # -- where it is done ---------------------------------------------------------------------------------

    @classmethod
    def within(cls, out: str | os.PathLike[str] | None, **given: Any) -> Callable[[Self, Progress], Any]:
        """Function for `map_jobs` that runs jobs with their folders below `out`.

        Parameters
        ----------
        out : str, Path or None
            Folder of all jobs; None keeps nothing.  It is claimed, unless an outer run has done so.
        **given
            For `compute`; pickled where jobs are run elsewhere.

        Returns
        -------
        callable
            From a job and its report to its row.  It raises OSError if the folder cannot be written, before anything
            is computed, ValueError for a file that is damaged or of another job, and TypeError if `compute` returns
            anything but a dict that JSON can hold.

        Raises
        ------
        ValueError
            If the folder holds a run of another kind.
        OSError
            If it cannot be made.
        """
        if out is not None:
            claim_folder(out, cls.kind or f"series of {cls.__name__} jobs", {})
        # A worker may be elsewhere, where a relative path means another folder.
        return partial(_run, None if out is None else Path(out).absolute(), given)

    def folder(self, out: Path) -> Path:
        """The job's own folder, for its lock and its checkpoints."""
        return out / (self.pattern.split("*")[0] + self.name)

    def lock(self, out: Path) -> Path:
        """The file that is locked while the job is done."""
        return self.folder(out) / "lock"

    def finished(self, out: Path) -> Any:
        """The content of its file, or None if it is not finished.

        Raises
        ------
        ValueError
            If the file is damaged or of another job; the message names it.
        """
        if not (file := self.file(out)).exists():
            return None
        content = self.read(file)
        self.check(file, content)
        return content

    def check(self, file: Path, content: Any) -> None:
        """Raise a ValueError if what its file holds is of another job."""
        for row in self.rows(content):
            if not self.digest.startswith(row[DIGEST]):
                raise _of_another(file, row)

    def save(self, out: Path, found: Any) -> None:
        """Write the job's file, of what `compute` returned; then delete its temporary files."""
        write_json(self.file(out), self.content(found), self.holds)
        for pattern in self.temporary:
            for path in self.folder(out).glob(pattern):
                path.unlink()

    def file(self, out: Path) -> Path:
        """Where the job is kept once it is finished."""
        return out / self.pattern.replace("*", self.name)

    # -- what it leaves -----------------------------------------------------------------------------------

    def content(self, found: Any) -> Any:
        """Content of the job's file: by default the row, of settings, columns from `compute` and digest."""
        if not isinstance(found, dict):
            raise TypeError(f"compute of {self.name} returned a {type(found).__name__}; expected a dict of columns")
        own = {**self.settings, DIGEST: self.digest}
        for name in own.keys() & found:
            if json.dumps(found[name]) != json.dumps(own[name]):
                raise ValueError(f"compute of {self.name} returned {name} = {found[name]!r}; its own is {own[name]!r}")
        return {**self.settings, **found, DIGEST: self.digest}

    @classmethod
    def rows(cls, content: Any) -> list[dict[str, Any]]:
        """Rows of the table from what a file holds; each has a column "settings_sha256", or the beginning of it.

        A KeyError, TypeError or ValueError means that it is no file of such a job.
        """
        return [content]

    @classmethod
    def read(cls, file: Path) -> Any:
        """Content of the file of a finished job.

        Raises
        ------
        ValueError
            If it is damaged or holds something else; the message names it.
        """
        content = read_json(file, cls.holds)
        try:
            digests = [row[DIGEST] for row in cls.rows(content)]
            if not digests or min(map(len, digests)) < 8:
                raise ValueError(f"digests are {digests}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} does not hold {cls.holds}") from error
        return content

    @classmethod
    def contents(cls, out: str | os.PathLike[str]) -> list[Any]:
        """Contents of the files of all finished jobs in a folder, whoever did them, in the order of their names.

        Raises
        ------
        ValueError
            For a file that is damaged, or of another job than its place says; the message names it.
        """
        found = []
        before, after = cls.pattern.split("*")
        for file in sorted(path for path in Path(out).glob(cls.pattern) if path.name != CLAIM):
            name = file.relative_to(out).as_posix().removeprefix(before).removesuffix(after)
            found.append(cls.read(file))
            for row in cls.rows(found[-1]):
                if not name.endswith(row[DIGEST][:8]):
                    raise _of_another(file, row)
        return found


def collect(
    job: type[FolderJob],
    out: str | os.PathLike[str],
    table: str | os.PathLike[str] | None = None,
    *,
    key: Callable[[dict[str, Any]], Any] | None = None,
) -> list[dict[str, Any]]:
    """Write one table of the rows of all finished jobs in a folder, whoever did them.

    Parameters
    ----------
    job : type
        Class of the jobs.
    out : str or Path
        Folder of all jobs.
    table : str or Path, optional
        A CSV, by default table.csv in that folder.
    key : callable, optional
        To sort the rows by; by default they are in the order of the jobs' names.

    Returns
    -------
    list of dict
        The rows.

    Raises
    ------
    ValueError
        For a file that is damaged or of another job; the message names it.

    See Also
    --------
    htf.jobs.FolderJob : jobs that write such files.
    htf.jobs.map_jobs : runs them.

    Examples
    --------
    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> from htf.jobs import FolderJob, collect, map_jobs
    >>> @dataclass(frozen=True)
    ... class Square(FolderJob):
    ...     number: int
    ...
    ...     def compute(self, folder, report):
    ...         return {"square": self.number**2}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     done = list(map_jobs(Square.within(out), [Square(n) for n in (3, 1, 2)]))
    ...     rows = collect(Square, out, key=lambda row: row["number"])  # writes table.csv there
    >>> [(row["number"], row["square"]) for row in rows]
    [(1, 1), (2, 4), (3, 9)]
    """
    rows = [row for content in job.contents(out) for row in job.rows(content)]
    if key is not None:
        rows.sort(key=key)
    columns: Iterable[str] = job.columns or dict.fromkeys(name for row in rows for name in row)
    write_table(Path(out) / "table.csv" if table is None else Path(table), columns, rows)
    return rows


def digest_of(settings: dict[str, Any]) -> str:
    """SHA-256 of settings that JSON can hold."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _as_json(value: Any, what: str) -> Any:
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(f"{what} is not what JSON can hold: {error}") from error


def _of_another(file: Path, row: dict[str, Any]) -> ValueError:
    return ValueError(f"{file} is of another job than the folder, with settings {row[DIGEST]!r}")


def _run(out: Path | None, given: dict[str, Any], job: FolderJob, report: Progress) -> Any:
    """Do a job, unless it is finished by now."""
    if out is None:
        return job.content(_computed(job, None, report, given))
    if not (out / CLAIM).exists():
        raise FileNotFoundError(
            f"{out} on {platform.node()} is not the folder of this run; all workers must see the same one"
        )
    if (there := job.finished(out)) is not None:
        return there
    with claimed(job.lock(out), report):
        if (there := job.finished(out)) is None:
            file = job.file(out)
            check_writable(file.parent)
            remove_leftovers(file.parent)
            job.save(out, _computed(job, job.folder(out), report, given))
            there = job.finished(out)
        return there


def _computed(job: FolderJob, folder: Path | None, report: Progress, given: dict[str, Any]) -> Any:
    return _as_json(job.compute(folder, report, **given), f"the result of compute of {job.name}")
