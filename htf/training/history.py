"""Record of a fit: losses, errors and tracked quantities against steps and flow time."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._files import read_json, read_tensors, write_json, write_tensors, write_text
from htf._folders import claim_for_saving
from htf._repr import brief
from htf.training.digests import digest
from htf.training.stopping import StoppingRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS, TABLE, RECORD = "settings.json", "history.csv", "history.safetensors"
_KIND = "a history"
_COLUMNS = ("time", "rate", "loss", "test_error")


@dataclass(frozen=True, eq=False)
class History:
    """The record of a fit.

    Attributes
    ----------
    steps : Tensor
        (T,) int64, the steps before which something was recorded: every so many, the last one, and where a tracker asks
        for it also the next.
    time : Tensor
        (T, runs) float64, the time of the gradient flow that the steps so far amount to: the sum of the sizes that
        multiplied the gradients.  NaN for optimizers that do not step along the gradient, such as Adam.
    rate : Tensor
        (T, runs) float64, the size that multiplied the gradient in the step before, 0 at the start; NaN likewise.
        Differences of `time` are less precise, where early rates are huge.
    loss : Tensor
        (T, runs) float64.
    test_error : Tensor
        (T, runs) float64, relative error at the test entries; NaN where the problem has none.
    tracked : dict
        From each tracker's name to what it measured: names to tensors (T, runs, ...).
    settings : dict
        All that made the fit: problem, network, optimizer, trackers, versions, device.
    seconds : float
        Time spent training.
    stopped : str
        Why the fit ended: "steps", what a stopping rule said, or what diverged; "" while it goes on.

    See Also
    --------
    htf.training.fit, htf.training.Training : return it.
    htf.plotting.plot_history, htf.plotting.plot_components : figures.

    Notes
    -----
    ``history[name]`` is ``history.tracked[name]``.

    Examples
    --------
    >>> import tempfile, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=2, runs=3, seed=0)
    >>> history = htf.training.fit(net, problem, steps=50, track=htf.dynamics.singular_values(4))
    >>> history.loss.shape, history.stopped, list(history.tracked)
    (torch.Size([5, 3]), 'steps', ['singular_values'])
    >>> history["singular_values"]["end matrix/values"].shape
    torch.Size([5, 3, 4])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history.save(folder)  # history.csv is for pandas
    ...     again = htf.training.History.load(folder)
    >>> bool((again.loss == history.loss).all())
    True
    """

    steps: Tensor
    time: Tensor
    rate: Tensor
    loss: Tensor
    test_error: Tensor
    tracked: dict[str, dict[str, Tensor]]
    settings: dict[str, Any]
    seconds: float = 0.0
    stopped: str = ""

    __repr__ = brief

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.loss.shape[1]

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name not in self.tracked:
            raise KeyError(f"{name!r} was not tracked; tracked are {', '.join(self.tracked) or 'no quantities'}")
        return self.tracked[name]

    def about(self, name: str) -> dict[str, Any]:
        """Description that the tracker of that name gave of itself and the network."""
        self[name]
        about: dict[str, Any] = self.settings["trackers"][name]
        return about

    def plot(self) -> Figure:
        """Loss, test error and every tracked quantity against the steps; see `htf.plotting.plot_history`."""
        from htf.plotting import plot_history

        return plot_history(self)

    def save(self, folder: str | Path) -> None:
        """Write the record into a folder: settings.json, history.csv (one row per step and run), history.safetensors.

        Each file is written beside and renamed, so that an earlier one is replaced whole or not at all.

        Raises
        ------
        ValueError
            If the folder holds another run; the message names what differs.
        OSError
            If a file cannot be written; the message names it.
        """
        folder = Path(folder)
        made_by = {part: self.settings[part] for part in ("network", "problem") if part in self.settings}
        parts = ("model", "data", "training")
        of_training: dict[str, Any] = {part: self.settings[part] for part in parts if part in self.settings}
        runs: dict[str, dict[str, Any]] = {
            "fit": made_by | {"fit": self.settings},
            "study": {},
            "training of one's own": of_training,
        }
        claim_for_saving(folder, "history", {}, runs)
        about = self._about()
        # All of the record is in one file, and the others are for reading elsewhere.
        write_tensors(folder / RECORD, self.tensors(), about, _KIND)
        write_json(folder / SETTINGS, about, _KIND)
        write_text(folder / TABLE, self._table())

    def is_saved(self, folder: Path) -> bool:
        """Whether `save` has nothing to do: the files are there, whole, and those of this record."""
        try:
            there = History.load(folder)
        except (FileNotFoundError, ValueError):
            return False
        mine, theirs = self.tensors(), there.tensors()
        return (
            (folder / TABLE).exists()
            and json.dumps(self._about(), sort_keys=True) == json.dumps(there._about(), sort_keys=True)
            and mine.keys() == theirs.keys()
            and all(digest(tensor) == digest(theirs[name]) for name, tensor in mine.items())
        )

    @classmethod
    def load(cls, folder: str | Path) -> History:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If one is damaged, so that its content does not match its checksum, or if they belong to different runs.
        """
        folder = Path(folder)
        settings = read_json(folder / SETTINGS, _KIND)
        tensors, about = read_tensors(folder / RECORD, _KIND)
        if about != settings and json.dumps(about, sort_keys=True) != json.dumps(settings, sort_keys=True):
            raise ValueError(
                f"{folder / SETTINGS} and {RECORD} are of different runs, or of different moments of one, which the "
                "same fit writes anew"
            )
        try:
            seconds, stopped = settings.pop("seconds"), settings.pop("stopped")
            return cls.from_tensors(tensors, settings, seconds, stopped)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / SETTINGS} does not describe a fit ({error!r})") from error

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(json.dumps(self.settings))
        return about | {"seconds": self.seconds, "stopped": self.stopped}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors in one dict, those of trackers under tracked/TRACKER/NAME."""
        own = {"steps": self.steps, **{name: getattr(self, name) for name in _COLUMNS}}
        for tracker, values in self.tracked.items():
            own |= {f"tracked/{tracker}/{name}": tensor for name, tensor in values.items()}
        return own

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], settings: dict[str, Any], seconds: float, stopped: str
    ) -> History:
        """The inverse of `tensors`."""
        tracked: dict[str, dict[str, Tensor]] = {name: {} for name in settings["trackers"]}
        for key, tensor in tensors.items():
            if key.startswith("tracked/"):
                _, tracker, name = key.split("/", 2)
                tracked[tracker][name] = tensor
        columns = {name: tensors[name] for name in _COLUMNS}
        shapes = {tuple(tensor.shape) for tensor in columns.values()}
        if len(shapes) > 1 or {len(tensor) for tensor in tensors.values()} != {len(tensors["steps"])}:
            raise ValueError(f"its columns have the shapes {', '.join(map(str, shapes))}")
        return cls(
            steps=tensors["steps"], **columns, tracked=tracked, settings=settings, seconds=seconds, stopped=stopped
        )

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "run", *_COLUMNS])
        columns = [getattr(self, name).tolist() for name in _COLUMNS]
        for row, step in enumerate(self.steps.tolist()):
            for run in range(self.runs):
                numbers = [column[row][run] for column in columns]
                writer.writerow([step, run, *("" if math.isnan(n) else repr(n) for n in numbers)])
        return text.getvalue()


@dataclass
class Recorder:
    """Collects the rows of a history while it grows."""

    settings: dict[str, Any]
    steps: list[int] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str = ""
    _asked: list[int] = field(default_factory=list)  # steps at which rules were asked
    _losses: Tensor | None = None  # there, in rows of which the last may be free

    def add(self, step: int, row: Mapping[str, Tensor]) -> None:
        """Record one moment; `row` has the names of `History.tensors`."""
        self.steps.append(step)
        for name, value in row.items():
            # A copy: a few entries of a large tensor would keep all of it.
            self.rows.setdefault(name, []).append(value.detach().cpu().clone(memory_format=torch.contiguous_format))

    def judge(self, rules: Iterable[StoppingRule], watched: str = "", *, again: bool = False) -> str:
        """Ask stopping rules, of the moment just added and those at which they were asked before.

        Parameters
        ----------
        rules : iterable of callable
            One with an attribute ``on`` is given that column in place of the losses.
        watched : str
            The column for rules whose ``on`` is None; "" for the losses.
        again : bool
            Whether they have been asked of the last moment before.

        Returns
        -------
        str
            The reason to stop, or ""; also kept as `stopped`.
        """
        if not again:
            self._keep(self.steps[-1], self.rows["loss"][-1])
        assert self._losses is not None
        count = len(self._asked)
        reason = ""
        for rule in rules:
            on = getattr(rule, "on", "loss")
            column = watched if on is None else on
            values = self._losses[:count] if column in ("", "loss") else self._column(column)
            found = reason or rule(torch.tensor(self._asked, device="cpu"), values, self.seconds)
            if not isinstance(found, str):
                raise TypeError(f"rule {rule!r} returned a {type(found).__name__}; expected a reason to stop, or ''")
            reason = found
        self.stopped = self.stopped or reason
        return reason

    def _column(self, name: str) -> Tensor:
        """A tracked quantity at the moments at which rules are asked, (T, runs), as a loss: 1 - accuracy."""
        key = f"tracked/{name}"
        if key not in self.rows:
            known = sorted(key.removeprefix("tracked/") for key in self.rows if key.startswith("tracked/"))
            raise ValueError(
                f"a rule is on {name!r}, which is not recorded; recorded are {', '.join(['loss', *known])}"
            )
        asked = set(self._asked)
        values = torch.stack([row for step, row in zip(self.steps, self.rows[key], strict=True) if step in asked])
        return 1 - values if name.endswith("accuracy") else values

    def _keep(self, step: int, loss: Tensor) -> None:
        count = len(self._asked)
        if self._losses is None or count == len(self._losses):
            longer = loss.new_empty(max(2 * count, 64), len(loss))
            if self._losses is not None:
                longer[:count] = self._losses
            self._losses = longer
        self._losses[count] = loss
        self._asked.append(step)

    def drop_last(self) -> None:
        """Forget the last moment."""
        if self._asked and self._asked[-1] == self.steps[-1]:
            self._asked.pop()
        self.steps.pop()
        for values in self.rows.values():
            values.pop()

    def history(self) -> History:
        """Record so far."""
        tensors = {name: torch.stack(values) for name, values in self.rows.items()}
        tensors["steps"] = torch.tensor(self.steps, dtype=torch.int64, device="cpu")
        return History.from_tensors(tensors, self.settings, self.seconds, self.stopped)

    def restore(
        self, tensors: Mapping[str, Tensor], names: Sequence[str], seconds: float, stopped: str, every: int
    ) -> None:
        """Go on from an earlier history's tensors, by the names of its rows; rules were asked at multiples of `every`.

        Files have an order of their own.
        """
        self.steps = tensors["steps"].tolist()
        self.rows = {name: list(tensors[name].unbind(0)) for name in names}
        self.seconds, self.stopped = seconds, stopped
        for step, loss in zip(self.steps, self.rows["loss"], strict=True):
            if step % every == 0:
                self._keep(step, loss)
