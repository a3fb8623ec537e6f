"""Curricula: a classifier that learns short versions of its task first, each stage going on from the last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from htf._folders import claim_folder
from htf._modes import evaluated
from htf._tables import write_table
from htf.training._class_outputs import check_outputs
from htf.training._classification import Classification, DataLike
from htf.training._samples import as_samples, parts_of
from htf.training.classify_settings import ClassifySettings, Regularizer
from htf.training.curriculum_result import CurriculumResult
from htf.training.digests import digest
from htf.training.optimizers import OptimizerLike
from htf.training.schedules import ScheduleLike
from htf.training.state_dicts import copy_weights, load_weights
from htf.training.stopping import StoppingRule, as_rules

KIND = "curriculum"
RESULT, TABLE = "curriculum.json", "history.csv"


@dataclass(frozen=True)
class Stage:
    """A stage of a `curriculum`: what is learned, with which help, and for how long.

    Parameters
    ----------
    data : LongRangeData, ImageData, mapping or sequence of data sets
        As for `classify`; inputs and classes that the model takes.
    regularizer : callable, optional
        Of this stage alone.
    settings : ClassifySettings
        With the most epochs that it may take; weight decay is given here.
    rules : callable or sequence of them
        Rules that end it earlier: `reached`, `early_stopping` and others.
    name : str
        By default that of the data.

    Raises
    ------
    TypeError
        If an argument is of another type.

    See Also
    --------
    htf.training.curriculum : takes a sequence of them.

    Examples
    --------
    >>> import htf
    >>> stages = [
    ...     htf.training.Stage(
    ...         htf.datasets.far_parity((8, 8), distance=distance, train=100, validation=20, test=20),
    ...         regularizer=htf.regularizers.GradientFieldChange(weight=3) if distance == 2 else None,
    ...         rules=htf.training.reached(0.9),
    ...         name=f"distance {distance}",
    ...     )
    ...     for distance in (2, 4)
    ... ]
    >>> [stage.name for stage in stages], stages[0].settings.epochs
    (['distance 2', 'distance 4'], 60)
    """

    data: DataLike
    regularizer: Regularizer | None = None
    settings: ClassifySettings = field(default_factory=ClassifySettings)
    rules: StoppingRule | Iterable[StoppingRule] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.settings, ClassifySettings):
            raise TypeError(f"settings is a {type(self.settings).__name__}; expected a ClassifySettings")
        if not isinstance(self.name, str):
            raise TypeError(f"name is a {type(self.name).__name__}; expected text")
        if self.regularizer is not None and not callable(self.regularizer):
            raise TypeError(f"regularizer is a {type(self.regularizer).__name__}; expected a callable")
        object.__setattr__(self, "rules", as_rules(self.rules))
        object.__setattr__(self, "name", self.name or parts_of(self.data)[1])


def curriculum(
    model: nn.Module,
    stages: Sequence[Stage],
    *,
    optimizer: OptimizerLike | None = None,
    schedule: ScheduleLike = "constant",
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    fabric: Any = None,
    on_advance: Callable[[], None] | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> CurriculumResult:
    """Train a classifier in stages, each of which goes on from the weights that were best in the one before.

    What a network has learned at a short distance it can use at a longer one, which it may never learn from scratch.
    A stage is a training of its own, as `classify` does it: the optimizer begins anew, and so does a schedule.

    Parameters
    ----------
    model : nn.Module
        As for `classify`.  Trained in place; it ends with the weights that were best on validation in the last stage,
        those of its last epoch without validation samples.
    stages : sequence of Stage
        The first one is the easiest.
    optimizer, schedule, device, fabric
        As for `classify`, in every stage.
    out : str or Path, optional
        Folder with one of each stage in it, and at the end curriculum.json, the result, and history.csv, a row an
        epoch.  A curriculum that was stopped goes on in the stage where it was, to bit for bit the same weights on the
        same CPU; stages may be added to one that is finished.
    on_advance : callable, optional
        Called after each step, as by a job that reports its share.
    save_every : float
        Seconds between checkpoints.
    progress : bool
        Show a bar for each stage, with the time left.

    Returns
    -------
    CurriculumResult

    Raises
    ------
    ValueError
        Before any training, for no stages, and for a stage without training samples, or whose inputs or classes the
        model does not take; the message names the stage.  For a folder with a curriculum of other stages or another
        start.
    TypeError
        For a stage that is no `Stage`.
    OSError, BlockingIOError, FloatingPointError, torch.OutOfMemoryError
        As `classify`.
    KeyboardInterrupt
        After the step in which it came, with a checkpoint saved.  With `out` the model then has the weights that it
        began with, so that the same call goes on.

    See Also
    --------
    htf.training.Stage, htf.training.CurriculumResult : what it takes and returns.
    htf.training.classify : one stage.

    Notes
    -----
    A short version of a task has inputs of the same size, and differs in how far apart lies what has to be related: two
    objects side by side, a curve of few dashes, the gap of a copied sequence.  It is short enough if the network learns
    it, with a regularizer, more samples or more epochs, and the next one is near enough if accuracy on it begins well
    above chance.

    Seconds of stages are added; a stage that was finished earlier has those that it took then.

    Examples
    --------
    >>> import htf
    >>> from htf.training import ClassifySettings, Stage, curriculum, reached
    >>> tasks = [htf.datasets.pathfinder(n, size=32, train=64, validation=32, test=32, seed=0) for n in (2, 3)]
    >>> settings = ClassifySettings(epochs=2, batch_size=32)
    >>> regularizer = htf.regularizers.GradientFieldChange(weight=3, samples=4)
    >>> short = Stage(tasks[0], regularizer, settings, rules=reached(0.9), name="two dashes")
    >>> result = curriculum(htf.nn.small_resnet(), [short, Stage(tasks[1], settings=settings, name="three")])
    >>> result.epochs, [row["name"] for row in result.rows()]
    (4, ['two dashes', 'two dashes', 'three', 'three'])
    """
    stages = _checked(stages)
    _try(model, stages)
    start = copy_weights(model)
    folder = None if out is None else claim_folder(out, KIND, {"parameters at the start": digest(*start.values())})
    results = []
    try:
        for number, stage in enumerate(stages, 1):
            training = Classification(
                model,
                stage.data,
                stage.settings,
                regularizer=stage.regularizer,
                optimizer=optimizer,
                schedule=schedule,
                rules=stage.rules,
                out=None if folder is None else folder.path / f"stage-{number}",
                device=device,
                fabric=fabric,
            )
            training.run_to_end(on_advance, save_every, progress)
            results.append(training.result())
            training.take_best()
    except BaseException:
        # Stages that are finished are found again from where they began.
        if folder is not None:
            load_weights(model, start)
        raise
    found = CurriculumResult(tuple(stage.name for stage in stages), tuple(results))
    if folder is not None and training.processes.rank == 0 and not _is_saved(found, folder.path / RESULT):
        with folder.locked():
            found.save(folder.path / RESULT)
            rows = found.rows()
            write_table(folder.path / TABLE, rows[0], rows)
    return found


def _is_saved(found: CurriculumResult, path: Path) -> bool:
    # One that was finished before is there, in a folder that may be read-only.
    return path.exists() and CurriculumResult.load(path).rows() == found.rows()


def _checked(stages: Sequence[Stage]) -> list[Stage]:
    if isinstance(stages, Stage) or not isinstance(stages, Iterable):
        raise TypeError(f"stages is a {type(stages).__name__}; expected a sequence of Stage")
    found = list(stages)
    if not found:
        raise ValueError("stages is empty; expected at least one Stage")
    for number, stage in enumerate(found, 1):
        if not isinstance(stage, Stage):
            raise TypeError(f"stage {number} is a {type(stage).__name__}; expected a Stage")
    return found


def _try(model: nn.Module, stages: Sequence[Stage]) -> None:
    """Whether the model takes two samples of every stage, and tells its classes apart."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    parameter = next(iter(model.parameters()), torch.zeros(()))
    shapes: dict[tuple[int, ...], str] = {}
    for number, stage in enumerate(stages, 1):
        called = f"stage {number} ({stage.name})"
        samples = {name: as_samples(name, part) for name, part in parts_of(stage.data)[0].items() if part is not None}
        train = samples["train"]
        if not len(train):
            raise ValueError(f"{called} has no training samples; expected at least 2")
        train.place(parameter.device, parameter.dtype, False)
        x, _ = train.batch(slice(0, 2))
        try:
            with evaluated(model), torch.no_grad():
                out = model(x)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            others = "; ".join(f"{name} has {shape}" for shape, name in shapes.items()) or "it is the first one"
            raise ValueError(
                f"{called} has inputs of shape {tuple(x.shape[1:])}, which the model does not take ({others}): {error}"
            ) from error
        try:
            check_outputs(out, len(x), max(part.labels_below for part in samples.values()))
        except ValueError as error:
            raise ValueError(f"{called}: {error}") from error
        shapes.setdefault(tuple(x.shape[1:]), called)
