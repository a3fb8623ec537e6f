"""One autoencoder: how it is trained, and what is measured of its code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.fits import Images, image_parts, with_channels
from htf._files import write_tensors
from htf.jobs import FolderJob, Progress
from htf.ranks import effective_rank
from htf.surgery import collapse
from htf.training import Training

from .networks import Autoencoder
from .objective import Reconstruction, codes, relative_error, spectrum
from .shapes import discs
from .uses import between, distance_to_nearest, few_label_accuracies, sampled

SHAPES = "shapes"
PICTURES = "pictures.safetensors"
# Each but "plain" with its own arguments of `Autoencoder`.
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{f"linear{layers}": {"layers": layers} for layers in (2, 4, 8)},
    "nuclear": {},
    "l1": {},
    "variational": {"variational": True},
    "ht": {"format": "ht"},
    "cp": {"format": "cp"},
}
PENALIZED = ("nuclear", "l1", "variational")
# Standard deviations above this share of the largest count as used.
USED_FROM = 1e-2
NEAREST_AMONG, NEAREST_OF = 5000, 500


@dataclass(frozen=True)
class Coding(FolderJob):
    """An autoencoder.

    Attributes
    ----------
    source : str
        "shapes", or of `benchmarks.fits.image_parts`.
    images : dict
        How many there are for "train", "validation" and "test".
    model : str
        From `MODELS`.
    seed : int
        Of the start and the order of images.
    code : int
        Dimensions.
    epochs, batch_size, lr
        Of Adam, the rate falling to 0 along a cosine.
    weight : float
        Of the penalty; 0 without one.
    """

    kind = "benchmark of autoencoders"
    holds = "the row of an autoencoder"
    temporary = ("checkpoint*",)

    source: str
    images: dict[str, int]
    model: str
    seed: int
    code: int
    epochs: int
    batch_size: int
    lr: float
    weight: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.source}_{self.model}_seed{self.seed}"

    def compute(self, folder: Path | None, report: Progress, *, data_dir: str | None = None) -> dict[str, Any]:
        """The row: errors, spectrum and effective rank of the code, and what it is good for."""
        labelled = parts_of(self.source, self.images, data_dir)
        maximum = int(labelled["train"][0].max())
        x = {part: with_channels(images) / maximum for part, (images, _) in labelled.items()}
        penalty = self.model if self.model in PENALIZED else "none"
        channels, height, width = x["train"].shape[1:]
        model = Autoencoder((channels, height, width), self.code, **MODELS[self.model], seed=self.seed)
        training = Training(
            model,
            Reconstruction(x["train"], x["validation"], penalty, self.weight, self.batch_size),
            optimizer="adam",
            lr=self.lr,
            schedule="cosine",
            out=folder,
            seed=self.seed,
        )
        history = training.run(self.epochs, on_advance=lambda: report(training.step / training.steps))
        unfolded = relative_error(model, x["test"])
        # Without a layer that can be folded there is nothing to fold.
        folded = model if isinstance(model.map, nn.Identity) else cast(Autoencoder, collapse(model))
        found = {part: codes(folded, images) for part, images in x.items()}
        along = spectrum(found["validation"])
        about = Usable(folded, found, x, self.seed)
        if folder is not None:
            write_tensors(folder / PICTURES, about.pictures(), {"model": self.model, "source": self.source})
        curve = history["validation"]
        return {
            **{f"{part}_error": relative_error(folded, images) for part, images in x.items()},
            "folded_differs": abs(unfolded - relative_error(folded, x["test"])),
            "effective_rank": float(effective_rank(along)),
            "effective_rank_of_variances": float(effective_rank(along.square())),
            "used": int((along > USED_FROM * along[0]).sum()),
            "spectrum": [float(f"{value:.4g}") for value in along.tolist()],
            "few_labels": {} if self.source == SHAPES else _few_labels(found, labelled, self.seed),
            **about.distances(),
            "curve": {name: [round(v, 5) for v in values[:, 0].tolist()] for name, values in curve.items()},
            "parameters": sum(p.numel() for p in folded.parameters()),
            "seconds": round(history.seconds, 1),
        }


def _few_labels(found: dict[str, Tensor], labelled: dict[str, Images], seed: int) -> dict[str, float]:
    train, validation, test = ((found[part], labelled[part][1]) for part in ("train", "validation", "test"))
    return few_label_accuracies(train, validation, test, seed)


@dataclass(frozen=True)
class Usable:
    """Images that codes are decoded to: on lines between test images, and drawn from a mixture.

    Attributes
    ----------
    model : Autoencoder
    codes, images : dict of Tensor
        Of the parts.
    seed : int
    """

    model: Autoencoder
    codes: dict[str, Tensor]
    images: dict[str, Tensor]
    seed: int

    def distances(self) -> dict[str, float]:
        """Median distances of decoded codes to the nearest training image, relative to those of test images."""
        among = self.images["train"][:NEAREST_AMONG]
        test = self.images["test"][:NEAREST_OF]
        middles = between(self.codes["test"][: 2 * NEAREST_OF], 3)[:, 1]
        drawn = sampled(self.codes["train"], NEAREST_OF, self.seed)
        unit = distance_to_nearest(test, among)
        decoded = {"test": self.codes["test"][:NEAREST_OF], "middle": middles, "sample": drawn}
        return {f"{name}_distance": distance_to_nearest(self._decoded(c), among) / unit for name, c in decoded.items()}

    def pictures(self) -> dict[str, Tensor]:
        """Bytes: "between" (4, 9, channels, height, width), "samples" (4, 9, ...)."""
        lines = between(self.codes["test"][:8], 9).flatten(0, 1)
        drawn = sampled(self.codes["train"], 36, self.seed)
        return {name: self._bytes(self._decoded(c)) for name, c in (("between", lines), ("samples", drawn))}

    @torch.no_grad()
    def _decoded(self, code: Tensor) -> Tensor:
        decoder: Callable[[Tensor], Tensor] = self.model.decoder
        return torch.cat([decoder(part) for part in code.split(500)]).clamp(0, 1)

    @staticmethod
    def _bytes(images: Tensor) -> Tensor:
        return (255 * images).round().to(torch.uint8).unflatten(0, (-1, 9))


def parts_of(source: str, images: dict[str, int], data_dir: str | None) -> dict[str, Images]:
    """Images of bytes and labels; those of shapes are all 0."""
    if source != SHAPES:
        return image_parts(source, **images, data_dir=data_dir)
    return {
        part: (discs(count, seed=k)[0], torch.zeros(count, dtype=torch.int64))
        for k, (part, count) in enumerate(images.items())
    }
