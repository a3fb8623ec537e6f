"""Fit CP and HT networks of many ranks to a data set and its randomized twins."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import tensorly
import torch

from htf.datasets import TWINS, ImageData, load
from htf.probes.jobs import Inputs, make_jobs
from htf.probes.result import SETTINGS_FILE, RankFit
from htf.probes.schedule import run_jobs
from htf.training.files import read_json, write_json
from htf.training.loop import FitSettings

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
        How the fits are trained.
    holdout : bool
        Take a sixth of the train set in place of the test set, for choosing settings.
    device : str or torch.device
    data_dir : str or Path, optional
        See `htf.datasets.load`.
    out : str or Path, optional
        Folder for the run.  Finished fits are kept there, and a run that was stopped goes on where it was when called
        again with the same arguments.
    workers : int
        Processes that share the fits, each with one thread; 1 stays in this process.  With more, a script must call
        this function below ``if __name__ == "__main__":``, as multiprocessing asks.
    progress : bool, optional
        Show a bar with the time left; by default where standard error is a terminal.

    Returns
    -------
    RankFit

    Raises
    ------
    ValueError
        For unknown names, ranks below 1, classes that do not occur, or a folder written with other settings.

    Notes
    -----
    On MNIST, CP of rank R has 784 · levels · R parameters, and HT about 264 R² more (`RankFit.table` shows both).

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021, figure 2.
    .. [2] C. Zhang et al., "Understanding deep learning requires rethinking generalization", ICLR 2017.
    """
    formats, twins = _known("format", formats, FORMATS), _known("twin", twins, TWINS)
    ranks, classes, seeds = list(ranks), list(classes), list(seeds)
    for name, values in (("ranks", ranks), ("classes", classes), ("seeds", seeds)):
        if not values:
            raise ValueError(f"{name} is empty; expected at least one value")
    for rank in ranks:
        if rank < 1:
            raise ValueError(f"ranks holds {rank}; a rank is at least 1")
    settings = settings or FitSettings()
    data = load(dataset, data_dir) if isinstance(dataset, str) else dataset
    data = data.holdout() if holdout else data
    unknown = [c for c in classes if c not in data.classes]
    if unknown:
        raise ValueError(f"class {unknown[0]} does not occur in {data.name}; its classes are {data.classes}")
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    jobs = list(make_jobs(formats, ranks, classes, twins, seeds))
    device = torch.device(device)
    described = {
        "dataset": data.name,
        "train_samples": len(data.train_labels),
        "test_samples": len(data.test_labels),
        "formats": formats,
        "ranks": ranks,
        "classes": classes,
        "twins": twins,
        "seeds": seeds,
        "levels": levels,
        **{key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()},
        "n_fits": sum(len(job.fits) for job in jobs),
    }
    folder = None if out is None else Path(out)
    if folder is not None:
        _claim(folder, described, device)
    result = RankFit({**described, **_machine(device)})
    inputs = Inputs(data, levels, settings, device)
    for content in run_jobs(jobs, inputs, settings, folder, workers, progress):
        result.add(content)
    result.sort()
    return result


def _claim(folder: Path, described: dict[str, Any], device: torch.device) -> None:
    """Take a folder for a run with these settings, or refuse it."""
    path = folder / SETTINGS_FILE
    if path.exists():
        there = read_json(path)
        for key, value in described.items():
            if there.get(key) != value:
                raise ValueError(
                    f"out {folder} holds a run with {key} = {there.get(key)!r}; this one has {value!r}. "
                    "Name another folder, or the same settings to go on"
                )
    else:
        write_json(path, {**described, **_machine(device)})


def _machine(device: torch.device) -> dict[str, Any]:
    from htf import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "versions": {
            "htf": __version__,
            "torch": torch.__version__,
            "tensorly": tensorly.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
    }


def _known(name: str, values: Sequence[str], known: Iterable[str]) -> list[str]:
    known = list(known)
    if isinstance(values, str):
        values = [values]
    if not values:
        raise ValueError(f"{name}s is empty; known are {', '.join(known)}")
    for value in values:
        if value not in known:
            raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
    return list(values)
