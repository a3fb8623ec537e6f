"""Studies of incremental learning: one planted problem, fitted from starts of many sizes and seeds at once."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._files import read_json, write_json
from htf._folders import CLAIM, Folder, claim_folder, claim_for_saving, read_claim
from htf._machine import usable_device
from htf._repr import brief
from htf._version import __version__
from htf.dynamics._words import in_words
from htf.dynamics.phases import phases
from htf.dynamics.settings import SETTINGS_OF, StudySettings
from htf.training.fitting import fit
from htf.training.history import RECORD, History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "study.json"
_KIND = "the settings of a study"
# A component rises if it ends above the first share of its run's largest; all others should be below the second.
RISEN, REST = 0.05, 0.01


@dataclass(frozen=True)
class ScaleSummary:
    """Results of all seeds at one size of the start, for one group of components.

    Attributes
    ----------
    init_std : float
    group : str
    seeds : int
        How many.
    exact : int
        Seeds of which as many components as the planted rank ended above 5 % of the largest, and all others below 1 %.
    risen : (int, int)
        Least and most components above 5 % of the largest.
    rest : float
        The largest of all others, relative to the largest of their run; NaN if none was recorded.
    overlap : float
        Mean of `Phases.overlap`: 0 if components rose one after another, 1 if together.
    test_error : (float, float, float)
        Mean, least and most at the end.
    loss : float
        The largest at the end.

    See Also
    --------
    htf.dynamics.Study.summary : makes them.

    Examples
    --------
    >>> import htf
    >>> small = {"dim": 8, "rank": 1, "depth": 2, "observed": 48, "seeds": range(2), "lr": 0.05, "steps": 200}
    >>> for row in htf.dynamics.study("mf", init_std=(1e-3, 0.5), **small).summary():
    ...     print(row.init_std, row.exact, row.test_error[0] < 0.1)
    0.001 2 True
    0.5 0 False
    """

    init_std: float
    group: str
    seeds: int
    exact: int
    risen: tuple[int, int]
    rest: float
    overlap: float
    test_error: tuple[float, float, float]
    loss: float


@dataclass(frozen=True, eq=False)
class Study:
    """A planted problem fitted from many starts; made by `study`.

    Attributes
    ----------
    settings : MatrixStudy, CPStudy or HTStudy
    history : History
        Losses and components of all runs together.

    See Also
    --------
    htf.dynamics.study : makes it.
    htf.plotting.plot_study, htf.plotting.plot_error_against_init : pictures.

    Examples
    --------
    >>> import htf
    >>> found = htf.dynamics.study("mf", dim=8, rank=1, depth=2, observed=48, seeds=range(2), steps=50)
    >>> found.runs, found.errors(1e-3).shape
    ([(0.001, 0), (0.001, 1)], torch.Size([2]))
    >>> print(found.table().splitlines()[0])
    matrix factorization of depth 2: 8×8, rank 1, 48 of 64 entries observed; 2 seeds, 50 steps
    """

    settings: StudySettings
    history: History

    __repr__ = brief

    @property
    def runs(self) -> list[tuple[float, int]]:
        """Standard deviation of the start and seed of each run."""
        return self.settings.starts

    def errors(self, init_std: float) -> Tensor:
        """Test errors at the end of all seeds from starts of a standard deviation, (seeds,)."""
        return self.history.test_error[-1, self._of(init_std)]

    def summary(self) -> list[ScaleSummary]:
        """Results of the seeds, for each standard deviation of the start and group of components."""
        found = phases(self.history, share=RISEN)
        rows = []
        for std in self.settings.init_std:
            own, errors = self._of(std), self.errors(std)
            for group in dict.fromkeys(each.group for each in found):
                each_run = [each for each in found if each.group == group and each.run in own]
                rests = [each.rest for each in each_run]
                rows.append(
                    ScaleSummary(
                        init_std=std,
                        group=group,
                        seeds=len(own),
                        exact=sum(each.count == self.settings.rank and each.rest < REST for each in each_run),
                        risen=(min(each.count for each in each_run), max(each.count for each in each_run)),
                        rest=math.nan if any(map(math.isnan, rests)) else max(rests),
                        overlap=statistics.fmean(each.overlap for each in each_run),
                        test_error=(float(errors.mean()), float(errors.min()), float(errors.max())),
                        loss=float(self.history.loss[-1, own].max()),
                    )
                )
        return rows

    def table(self) -> str:
        """The summary as text: a line for each standard deviation of the start and group of components."""
        steps = int(self.history.steps[-1])
        lines = [
            f"{self.settings.sentence()}; {len(self.settings.seeds)} seeds, {steps:,} steps",
            f"{'init std':>9}  {'components':<11} {'exactly ' + str(self.settings.rank):>10} {'risen':>7} {'rest':>8} "
            f"{'overlap':>8}  {'test error (least, most)':>28} {'loss':>9}",
        ]
        before = None
        for row in self.summary():
            least, most = row.risen
            risen = f"{least}" if least == most else f"{least}–{most}"
            line = (
                f"{row.init_std:>9g}  {row.group:<11} {f'{row.exact} of {row.seeds}':>10} {risen:>7} {row.rest:>8.1e} "
                f"{row.overlap:>8.2f}"
            )
            if row.init_std != before:
                mean, low, high = row.test_error
                line += f"  {f'{mean:.2e} ({low:.1e}, {high:.1e})':>28} {row.loss:>9.1e}"
            before = row.init_std
            lines.append(line)
        lines.append(
            f"exactly {self.settings.rank}: seeds with so many components above {RISEN:.0%} of the largest, "
            f"all others below {REST:.0%}; rest: the largest of the others"
        )
        if self.history.stopped != "steps":
            lines.append(self.history.stopped or "not complete: run again with the same settings to go on")
        return "\n".join(lines)

    def in_words(self) -> str:
        """The summary in sentences, one for each standard deviation of the start.

        See Also
        --------
        htf.dynamics.Study.table : the numbers.

        Examples
        --------
        >>> import htf
        >>> small = {"dim": 8, "rank": 1, "depth": 2, "observed": 48, "seeds": range(2), "lr": 0.05, "steps": 200}
        >>> print(htf.dynamics.study("mf", **small).in_words().partition(", all others")[0])
        From starts of 0.001: 1 component rose within 200 steps, where 1 was planted; in 2 of 2 seeds exactly as many
        """
        return in_words(self)

    def plot(self) -> Figure:
        """Components against steps for each size of the start, and test errors; see `htf.plotting.plot_study`."""
        from htf.plotting import plot_study

        return plot_study(self)

    def save(self, folder: str | Path) -> None:
        """Write study.json beside the files of the history into a folder; `load` reads it."""
        described = self.settings.describe()
        claim_for_saving(Path(folder), "study", described, {"study": described})
        write_json(Path(folder) / STUDY, {**described, "htf": __version__}, _KIND)
        self.history.save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Study:
        """Read what `save`, or a finished `study`, wrote.

        Raises
        ------
        FileNotFoundError
            If the folder holds no study, or one that is not finished.
        ValueError
            If a file is damaged; the message names it.
        """
        folder = Path(folder)
        if not (folder / STUDY).is_file():
            raise FileNotFoundError(f"{folder} holds no {STUDY}: it is not the folder of a study")
        settings = _settings_from(folder / STUDY)
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(f"{folder} holds a study that is not finished; run it again to go on")
        if (folder / CLAIM).exists() and read_claim(folder) != ("study", json.loads(json.dumps(settings.describe()))):
            raise ValueError(f"{folder / STUDY} is not that of the study whose the folder is, by its {CLAIM}")
        history = History.load(folder)
        if history.runs != len(settings.starts):
            raise ValueError(f"{folder / STUDY} asks for {len(settings.starts)} runs; {RECORD} has {history.runs}")
        return cls(settings, history)

    def _of(self, init_std: float) -> list[int]:
        return [run for run, (std, _) in enumerate(self.runs) if std == init_std]


def study(
    settings: str | StudySettings = "ht",
    *,
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    **changes: Any,
) -> Study:
    """Plant a tensor of low rank, and watch which components rise as it is fitted from near-zero starts.

    All starts, of every standard deviation and seed, are trained together.

    Parameters
    ----------
    settings : {"mf", "cp", "ht"} or StudySettings
        A format with the default settings of `MatrixStudy`, `CPStudy` or `HTStudy`, or one of these.
    out : str or Path, optional
        Folder of the run.  A study that was stopped goes on where it was when called again with the same settings; a
        finished one is loaded, or continued if `steps` are more.
    device : str or torch.device
    progress : bool
        Show a bar with the time left.
    **changes
        Settings that differ, such as ``rank=3, init_std=(1e-2, 1e-3)``.

    Returns
    -------
    Study

    Raises
    ------
    ValueError, TypeError
        For settings that do not fit, or a folder that holds another run.

    See Also
    --------
    htf.dynamics.Study : what it returns.
    htf.training.fit : fits problems and networks of one's own.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.
    .. [3] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, figure 3.

    Examples
    --------
    >>> import htf
    >>> found = htf.dynamics.study("mf", dim=8, rank=1, depth=2, observed=48, seeds=range(2), lr=0.05, steps=200)
    >>> (row,) = found.summary()
    >>> row.exact, row.seeds
    (2, 2)
    """
    settings = _settings(settings, changes)
    device = usable_device(device)
    # Both before the folder is taken: settings that do not fit should leave no trace.
    problem, network = settings.problem(device), settings.network(device)
    folder = None if out is None else _claim(Path(out), settings)
    try:
        history = fit(
            network,
            problem,
            loss=settings.loss,
            lr=settings.lr,
            steps=settings.steps,
            track=settings.tracker(),
            every=settings.every,
            out=folder,
            progress=progress,
        )
    except (ValueError, TypeError):
        if folder is not None:
            # Settings that do not fit leave no trace, so that the folder is free for others.
            folder.forget(STUDY)
        raise
    return Study(settings, history)


def _settings(settings: str | StudySettings, changes: dict[str, Any]) -> StudySettings:
    if isinstance(settings, StudySettings):
        kind: type[StudySettings] = type(settings)
    elif settings in SETTINGS_OF:
        kind = SETTINGS_OF[settings]
    else:
        raise ValueError(f"format is {settings!r}; known are {', '.join(SETTINGS_OF)}")
    known = [field.name for field in fields(kind)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]} is no setting of a {kind.__name__}; known are {', '.join(known)}")
    return replace(settings, **changes) if isinstance(settings, StudySettings) else kind(**changes)


def _settings_from(path: Path) -> StudySettings:
    content = read_json(path, _KIND)
    try:
        kind = SETTINGS_OF[content.pop("format")]
        content.pop("htf")
        return kind(**content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not the settings of a study ({error})") from error


def _claim(path: Path, settings: StudySettings) -> Folder:
    """Take a folder for a study, or refuse it; only the number of steps may differ, upwards."""
    folder = claim_folder(path, "study", settings.describe(), grows=("steps",))
    content = {**settings.describe(), "htf": __version__}
    try:
        there = read_json(path / STUDY, _KIND)
    except (FileNotFoundError, ValueError):
        there = None  # the claim says the same, so that a damaged one is written anew
    if there != json.loads(json.dumps(content)):
        write_json(path / STUDY, content, _KIND)
    return folder
