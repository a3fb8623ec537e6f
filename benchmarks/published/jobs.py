"""One job of the published figures: all fits of one rank to one data set or twin, by damped Gauss-Newton steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htf._files import read_tensors, write_tensors
from htf.datasets import TWINS, ImageData, load, one_vs_all, quantize
from htf.jobs import FolderJob, Progress
from htf.jobs.folder import DIGEST
from htf.nn import CPNetwork
from htf.probes.jobs import start_seed
from htf.training import LevenbergMarquardt

# Seconds between states that are kept of a fit.
SAVE_EVERY = 60.0
# A fit whose error falls by less than this share in so many passes has ended.
STILL_PASSES, STILL_FALL = 300, 1e-3
STATE = "the state of published fits"


@dataclass(frozen=True)
class Fits(FolderJob):
    """CP fits of one rank to one set of images, one class against the rest each, all of them together.

    Attributes
    ----------
    data, twin : str
    rank : int
    classes : tuple of int
    seed : int
        Of the starts, and of the twin.
    passes : int
        Of `LevenbergMarquardt`.  A job goes on from the state of the same fits with fewer passes.
    images : int or None
        Train images that are used; all by default.
    """

    kind = "published figures"
    holds = "errors of published fits"

    data: str
    twin: str
    rank: int
    classes: tuple[int, ...]
    seed: int = 0
    passes: int = 1000
    images: int | None = None

    @property
    def label(self) -> str:
        return f"{self.data}_{self.twin}_{self.rank}_{self.passes}"

    def compute(
        self, folder: Path | None, report: Progress, *, data_dir: str | None, coarse: bool = True
    ) -> dict[str, Any]:
        """Go on from the latest state there is; see `rows`."""
        indices, labels = _train(self.data, self.twin, self.seed, self.images, data_dir)
        targets = torch.stack([one_vs_all(labels, positive) for positive in self.classes], 1)
        seeds = [start_seed(self.seed, self.rank, positive) for positive in self.classes]
        network = CPNetwork([2] * indices.shape[1], [self.rank] * len(seeds), seed=seeds)
        fit = LevenbergMarquardt(network, indices, targets, coarse=coarse)
        state, seconds = self._state(folder), 0.0
        if state is not None and state.exists():
            tensors, about = read_tensors(state, STATE)
            if about["passes"] <= self.passes:
                fit.restore(tensors, about)
                seconds = about["seconds"]
        began = saved = time.monotonic()

        def save() -> None:
            if state is not None:
                tensors, numbers = fit.state()
                write_tensors(state, tensors, {**numbers, "seconds": seconds + time.monotonic() - began}, STATE)

        def on_step() -> None:
            nonlocal saved
            report(fit.passes / self.passes)
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()

        while fit.passes < self.passes and not _still(fit):
            fit.step()
            on_step()
        save()
        return {
            "errors": fit.errors.tolist(),
            "variances": targets.var(0, correction=0).tolist(),
            "steps": fit.steps,
            "passes_made": fit.passes,
            "history": [[passes, sum(of_runs) / len(of_runs)] for passes, of_runs in fit.history],
            "seconds": seconds + time.monotonic() - began,
        }

    def _state(self, folder: Path | None) -> Path | None:
        """Where the state of these fits is, whatever their passes."""
        name = replace(self, passes=0).digest[:8]
        return None if folder is None else folder.parents[1] / "states" / f"{name}.safetensors"

    @classmethod
    def rows(cls, content: Any) -> list[dict[str, Any]]:
        """A row for each class."""
        return [
            {
                **{name: content[name] for name in ("data", "twin", "rank", "seed")},
                "class": positive,
                "train": error,
                "variance": variance,
                "passes": content["passes_made"],
                "seconds_of_all_classes": round(content["seconds"], 1),
                DIGEST: content[DIGEST],
            }
            for positive, error, variance in zip(
                content["classes"], content["errors"], content["variances"], strict=True
            )
        ]


def _still(fit: LevenbergMarquardt) -> bool:
    """Whether the mean error has as good as ended its fall."""
    before = [errors for passes, errors in fit.history if passes <= fit.passes - STILL_PASSES]
    return bool(before) and sum(before[-1]) - sum(fit.history[-1][1]) < STILL_FALL * sum(before[-1])


@lru_cache(maxsize=1)
def _train(name: str, twin: str, seed: int, images: int | None, data_dir: str | None) -> tuple[Tensor, Tensor]:
    data: ImageData = load(name, data_dir)
    if images is not None:
        data = data.take(images)
    data = TWINS[twin](data, seed)
    return quantize(data.train_images, 2, data.maximum), data.train_labels
