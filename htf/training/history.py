"""What a fit leaves behind: losses, errors and tracked quantities against steps and flow time."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._files import read_json, read_tensors, write_json, write_tensors, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS, TABLE, RECORD = "settings.json", "history.csv", "history.safetensors"
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

    Notes
    -----
    ``history[name]`` is ``history.tracked[name]``.
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

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.loss.shape[1]

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name not in self.tracked:
            raise KeyError(f"{name!r} was not tracked; tracked are {', '.join(self.tracked) or 'no quantities'}")
        return self.tracked[name]

    def about(self, name: str) -> dict[str, Any]:
        """What the tracker of that name said of itself and the network."""
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
        """
        folder = Path(folder)
        write_json(folder / SETTINGS, {**self.settings, "seconds": self.seconds, "stopped": self.stopped})
        write_text(folder / TABLE, self._table())
        write_tensors(folder / RECORD, self.tensors(), {})

    @classmethod
    def load(cls, folder: str | Path) -> History:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is missing, damaged or cut short.
        """
        folder = Path(folder)
        settings = read_json(folder / SETTINGS)
        tensors, _ = read_tensors(folder / RECORD)
        try:
            seconds, stopped = settings.pop("seconds"), settings.pop("stopped")
            return cls.from_tensors(tensors, settings, seconds, stopped)
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{folder / SETTINGS} does not describe a fit ({error!r})") from error

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

    def judge(self, rules: Iterable[Callable[[Tensor, Tensor, float], str]]) -> None:
        """Ask stopping rules, of the moment just added and those at which they were asked before."""
        self._keep(self.steps[-1], self.rows["loss"][-1])
        assert self._losses is not None
        count = len(self._asked)
        for rule in rules:
            self.stopped = self.stopped or rule(
                torch.tensor(self._asked, device="cpu"), self._losses[:count], self.seconds
            )

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
        """What has been recorded so far."""
        tensors = {name: torch.stack(values) for name, values in self.rows.items()}
        tensors["steps"] = torch.tensor(self.steps, dtype=torch.int64, device="cpu")
        return History.from_tensors(tensors, self.settings, self.seconds, self.stopped)

    def restore(self, tensors: Mapping[str, Tensor], seconds: float, stopped: str, every: int) -> None:
        """Go on from an earlier history's tensors; rules were asked at multiples of `every`."""
        self.steps = tensors["steps"].tolist()
        self.rows = {name: list(tensor.unbind(0)) for name, tensor in tensors.items() if name != "steps"}
        self.seconds, self.stopped = seconds, stopped
        for step, loss in zip(self.steps, self.rows["loss"], strict=True):
            if step % every == 0:
                self._keep(step, loss)
