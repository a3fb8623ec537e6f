"""Fit CP and HT networks of many ranks to a data set and its randomized twins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from htf._checks import positive
from htf._folders import Folder, claim_folder
from htf._machine import describe_machine, usable_device
from htf._version import __version__
from htf.datasets import TWINS, ImageData, load
from htf.jobs import Progress, map_jobs
from htf.probes.jobs import Inputs, Job, cost, make_jobs
from htf.probes.plans import PLANS_FOLDER
from htf.probes.result import RUN, SETTINGS_FILE, RankFit, read_settings, write_settings
from htf.training.least_squares_fit import LEVENBERG_MARQUARDT, FitSettings

FORMATS = ("cp", "ht")
DEFAULT_TWINS = ("original", "random_labels", "random_images")


def rank_fit(
    dataset: str | ImageData = "digits",
    *,
    formats: Sequence[str] = FORMATS,
    ranks: Iterable[int] = range(1, 16),
    classes: Sequence[int] = (6,),
    twins: Sequence[str] = DEFAULT_TWINS,
    seeds: Sequence[int] = (0,),
    levels: int = 2,
    settings: FitSettings | None = None,
    holdout: bool = False,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    scheduler: str | Path | None = None,
    progress: bool | None = None,
) -> RankFit:
    """How low a rank fits a data set, and its randomized twins?

    Every combination of format, rank, class, twin and seed is a least-squares fit of one-vs-all targets (1 for the
    class, 0 for the others) by a network that reads quantized pixels.  Fits with the same images are trained together.

    Parameters
    ----------
    dataset : str or ImageData
        A name known to `htf.datasets.load`, or data of one's own.
    formats : sequence of {"cp", "ht"}
        "ht" joins pixels on ``DimensionTree.grid``, with equal widths at every node for a rank.
    ranks, classes, seeds : iterables of int
        A seed determines a fit's start and its twin's randomization.
    twins : sequence of str
        Names in `htf.datasets.TWINS`.
    levels : int
        Grey levels of a pixel: the dimension of every mode.
    settings : FitSettings, optional
        How the fits are trained; with ``optimizer="levenberg_marquardt"`` by second-order steps on all samples, for
        low train errors of CP fits.
    holdout : bool
        Take a sixth of the train set in place of the test set, for choosing settings.
    device : str or torch.device
    data_dir : str or Path, optional
        See `htf.datasets.load`.
    out : str or Path, optional
        Folder for the run.  Finished fits are kept there, and a run that was stopped goes on where it was when called
        again with the same arguments.  So are the plans of its batches, some 2 KiB for a sample of MNIST, which it then
        reads; what is damaged or of other data is made anew, with a RuntimeWarning.
    workers : int
        Processes that share the fits, each with one thread; 1 stays in this process.  With more, a script must call
        this function below ``if __name__ == "__main__":``, as multiprocessing asks.
    scheduler : str or Path, optional
        Of dask.distributed, in place of processes here: its address, such as "tcp://host:8786", or its scheduler file;
        see `htf.jobs.map_jobs`.  ``device`` is one of the workers', which must all see the folder `out`.
    progress : bool, optional
        Show a bar with the time left; by default where standard error is a terminal.

    Returns
    -------
    RankFit

    Raises
    ------
    ValueError
        For unknown names, ranks below 1, an optimizer that does not take a format, classes that do not occur, or a
        folder that holds another run or damaged files; the message names what differs, or the file.
    OSError
        If the folder cannot be written, before anything is fitted.
    ImportError, ConnectionError, ChildProcessError
        See `htf.jobs.map_jobs`.

    See Also
    --------
    htf.probes.RankFit : what it returns.
    htf.datasets.TWINS : randomizations to compare with.
    htf.ranks.data_entanglement : another measure of how well data suit a tree, without a fit.

    Notes
    -----
    A fit's start and twin depend on its own seed, rank and class, and batches come in one order, so a fit is the same
    in any company, up to rounding.  On MNIST, CP of rank R has 784 · levels · R parameters, and HT about 264 R² more
    (`RankFit.table` shows both).

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021, figure 2.
    .. [2] C. Zhang et al., "Understanding deep learning requires rethinking generalization", ICLR 2017.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits").take(300, 100)
    >>> settings = htf.training.FitSettings(epochs=3)
    >>> result = htf.probes.rank_fit(
    ...     digits, formats=["cp"], ranks=[2, 8], twins=["original", "random_labels"], settings=settings, progress=False
    ... )
    >>> original, _ = result.mean("train", rank=8, twin="original")
    >>> random, _ = result.mean("train", rank=8, twin="random_labels")
    >>> original < random  # the same rank fits the data better than random labels
    True
    """
    formats, twins = _known("format", formats, FORMATS), _known("twin", twins, TWINS)
    ranks, classes, seeds = _integers("ranks", ranks, 1), _integers("classes", classes, 0), _integers("seeds", seeds, 0)
    if positive("levels", levels) < 2:
        raise ValueError(f"levels is {levels}; expected at least 2")
    positive("workers", workers)
    settings = settings or FitSettings()
    if settings.optimizer == LEVENBERG_MARQUARDT and formats != ["cp"]:
        raise ValueError(f'formats are {formats}; the optimizer {LEVENBERG_MARQUARDT} takes "cp" alone')
    data = load(dataset, data_dir) if isinstance(dataset, str) else dataset
    data = data.holdout() if holdout else data
    for part, labels in (("train", data.train_labels), ("test", data.test_labels)):
        there = sorted(set(labels.tolist()))
        unknown = [c for c in classes if c not in there]
        if unknown:
            raise ValueError(f"class {unknown[0]} does not occur in {data.name}, {part}; its classes are {there}")
    jobs = list(make_jobs(formats, ranks, classes, twins, seeds))
    described = {
        "dataset": data.name,
        "data_sha256": data.fingerprint,
        "train_samples": len(data.train_labels),
        "test_samples": len(data.test_labels),
        "formats": formats,
        "ranks": ranks,
        "classes": classes,
        "twins": twins,
        "seeds": seeds,
        "levels": int(levels),
        **{key: list(v) if isinstance(v, tuple) else v for key, v in settings.as_dict().items()},
        "n_fits": sum(len(job.fits) for job in jobs),
        "htf": __version__,
    }
    run = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    # Where the jobs will run, before a folder is claimed: an address or device that cannot be used claims none.
    where = map_jobs(
        _describe, [str(device)], workers=workers, scheduler=scheduler, name="on {}".format, progress=False
    )
    ((_, machine),) = where
    folder = None if out is None else _claim(Path(out), described, {RUN: run, **machine})
    result = RankFit({**described, RUN: run, **machine})
    inputs = Inputs(
        data, levels, settings, torch.device(device), None if folder is None else folder.path / PLANS_FOLDER
    )
    jobs = [replace(job, run=run) for job in jobs]
    # Finished work would make the rate, and so the time left, look better than it is: leave it out.
    finished = {job: None if folder is None else job.finished(folder.path) for job in jobs}
    results = map_jobs(
        Job.within(folder, inputs=inputs, settings=settings),
        [job for job, content in finished.items() if content is None],
        workers=workers,
        scheduler=scheduler,
        cost=lambda job: cost(job, data),
        progress=progress,
    )
    for content in [*filter(None, finished.values()), *(content for _, content in results)]:
        result.add(content)
    result.sort()
    return result


def _describe(device: str, report: Progress) -> dict[str, Any]:
    return describe_machine(usable_device(device))


def _claim(folder: Path, described: dict[str, Any], more: dict[str, Any]) -> Folder:
    """Take a folder for a run with these settings, or refuse it."""
    claimed = claim_folder(folder, Job.kind, described)
    path = folder / SETTINGS_FILE
    if not path.exists():
        write_settings(path, {**described, **more})
    elif (there := read_settings(path)).get(RUN) != more[RUN]:
        raise ValueError(f"{path} is of another run than the folder, with {RUN} = {there.get(RUN)!r}")
    return claimed


def _known(name: str, values: Sequence[str], known: Iterable[str]) -> list[str]:
    known = list(known)
    values = [values] if isinstance(values, str) else list(dict.fromkeys(values))
    if not values:
        raise ValueError(f"{name}s is empty; known are {', '.join(known)}")
    for value in values:
        if value not in known:
            raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
    return list(values)


def _integers(name: str, values: Iterable[int], least: int) -> list[int]:
    """Distinct integers, as Python's own."""
    found = []
    for value in values:
        if isinstance(value, bool) or int(value) != value:
            raise TypeError(f"{name} holds {value!r}; expected integers")
        if value < least:
            raise ValueError(f"{name} holds {value}; expected at least {least}")
        found.append(int(value))
    if not found:
        raise ValueError(f"{name} is empty; expected at least one value")
    return list(dict.fromkeys(found))
