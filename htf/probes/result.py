"""The result of a rank-fit probe: records of fits, as a table, a figure and a folder of plain files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htf._files import read_json, write_json
from htf._folders import claim_for_saving
from htf._repr import brief
from htf._tables import write_table
from htf.probes._words import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS_FILE = "settings.json"
RUN = "run_sha256"  # of the settings, as files of fits have it too
FITS_FOLDER = "fits"
_SETTINGS, _FITS = "the settings of a probe", "the records of fits"


@dataclass(frozen=True)
class FitRecord:
    """One fit.

    Attributes
    ----------
    format : {"cp", "ht"}
    rank : int
        CP rank, or the width of every inner node.
    positive : int
        The class with target 1.
    twin : str
    seed : int
    n_parameters : int
    train, test : float
        Mean squared errors at the end, on all samples; test samples' errors are clipped.
    train_history, test_history : list of float
        Per epoch; train errors are means over the epoch's batches, before each step.
    returns : list of int
        Epochs after which the fit went back to an earlier state.
    collapsed : bool
        Whether it ended no better than the constant function.

    See Also
    --------
    htf.probes.RankFit : all of a run.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits").take(300, 100)
    >>> run = {"formats": ["cp"], "ranks": [2], "twins": ["original"], "progress": False}
    >>> (record,) = htf.probes.rank_fit(digits, settings=htf.training.FitSettings(epochs=3), **run).records
    >>> record.format, record.rank, record.n_parameters, len(record.train_history)
    ('cp', 2, 256, 3)
    """

    format: str
    rank: int
    positive: int
    twin: str
    seed: int
    n_parameters: int
    train: float
    test: float
    train_history: list[float]
    test_history: list[float]
    returns: list[int]
    collapsed: bool

    @property
    def key(self) -> tuple[str, int, int, str, int]:
        """Key that tells it from other fits of a probe."""
        return self.format, self.rank, self.positive, self.twin, self.seed

    __repr__ = brief


@dataclass
class RankFit:
    """Errors against rank, for a data set and its randomized twins.

    Attributes
    ----------
    settings : dict
        All that determines the result, with versions and device.
    records : list of FitRecord
    variance : dict
        From each positive class to the variance of its train targets: the error of the best constant.
    seconds : float
        Time spent training.
    complete : bool
        Whether every fit asked for is there.

    See Also
    --------
    htf.probes.rank_fit : makes it.
    htf.plotting.plot_rank_fit : the papers' figure.

    Examples
    --------
    >>> import tempfile, htf
    >>> digits = htf.datasets.load("digits").take(300, 100)
    >>> run = {"formats": ["cp"], "ranks": [1, 4], "twins": ["original"], "progress": False}
    >>> result = htf.probes.rank_fit(digits, settings=htf.training.FitSettings(epochs=3), **run)
    >>> result.values("rank"), len(result.select(rank=4)), result.complete
    ([1, 4], 1, True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(folder)
    ...     again = htf.probes.RankFit.load(folder)
    >>> again.table() == result.table()
    True
    """

    settings: dict[str, Any]
    records: list[FitRecord] = field(default_factory=list)
    variance: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = True

    __repr__ = brief

    def select(self, **keys: Any) -> list[FitRecord]:
        """The records whose fields have these values, for example ``format="cp", rank=3``."""
        return [r for r in self.records if all(getattr(r, k) == v for k, v in keys.items())]

    def values(self, name: str) -> list[Any]:
        """The distinct values of a field of the records, in order of first occurrence."""
        return list(dict.fromkeys(getattr(r, name) for r in self.records))

    def mean(self, error: str, **keys: Any) -> tuple[float, float]:
        """Mean and standard deviation of "train" or "test" errors over the selected records."""
        found = [getattr(r, error) for r in self.select(**keys)]
        if not found:
            raise KeyError(f"no record has {keys}")
        return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0

    @property
    def mean_variance(self) -> float:
        """Variance of the train targets, averaged over the classes."""
        if not self.variance:
            raise ValueError("the result has no finished fits yet")
        return statistics.fmean(self.variance.values())

    def table(self) -> str:
        """Errors as text: a row per format and rank, train and test per twin, averaged over classes and seeds."""
        variance, twins = self.mean_variance, self.values("twin")
        head = f"{'format':<7}{'rank':>5}{'parameters':>12}" + "".join(f"  {twin:>17}" for twin in twins)
        lines = [head, " " * 24 + "".join(f"  {'train    test':>17}" for _ in twins)]
        for form in self.values("format"):
            for rank in sorted({r.rank for r in self.select(format=form)}):
                row = self.select(format=form, rank=rank)
                cells = []
                for twin in twins:
                    if any(r.twin == twin for r in row):
                        keys = {"format": form, "rank": rank, "twin": twin}
                        cells.append(f"  {self.mean('train', **keys)[0]:>9.4f} {self.mean('test', **keys)[0]:>7.4f}")
                    else:
                        cells.append(f"  {'—':>17}")
                lines.append(f"{form:<7}{rank:>5}{row[0].n_parameters:>12,}" + "".join(cells))
        lines.append(f"mean squared errors; variance of the targets {variance:.4f}")
        lines += self._remarks()
        return "\n".join(lines)

    def in_words(self, fitted: float = 0.25) -> str:
        """Sentences on the rank that each twin is fitted from on, one for each format, made from the table.

        Parameters
        ----------
        fitted : float
            A twin is fitted from a rank on if there, and at all higher ranks, the mean train error is at most this
            share of the variance of the targets.

        Raises
        ------
        ValueError
            If there are no records, or `fitted` is not from 0 to 1.

        See Also
        --------
        htf.probes.RankFit.table : the numbers.

        Examples
        --------
        >>> import htf
        >>> digits = htf.datasets.load("digits").take(300, 100)
        >>> run = {"formats": ["cp"], "ranks": [1, 4], "twins": ["original", "random_labels"], "progress": False}
        >>> result = htf.probes.rank_fit(digits, settings=htf.training.FitSettings(epochs=10), **run)
        >>> print(result.in_words().partition(", train error")[0])
        CP: original images are fitted from rank 1 on
        """
        return in_words(self, fitted)

    def _remarks(self) -> Iterable[str]:
        returned = [r for r in self.records if r.returns]
        if returned:
            times = sum(len(r.returns) for r in returned)
            yield f"{len(returned)} of {len(self.records)} fits went back to an earlier epoch ({times} times in all)"
        collapsed = [r for r in self.records if r.collapsed]
        if collapsed:
            names = ", ".join(f"{r.format} {r.rank} {r.twin}" for r in collapsed[:5])
            yield f"{len(collapsed)} fits ended no better than a constant: {names}"
        if not self.complete:
            yield "not complete: run again with the same settings to go on"

    def plot(self) -> Figure:
        """The papers' figure: error against rank; see `htf.plotting.plot_rank_fit`."""
        from htf.plotting import plot_rank_fit

        return plot_rank_fit(self)

    def save(self, folder: str | Path) -> None:
        """Write the result to a folder of JSON files with checksums; `load` reads it.

        Raises
        ------
        FileExistsError
            If the folder holds the fits of a run: a run saves itself as it goes.
        ValueError
            If it holds a run of another kind.
        """
        folder = Path(folder)
        others = [path for path in (folder / FITS_FOLDER).glob("*.json") if path.name != "all.json"]
        if others:
            raise FileExistsError(f"folder {folder} holds the fits of a run already ({others[0].name}, ...)")
        claim_for_saving(folder, "saved probe", {}, {})
        write_settings(folder / SETTINGS_FILE, self.settings)
        run = self.settings.get(RUN, "")
        write_job(folder / FITS_FOLDER / "all.json", job_content(self.records, self.variance, self.seconds, run))

    def to_csv(self, path: str | Path) -> None:
        """Write one line per fit, without the errors per epoch."""
        names = [f.name for f in fields(FitRecord) if not f.name.endswith("history")]
        rows = ({name: getattr(record, name) for name in names} for record in self.records)
        texts = ({name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in row.items()} for row in rows)
        write_table(Path(path), names, texts)

    @classmethod
    def load(cls, folder: str | Path) -> RankFit:
        """Read a result from the folder of a run, finished or not.

        Raises
        ------
        FileNotFoundError
            If the folder holds no run.
        ValueError
            If a file is damaged, or of another run, or if two files hold the same fit; the message names it.
        """
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {SETTINGS_FILE}: it is not the folder of a run")
        settings = read_settings(folder / SETTINGS_FILE)
        result = cls(settings)
        seen: set[tuple[Any, ...]] = set()
        for path in sorted((folder / FITS_FOLDER).glob("*.json")):
            content = read_job(path, settings.get(RUN, ""))
            result.add(content)
            keys = [FitRecord(**record).key for record in content["records"]]
            # Saved results that were joined may hold a fit of several runs.
            if "joined" not in settings and (len(set(keys)) < len(keys) or seen & set(keys)):
                raise ValueError(f"{path} holds a fit that another file of the run, or itself, holds too")
            seen |= set(keys)
        result.sort()
        wanted = settings.get("n_fits")
        result.complete = wanted is None or len(result.records) == wanted
        return result

    def joined(self, *others: RankFit) -> RankFit:
        """One result of this and others on the same data, to be shown together; equal records of several count once.

        Raises
        ------
        ValueError
            If they are of different data sets.
        """
        together = RankFit({**self.settings}, list(self.records), dict(self.variance), self.seconds, self.complete)
        for other in others:
            for key in ("dataset", "data_sha256"):
                mine, theirs = self.settings.get(key), other.settings.get(key)
                if mine != theirs:
                    raise ValueError(f"results of different data cannot be joined: {key} is {mine!r} and {theirs!r}")
            together.records += [record for record in other.records if record not in together.records]
            together.variance |= other.variance
            together.seconds += other.seconds
            together.complete &= other.complete
        together.settings = {"dataset": self.settings["dataset"], "joined": [r.settings for r in (self, *others)]}
        return together

    def add(self, content: dict[str, Any]) -> None:
        """Add the records of one job's file."""
        self.records += [FitRecord(**record) for record in content["records"]]
        self.variance |= {int(c): v for c, v in content["variance"].items()}
        self.seconds += content["seconds"]

    def sort(self) -> None:
        """Order the records as the settings list them."""
        keys: list[tuple[str, Callable[[FitRecord], Any]]] = [
            ("formats", lambda r: r.format),
            ("twins", lambda r: r.twin),
        ]

        def position(record: FitRecord) -> tuple[Any, ...]:
            listed = [
                self.settings.get(name, []).index(get(record)) if get(record) in self.settings.get(name, []) else 0
                for name, get in keys
            ]
            return (*listed, record.rank, record.positive, record.seed)

        self.records.sort(key=position)


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run."""
    write_json(path, settings, _SETTINGS)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a run, or an error that names the file."""
    content = read_json(path, _SETTINGS)
    if not isinstance(content, dict) or "dataset" not in content:
        raise ValueError(f"{path} does not hold {_SETTINGS}")
    for name, kind in (("formats", list), ("twins", list), ("dataset", str), (RUN, str), ("n_fits", int)):
        if not isinstance(content.get(name, kind()), kind):
            raise ValueError(f"{path} does not hold {_SETTINGS}: {name} is {content[name]!r}")
    return content


def write_job(path: Path, content: dict[str, Any]) -> None:
    """Write what the file of one job holds, see `job_content`."""
    write_json(path, content, _FITS)


def read_job(path: Path, run: str = "") -> dict[str, Any]:
    """Read the file of one job, see `job_content`, or raise an error that names the file.

    Parameters
    ----------
    path : Path
    run : str
        SHA-256 of the run that it has to belong to, where that is known.
    """
    content: dict[str, Any] = read_json(path, _FITS)
    try:
        RankFit({}).add(content)
        for record in content["records"]:
            _check_types(record)
        for name, value in {**content["variance"], "seconds": content["seconds"]}.items():
            if not isinstance(value, int | float):
                raise TypeError(f"{name} is {value!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} does not hold {_FITS} ({error})") from error
    check_run(path, content, run)
    return content


def check_run(path: Path, content: dict[str, Any], run: str) -> None:
    """Raise a ValueError if what a file holds is of another run than that of this SHA-256; "" stands for any."""
    if run and content.get("run", "") != run:
        raise ValueError(f"{path} holds fits of another run than the settings beside it say")


def _check_types(record: dict[str, Any]) -> None:
    kinds: dict[str, Any] = {"format": str, "twin": str, "collapsed": bool}
    kinds |= dict.fromkeys(("train", "test", "train_history", "test_history"), (int, float))
    for name, value in record.items():
        lists = name in ("train_history", "test_history", "returns")
        if lists and not isinstance(value, list):
            raise TypeError(f"{name} is {value!r}")
        for each in value if lists else [value]:
            if not isinstance(each, kinds.get(name, int)):
                raise TypeError(f"{name} is {value!r}")


def job_content(records: list[FitRecord], variance: dict[int, float], seconds: float, run: str = "") -> dict[str, Any]:
    """Content of the file of one job."""
    return {
        "run": run,
        "records": [asdict(r) for r in records],
        "variance": {str(c): v for c, v in variance.items()},
        "seconds": seconds,
    }
