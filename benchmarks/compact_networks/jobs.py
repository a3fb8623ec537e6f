"""One compact network: how it is trained, and what it says of test images once it is folded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from benchmarks.batches import Shuffled
from benchmarks.fits import image_parts, with_channels
from htf._modes import evaluated
from htf.jobs import FolderJob, Progress
from htf.surgery import collapse
from htf.training import Training
from htf.training.objectives import Found

from .networks import EXPANSIONS, compact, count, expanded, factorized

# The share of soft labels, as Hinton et al. 2015 mix them with the hard ones.
SOFT = 0.9
TEACHER = 2
MODELS: dict[str, dict[str, list[Any]]] = {
    "plain": {},
    **{way: {"width": [64, 128]} for way in EXPANSIONS},
    "distilled": {"temperature": [4.0]},
    "ht": {"width": [2, 4]},
}
Parts = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Compact(FolderJob):
    """A training.

    Attributes
    ----------
    source : str
        Of `benchmarks.fits.image_parts`.
    images : dict
        How many there are for "train", "validation" and "test".
    model : str
        From `MODELS`.
    options : dict
        Its setting, from there.
    seed : int
        Of the start and the order of images.
    epochs : int
        As many as take the time that the plain network has, for others than "distilled".
    batch_size, lr, weight_decay
        Of AdamW, the rate falling to 0 along a cosine.
    """

    kind = "benchmark of compact networks"
    holds = "the row of a compact network"
    temporary = ("*/checkpoint*",)

    source: str
    images: dict[str, int]
    model: str
    options: dict[str, Any]
    seed: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float

    @property
    def label(self) -> str:
        return f"{self.source}_{self.model}_seed{self.seed}"

    def compute(self, folder: Path | None, report: Progress, *, data_dir: str | None = None) -> dict[str, Any]:
        """The row: sizes, accuracies of the folded network, seconds."""
        parts = parts_of(self.source, self.images, data_dir)
        image, classes = sizes_of(*parts["train"])
        objective: Shuffled = Shuffled(*parts["train"], self.batch_size, self.seed)
        about: dict[str, Any] = {}
        if self.model == "distilled":
            teacher = compact(image, classes, self.seed, TEACHER)
            about["seconds_teacher"] = round(self._trained(teacher, objective, folder, "teacher", report, 0.0), 1)
            about |= {"teacher_parameters": count(teacher), "teacher_test": accuracy(teacher, *parts["test"])}
            soft = outputs(teacher, parts["train"][0])
            objective = Distilled(*parts["train"], soft, self.options["temperature"], self.batch_size, self.seed)
        network = make_network(self.model, self.options, image, classes, self.seed)
        begun = 0.5 if self.model == "distilled" else 0.0
        seconds = self._trained(network, objective, folder, "network", report, begun)
        # Factorized layers stay: their small form is what is kept.
        folded = collapse(network) if self.model in EXPANSIONS else network
        return {
            **{part: accuracy(folded, *pair) for part, pair in parts.items()},
            "folded_differs": float(
                (outputs(network, parts["test"][0]) - outputs(folded, parts["test"][0])).abs().max()
            ),
            "parameters": count(folded),
            "trained_parameters": count(network),
            "seconds": round(seconds, 1),
            **about,
        }

    def _trained(
        self, network: nn.Module, objective: Shuffled, folder: Path | None, name: str, report: Progress, begun: float
    ) -> float:
        """Train in place; seconds."""
        training = Training(
            network,
            objective,
            optimizer=partial(torch.optim.AdamW, weight_decay=self.weight_decay),
            lr=self.lr,
            schedule="cosine",
            out=None if folder is None else folder / name,
            seed=self.seed,
        )
        part = 1 - begun if self.model != "distilled" else 0.5
        training.run(self.epochs, on_advance=lambda: report(begun + part * training.step / training.steps))
        return training.seconds


class Distilled(Shuffled):
    """Cross entropy with labels and with the softened outputs of a teacher.

    Parameters
    ----------
    x, y : Tensor
        As of `Shuffled`.
    soft : Tensor
        The teacher's outputs (n, classes).
    temperature : float
        By which both outputs are divided.
    batch_size, seed : int

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """

    def __init__(self, x: Tensor, y: Tensor, soft: Tensor, temperature: float, batch_size: int, seed: int) -> None:
        super().__init__(x, y, batch_size, seed)
        self.soft, self.temperature = soft, temperature

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        chosen = self.chosen(epoch, batch)
        x, y = self.x[chosen], self.y[chosen]
        out, temperature = model(x), self.temperature
        aim = log_softmax(self.soft[chosen] / temperature, 1)
        # By the square of the temperature, gradients are of one size whatever it is.
        soft = kl_div(log_softmax(out / temperature, 1), aim, log_target=True, reduction="batchmean") * temperature**2
        return Found(SOFT * soft + (1 - SOFT) * cross_entropy(out, y), len(y), (x, y, out))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "temperature": self.temperature, "soft": float(self.soft.double().square().sum())}


def make_network(
    model: str, options: dict[str, Any], image: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """The network as it is trained."""
    if model == "ht":
        return factorized(image, classes, seed, **options)
    plain = compact(image, classes, seed)
    return expanded(plain, model, **options, seed=seed) if model in EXPANSIONS else plain


def parts_of(source: str, images: dict[str, int], data_dir: str | None) -> Parts:
    """Images (n, channels, h, w), by the training part's mean and deviation of each channel, and labels."""
    found = image_parts(source, **images, data_dir=data_dir)
    x = {part: with_channels(pixels) for part, (pixels, _) in found.items()}
    deviation, mean = torch.std_mean(x["train"], (0, 2, 3), keepdim=True)
    return {part: (((x[part] - mean) / deviation).contiguous(), labels) for part, (_, labels) in found.items()}


def sizes_of(x: Tensor, y: Tensor) -> tuple[tuple[int, int, int], int]:
    """Channels, height and width of images, and classes."""
    channels, height, width = x.shape[1:]
    return (channels, height, width), 1 + int(y.max())


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> Tensor:
    """(n, classes), in evaluation mode."""
    with evaluated(network):
        return torch.cat([network(part) for part in x.split(500)])


def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found."""
    return float((outputs(network, x).argmax(1) == labels).double().mean())


def relative_times(
    makers: Mapping[str, Callable[[], nn.Module]], x: Tensor, y: Tensor, rounds: int
) -> dict[str, float]:
    """Seconds of a training step relative to the first network's: medians of ratios within a round, steps in turns."""
    networks = {name: make() for name, make in makers.items()}
    optimizers = {name: torch.optim.AdamW(network.parameters()) for name, network in networks.items()}
    found: dict[str, list[float]] = {name: [] for name in networks}
    for k in range(rounds + 1):
        for name, network in networks.items():
            began = time.perf_counter()
            optimizers[name].zero_grad()
            cross_entropy(network(x), y).backward()
            optimizers[name].step()
            # The first round warms up.
            found[name] += [time.perf_counter() - began] * (k > 0)
    first = found[next(iter(networks))]
    return {name: median(a / b for a, b in zip(times, first, strict=True)) for name, times in found.items()}
