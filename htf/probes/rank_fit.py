"""Fit CP and HT networks of many ranks to a data set and its randomized twins."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import tensorly
import torch
from torch import Tensor
from tqdm import tqdm

from htf.datasets import TWINS, ImageData, load, one_vs_all, quantize
from htf.engine import Plan
from htf.nn import CPNetwork, HTNetwork
from htf.nn._network import TreeNetwork
from htf.probes.result import FITS_FOLDER, SETTINGS_FILE, FitRecord, RankFit, job_content
from htf.training.files import read_json, write_json
from htf.training.loop import Fit, FitSettings
from htf.tree import DimensionTree

FORMATS = ("cp", "ht")
DEFAULT_TWINS = ("original", "random_labels", "random_images")
# Fits of one network, at most: beyond, activations leave the cache and a checkpoint grows long.
RUNS_TOGETHER = 64


@dataclass(frozen=True)
class _Job:
    """Fits that share inputs and are trained as one network."""

    format: str
    images: tuple[str, int]  # twin that determines the images, and its seed
    fits: tuple[tuple[int, int, str, int], ...]  # (rank, class, twin, seed)

    @property
    def name(self) -> str:
        ranks = sorted({rank for rank, *_ in self.fits})
        span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        twin, seed = self.images
        first = self.fits[0]
        return f"{self.format}_{span}_{twin}_{seed}_c{first[1]}_s{first[3]}_{len(self.fits)}"


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
    progress: bool | None = None,
) -> RankFit:
    """How low a rank fits a data set, and its randomized twins?

    Every combination of format, rank, class, twin and seed is a least-squares fit of one-vs-all targets (1 for the class,
    0 for the others) by a network that reads quantized pixels.  Fits with the same images are trained together.

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
    The number of parameters is 784 · levels · R for CP on MNIST; for HT it adds about 265 R² (`RankFit.table` shows both).

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
    jobs = list(_jobs(formats, ranks, classes, twins, seeds))
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
    inputs = _Inputs(data, levels, settings, device)
    with tqdm(
        total=sum(_cost(job, data) for job in jobs) * settings.epochs,
        disable=None if progress is None else not progress,
        bar_format="{l_bar}{bar}| {elapsed} so far, {remaining} left{postfix}",
    ) as bar:
        for job in jobs:
            bar.set_postfix_str(f"{job.format} {job.name.split('_')[1]} {job.images[0]}")
            result.add(_do(job, inputs, settings, folder, bar, _cost(job, data)))
    result.sort()
    return result


def _jobs(
    formats: Sequence[str], ranks: list[int], classes: list[int], twins: Sequence[str], seeds: list[int]
) -> Iterator[_Job]:
    for form in formats:
        by_images: dict[tuple[str, int], list[tuple[int, int, str, int]]] = {}
        for rank, positive, twin, seed in product(ranks, classes, twins, seeds):
            images = (twin, seed) if TWINS[twin].changes_images else ("original", 0)
            by_images.setdefault(images, []).append((rank, positive, twin, seed))
        for images, fits in by_images.items():
            # Components of CP networks of any ranks lie side by side; HT networks of one width fit together exactly.
            groups = [fits] if form == "cp" else [[f for f in fits if f[0] == rank] for rank in ranks]
            for group in groups:
                for start in range(0, len(group), RUNS_TOGETHER):
                    yield _Job(form, images, tuple(group[start : start + RUNS_TOGETHER]))


