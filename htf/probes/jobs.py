"""The jobs of a rank-fit probe: fits that share inputs, trained as one network and kept as one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from htf._files import remove_saved
from htf.datasets import TWINS, ImageData, one_vs_all, quantize
from htf.engine import Plan
from htf.jobs import FolderJob, Progress
from htf.nn import CPNetwork, HTNetwork
from htf.nn.networks.tree import TreeNetwork
from htf.probes.gauss_newton import FoundErrors, gauss_newton_fits
from htf.probes.plans import kept_plans
from htf.probes.result import FITS_FOLDER, FitRecord, check_run, job_content, read_job, write_job
from htf.training.least_squares_fit import LEVENBERG_MARQUARDT, Batch, FitSettings, LeastSquaresFit
from htf.tree import DimensionTree

# Fits of one network, at most: beyond, activations leave the cache and a checkpoint grows long.
RUNS_TOGETHER = 64
LOCKS_FOLDER = "locks"


@dataclass(frozen=True)
class Job(FolderJob):
    """Fits that share inputs and are trained as one network.

    Attributes
    ----------
    format : {"cp", "ht"}
    images : (str, int)
        Twin that determines the images, and its seed.
    fits : tuple of (int, int, str, int)
        Rank, class, twin and seed of each.
    run : str
        SHA-256 of the settings of the run, which is written into its files.
    """

    kind = "probe"
    pattern = f"{FITS_FOLDER}/*.json"

    format: str
    images: tuple[str, int]
    fits: tuple[tuple[int, int, str, int], ...]
    run: str = ""

    @property
    def digest(self) -> str:
        """Digest of the fits, which tells apart jobs with the same images and ranks."""
        return hashlib.sha256(repr(self.fits).encode()).hexdigest()

    @property
    def label(self) -> str:
        ranks = sorted({rank for rank, *_ in self.fits})
        span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        twin, seed = self.images
        return f"{self.format}_{span}_{twin}{seed}"

    def lock(self, out: Path) -> Path:
        return out / LOCKS_FOLDER / self.name

    def compute(
        self, folder: Path | None, report: Progress, *, inputs: Inputs, settings: FitSettings
    ) -> dict[str, Any]:
        """Train the fits, from their checkpoint if there is one; see `job_content`."""
        network = inputs.network(self)
        if settings.optimizer == LEVENBERG_MARQUARDT:
            return self._by_gauss_newton(network, folder, report, inputs, settings)
        train_targets, test_targets = inputs.targets(self)
        train_plans, test_plans = inputs.plans(self, network)
        train, test = _batches(train_plans, train_targets), _batches(test_plans, test_targets)
        checkpoint = None if folder is None else folder.with_suffix(".safetensors")
        # Batches come in one order for all fits, so that none depends on its company.
        fit = LeastSquaresFit(network, train, test, settings, checkpoint=checkpoint, about={"job": self.name})
        report(fit.epoch / settings.epochs)
        fit.run(lambda fit: report(fit.epoch / settings.epochs))
        train_errors, test_errors = fit.errors(train), fit.errors(test, fit.clip)
        found = FoundErrors(train_errors, test_errors, fit.train_errors, fit.test_errors, fit.seconds)
        return self._content(network, train_targets, found, fit.returns)

    def _by_gauss_newton(
        self, network: TreeNetwork, folder: Path | None, report: Progress, inputs: Inputs, settings: FitSettings
    ) -> dict[str, Any]:
        train_targets, test_targets = inputs.targets(self)
        train, test = inputs.indices(self)
        parts = test.split(max(inputs.batch, 2000))
        checkpoint = None if folder is None else folder.with_suffix(".safetensors")
        found = gauss_newton_fits(
            cast(CPNetwork, network),
            (train, train_targets),
            _batches([network.plan(part) for part in parts], test_targets),
            settings.epochs,
            checkpoint,
            report,
        )
        return self._content(network, train_targets, found, [])

    def _content(
        self, network: TreeNetwork, targets: Tensor, fit: FoundErrors, returns: list[tuple[int, int]]
    ) -> dict[str, Any]:
        variance = targets.var(0, correction=0).tolist()
        records = [
            FitRecord(
                self.format,
                *keys,
                network.n_parameters(run),
                fit.train[run],
                fit.test[run],
                [epoch[run] for epoch in fit.train_errors],
                [epoch[run] for epoch in fit.test_errors],
                [epoch for epoch, which in returns if which == run],
                not fit.train[run] < variance[run],
            )
            for run, keys in enumerate(self.fits)
        ]
        by_class = {keys[1]: v for keys, v in zip(self.fits, variance, strict=True)}
        return job_content(records, by_class, fit.seconds, self.run)

    def content(self, found: dict[str, Any]) -> dict[str, Any]:
        return found

    def save(self, out: Path, found: dict[str, Any]) -> None:
        write_job(self.file(out), found)
        remove_saved(self.folder(out).with_suffix(".safetensors"))

    def check(self, file: Path, content: dict[str, Any]) -> None:
        check_run(file, content, self.run)
        if [FitRecord(**record).key for record in content["records"]] != [(self.format, *keys) for keys in self.fits]:
            raise ValueError(f"{file} does not hold the fits of job {self.name}")

    @classmethod
    def read(cls, file: Path) -> dict[str, Any]:
        return read_job(file)


def make_jobs(
    formats: Sequence[str], ranks: list[int], classes: list[int], twins: Sequence[str], seeds: list[int]
) -> Iterator[Job]:
    """Group the combinations of all arguments into jobs."""
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
                    yield Job(form, images, tuple(group[start : start + RUNS_TOGETHER]))


class Inputs:
    """Plans and twins, made once for jobs in a row with the same images; plans are kept in a folder if there is one."""

    def __init__(
        self, data: ImageData, levels: int, settings: FitSettings, device: torch.device, plans: Path | None = None
    ) -> None:
        self.data, self.levels, self.device, self.folder = data, levels, device, plans
        self.batch = settings.batch_of(len(data.train_labels))
        # Replaced as one, as a worker of a cluster may have several threads.
        self._latest: tuple[Any, tuple[list[Plan], list[Plan]]] = (None, ([], []))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": (None, ([], []))}

    def network(self, job: Job) -> TreeNetwork:
        height, width = self.data.image_size
        # A fit's start depends on what it is, not on its company.
        seeds = [start_seed(seed, rank, positive) for rank, positive, _, seed in job.fits]
        ranks = [rank for rank, *_ in job.fits]
        if job.format == "cp":
            return CPNetwork([self.levels] * (height * width), ranks, seed=seeds, device=self.device)
        tree = DimensionTree.grid(height, width)
        return HTNetwork(tree, self.levels, ranks[0], runs=len(ranks), seed=seeds, device=self.device)

    def plans(self, job: Job, network: TreeNetwork) -> tuple[list[Plan], list[Plan]]:
        """Plans of the train and test batches."""
        key = (job.format, job.images)
        there, plans = self._latest
        if key != there:
            twin, seed = job.images
            path = None if self.folder is None else self.folder / f"{job.format}_{twin}{seed}.safetensors"
            about = {
                "data_sha256": self.data.fingerprint,
                "twin": twin,
                "seed": seed,
                "levels": self.levels,
                "batch": self.batch,
                "device": self.device.type,
            }
            plans = kept_plans(path, about, network, lambda: self._make_plans(job, network))
            self._latest = key, plans
        return plans

    def _make_plans(self, job: Job, network: TreeNetwork) -> tuple[list[Plan], list[Plan]]:
        train, test = self.indices(job)
        return (
            [network.plan(part) for part in train.split(self.batch)],
            [network.plan(part) for part in test.split(max(self.batch, 2000))],
        )

    def indices(self, job: Job) -> tuple[Tensor, Tensor]:
        """Quantized pixels of the train and test images, (samples, pixels)."""
        twin, seed = job.images
        data = TWINS[twin](self.data, seed)
        return (
            quantize(data.train_images, self.levels, data.maximum).to(self.device),
            quantize(data.test_images, self.levels, data.maximum).to(self.device),
        )

    def targets(self, job: Job) -> tuple[Tensor, Tensor]:
        """(samples, fits) targets of the train and test sets."""
        columns = []
        for _, positive, twin, seed in job.fits:
            data = self.data if TWINS[twin].changes_images else TWINS[twin](self.data, seed)
            columns.append((one_vs_all(data.train_labels, positive), one_vs_all(data.test_labels, positive)))
        train, test = zip(*columns, strict=True)
        return torch.stack(train, 1).to(self.device), torch.stack(test, 1).to(self.device)


def _batches(plans: list[Plan], targets: Tensor) -> list[Batch]:
    return list(zip(plans, targets.split([len(p) for p in plans]), strict=True))


def cost(job: Job, data: ImageData) -> int:
    """Relative cost of an epoch, for the estimate of the time left."""
    height, width = data.image_size
    channels = sum(rank for rank, *_ in job.fits)
    weight = 0.4 * channels + 20 if job.format == "cp" else 2 * channels + 10 * len(job.fits) + 40
    return round(weight * len(data.train_labels) * height * width)


def start_seed(seed: int, rank: int, positive: int) -> int:
    """A seed for the start of one fit, the same in any company."""
    return int(numpy.random.SeedSequence([seed, rank, positive]).generate_state(1)[0])
