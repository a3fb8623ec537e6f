"""From images and tables to a vector per mode of a tree: patches of pixels, or single features, beside a constant.

A vector begins with a 1, so that a matrix at a leaf maps it by an affine map, and a network on them is an affine
function of each patch, a polynomial of all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from htf._checks import warn
from htf.arrangement import arrange
from htf.models._reading import mean_and_spread
from htf.tree import DimensionTree

# How many times more or less than those that were fitted pixels may vary before it is worth a warning.
UNITS = 30.0, 100.0
# Standard deviations at which features of tables are cut: products of many large ones would be beyond all bounds.
FARTHEST = 5.0


@dataclass(frozen=True)
class Patches:
    """Windows of images, (channels * patch², 1) pixels each.

    Attributes
    ----------
    channels, height, width : int
        Of the images.
    patch, stride : int
        Side of a window in pixels, and the step from one to the next; windows overlap where it is smaller.
    mean, scale : float
        Of the pixels that were fitted, those of bytes over 255: a pixel x is read as (x - mean) / scale.
    """

    channels: int
    height: int
    width: int
    patch: int
    stride: int
    mean: float
    scale: float

    @classmethod
    def fitted(cls, images: Tensor, patch: int, stride: int) -> Patches:
        """Windows of images (n, channels, height, width), and the mean and standard deviation of their pixels."""
        channels, height, width = images.shape[1:]
        if patch > min(height, width):
            raise ValueError(f"patch is {patch}; images are {height} x {width}")
        total = images.numel()
        parts = [_unit(part, torch.float64) for part in images.split(4096)]
        mean = float(sum(float(part.sum()) for part in parts) / total)
        variance = sum(float((part - mean).square().sum()) for part in parts) / total
        return cls(channels, height, width, patch, stride, mean, variance**0.5 or 1.0)

    def check_units(self, images: Tensor) -> None:
        """Warn of images whose pixels vary so much more or less than those that were fitted that units are others."""
        spread = float(images.double().std(correction=0)) / (255.0 if images.dtype == torch.uint8 else 1.0)
        if spread > UNITS[0] * self.scale or 0 < spread < self.scale / UNITS[1]:
            warn(
                f"X has pixels of standard deviation {spread:.2g}; the estimator was fitted to pixels of "
                f"{self.scale:.2g}: are they in the same units?"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Windows along the height and along the width; the last ones may reach beyond the image."""
        return tuple(-(-(side - self.patch) // self.stride) + 1 for side in (self.height, self.width))  # type: ignore[return-value]

    @property
    def order(self) -> int:
        """Number of windows."""
        return self.grid[0] * self.grid[1]

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.channels * self.patch**2 + 1

    @property
    def arrangement(self) -> DimensionTree | None:
        """The tree that joins squares of windows, where they are more than a row."""
        return DimensionTree.grid(*self.grid) if min(self.grid) > 1 else None

    def __call__(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Vectors (n, order, dim) of images (n, channels, height, width)."""
        pixels = (_unit(images, dtype) - self.mean) / self.scale
        below, right = (
            (count - 1) * self.stride + self.patch - side
            for count, side in zip(self.grid, (self.height, self.width), strict=True)
        )
        windows = unfold(pad(pixels, (0, right, 0, below)), self.patch, stride=self.stride).mT
        return torch.cat([windows.new_ones(*windows.shape[:2], 1), windows], 2)

    def describe(self) -> dict[str, Any]:
        return {"kind": "patches", **asdict(self)}


def _unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels of bytes from 0 to 1, others as they are."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


class Columns:
    """Features of tables, each a mode: (1, standardized feature).

    Attributes
    ----------
    mean, scale : Tensor, (features,)
        Of the samples that were fitted; a feature that never changed is read as 0.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def fitted(cls, table: Tensor) -> Columns:
        """Means and standard deviations of a table (n, features)."""
        mean, spread = mean_and_spread(table)
        return cls(mean, torch.where(spread > 1e-12 * table.double().abs().amax(0), spread, torch.inf))

    @property
    def order(self) -> int:
        """Number of modes: features, or a constant beside a single one, as a tree has two leaves at least."""
        return max(len(self.mean), 2)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return 2

    @property
    def arrangement(self) -> None:
        """None: features are in no order."""
        return None

    def __call__(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        """Vectors (n, order, 2) of a table (n, features)."""
        mean, scale = self.mean.to(table.device), self.scale.to(table.device)
        values = ((table.double() - mean) / scale).clamp(-FARTHEST, FARTHEST).to(dtype)
        values = pad(values, (0, self.order - values.shape[1]))
        return torch.stack([torch.ones_like(values), values], 2)

    def describe(self) -> dict[str, Any]:
        scale = [value if value < float("inf") else None for value in self.scale.tolist()]
        return {"kind": "columns", "mean": self.mean.tolist(), "scale": scale}


Encoder = Patches | Columns


def arranged_tree(encoder: Encoder, samples: Tensor, seed: int) -> DimensionTree:
    """The tree of `htf.arrange` over the features of a table, or the windows of images, by their correlations."""
    features = samples if samples.ndim == 2 else encoder(samples, torch.float64)
    return arrange(features, method="correlation", seed=seed).tree


def encoder_from(about: dict[str, Any]) -> Encoder:
    """The inverse of `describe`; a ValueError for what none has written."""
    own = {key: value for key, value in about.items() if key != "kind"}
    if about["kind"] == "patches":
        return Patches(**own)
    if about["kind"] != "columns" or len(own["mean"]) != len(own["scale"]):
        counts = f"{len(own['mean'])} means and {len(own['scale'])} scales"
        raise ValueError(f"no encoder has kind {about['kind']!r}, {counts}")
    scale = [float("inf") if value is None else value for value in own["scale"]]
    return Columns(*(torch.tensor(each, dtype=torch.float64, device="cpu") for each in (own["mean"], scale)))