class _Inputs:
    """Plans and twins, made once for all jobs with the same images."""

    def __init__(self, data: ImageData, levels: int, settings: FitSettings, device: torch.device) -> None:
        self.data, self.levels, self.device = data, levels, device
        self.batch = settings.batch_of(len(data.train_labels))
        self._key: tuple[Any, ...] | None = None
        self._plans: tuple[list[Plan], list[Plan]] = ([], [])

    def network(self, job: _Job) -> TreeNetwork:
        height, width = self.data.image_size
        # A fit's start depends on what it is, not on its company.
        seeds = [hash_seed(seed, rank, positive) for rank, positive, _, seed in job.fits]
        ranks = [rank for rank, *_ in job.fits]
        if job.format == "cp":
            return CPNetwork([self.levels] * (height * width), ranks, seed=seeds, device=self.device)
        tree = DimensionTree.grid(height, width)
        return HTNetwork(tree, self.levels, ranks[0], runs=len(ranks), seed=seeds, device=self.device)

    def plans(self, job: _Job, network: TreeNetwork) -> tuple[list[Plan], list[Plan]]:
        """Plans of the train and test batches."""
        key = (job.format, job.images)
        if key != self._key:
            twin, seed = job.images
            data = TWINS[twin](self.data, seed)
            train = quantize(data.train_images, self.levels, data.maximum).to(self.device)
            test = quantize(data.test_images, self.levels, data.maximum).to(self.device)
            self._plans = (
                [network.plan(part) for part in train.split(self.batch)],
                [network.plan(part) for part in test.split(max(self.batch, 2000))],
            )
            self._key = key
        return self._plans

    def targets(self, job: _Job) -> tuple[Tensor, Tensor]:
        """(samples, fits) targets of the train and test sets."""
        columns = []
        for _, positive, twin, seed in job.fits:
            data = self.data if TWINS[twin].changes_images else TWINS[twin](self.data, seed)
            columns.append((one_vs_all(data.train_labels, positive), one_vs_all(data.test_labels, positive)))
        train, test = zip(*columns, strict=True)
        return torch.stack(train, 1).to(self.device), torch.stack(test, 1).to(self.device)


def _do(
    job: _Job,
    inputs: _Inputs,
    settings: FitSettings,
    folder: Path | None,
    bar: tqdm[Any],
    cost: float,
) -> dict[str, Any]:
    """Run one job, or take its result from the folder."""
    done = None if folder is None else folder / FITS_FOLDER / f"{job.name}.json"
    if done is not None and done.exists():
        # Finished work counts as no work in the estimate of the time left.
        bar.total -= cost * settings.epochs
        bar.refresh()
        return dict(read_json(done))
    network = inputs.network(job)
    train_plans, test_plans = inputs.plans(job, network)
    train_targets, test_targets = inputs.targets(job)
    train = _batches(train_plans, train_targets)
    test = _batches(test_plans, test_targets)
    checkpoint = None if done is None else done.with_suffix(".safetensors")
    fit = Fit(
        network, train, test, settings, seed=job.fits[0][3], checkpoint=checkpoint, about={"job": job.name}
    )
    bar.total -= cost * fit.epoch
    fit.run(lambda _: bar.update(cost))
    train_errors, test_errors = fit.errors(train), fit.errors(test, fit.clip)
    variance = train_targets.var(0, correction=0).tolist()
    records = [
        FitRecord(
            job.format,
            *keys,
            network.n_parameters(run),
            train_errors[run],
            test_errors[run],
            [epoch[run] for epoch in fit.train_errors],
            [epoch[run] for epoch in fit.test_errors],
            [epoch for epoch, which in fit.returns if which == run],
            not train_errors[run] < variance[run],
        )
        for run, keys in enumerate(job.fits)
    ]
    content = job_content(
        records, {keys[1]: v for keys, v in zip(job.fits, variance, strict=True)}, fit.seconds
    )
    if done is not None and checkpoint is not None:
        write_json(done, content)
        checkpoint.unlink(missing_ok=True)
    return content


def _batches(plans: list[Plan], targets: Tensor) -> list[tuple[Plan, Tensor]]:
    return list(zip(plans, targets.split([len(p) for p in plans]), strict=True))


def _cost(job: _Job, data: ImageData) -> float:
    """Relative cost of an epoch, for the estimate of the time left."""
    height, width = data.image_size
    channels = sum(rank for rank, *_ in job.fits)
    weight = 0.4 * channels + 20 if job.format == "cp" else 2 * channels + 10 * len(job.fits) + 40
    return weight * len(data.train_labels) * height * width / 1e9


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


def hash_seed(seed: int, rank: int, positive: int) -> int:
    """A seed for the start of one fit, the same in any company."""
    return int(numpy.random.SeedSequence([seed, rank, positive]).generate_state(1)[0])


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


