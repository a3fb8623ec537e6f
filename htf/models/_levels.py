"""Samples as integers from 0 to levels - 1, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from htf._checks import warn
from htf.models._reading import mean_and_spread, numbers

# Values of a byte.
BYTES = 256


@dataclass(frozen=True)
class Levels:
    """How values become levels.

    Attributes
    ----------
    levels : int
    kind : str
        "whole" for integers that are levels as they are, "bytes" for those of 8 bits or less, which may be put into
        fewer levels, "real" for real numbers.
    lowest, highest : float
        Of bytes, as many bits as the largest needs, and of real numbers; levels between are equally wide, and values
        beyond belong to the outermost.
    """

    levels: int
    kind: str
    lowest: float = 0.0
    highest: float = 1.0

    @classmethod
    def of(cls, values: Tensor, levels: int) -> Levels:
        """Find out from the values to be fitted."""
        low, high = float(values.min()), float(values.max())
        if values.dtype == torch.uint8 and (levels == BYTES or high >= levels):
            # Images of few bits, such as those of 17 grey levels, fill the levels too.
            bits = BYTES if levels == BYTES else 1 << int(high).bit_length()
            return cls(levels, "bytes", 0.0, bits - 1.0)
        if not values.is_floating_point() or (high > 1 and low >= 0 and high < levels and _whole(values)):
            found = cls(levels, "whole")
            found._check_whole(values)
            return found
        lowest, highest = min(low, 0.0), 1.0 if low >= 0 and high <= 1 else high
        return cls(levels, "real", lowest, highest if highest > lowest else lowest + max(1e-12, 1e-12 * abs(lowest)))

    def encode(self, values: Tensor) -> Tensor:
        """Levels of values, int16 or int32 as they need."""
        if self.kind == "whole":
            self._check_whole(values)
            found = values
        elif self.kind == "bytes":
            if not _whole(values) or float(values.min()) < 0 or float(values.max()) >= BYTES:
                raise ValueError("x holds values that are not integers from 0 to 255, of which this model was fitted")
            self._warn_of_units(values, 1.0 if values.is_floating_point() else 0.0)
            found = (values.to(torch.int32) * self.levels).div(int(self.highest) + 1, rounding_mode="floor")
            found = found.clamp(max=self.levels - 1)
        else:
            self._warn_of_units(values, 0.0)
            # Halves, as differences may be beyond all floats.
            low = self.lowest / 2
            share = (values.double() / 2 - low) / (self.highest / 2 - low)
            found = (share * self.levels).floor().clamp(0, self.levels - 1)
        return found.to(torch.int16 if self.levels < 2**15 - 1 else torch.int32)

    def decode(self, levels: Tensor) -> Tensor:
        """A value of each level, whose level it is."""
        if self.kind == "whole":
            return levels.long()
        # The outermost levels are at the ends.
        share = levels.double() / max(self.levels - 1, 1)
        if self.kind == "bytes":
            return (share * self.highest).round().to(torch.uint8)
        return 2 * (self.lowest / 2 + share * (self.highest / 2 - self.lowest / 2))

    def _warn_of_units(self, values: Tensor, one: float) -> None:
        """Warn of values that are far beyond the range that was fitted, or from 0 to `one` where bytes were."""
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if self.kind == "bytes":
            suspect = low >= 0 and high == one > 0 and self.highest > one
        else:
            reach = self.highest / 2 - self.lowest / 2
            suspect = max(self.lowest / 2 - low / 2, high / 2 - self.highest / 2) > reach
        if suspect:
            warn(
                f"x holds values from {low:g} to {high:g}; this model was fitted on values from {self.lowest:g} to "
                f"{self.highest:g}, and takes others for the nearest of them: are they in the same units?"
            )

    def _check_whole(self, values: Tensor) -> None:
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if low < 0 or high >= self.levels:
            raise ValueError(
                f"x holds {low if low < 0 else high:g}; expected levels from 0 to {self.levels - 1}, as levels is "
                f"{self.levels}"
            )
        if values.is_floating_point() and not _whole(values):
            raise ValueError(
                f"x holds real numbers, such as {float(values[values != values.round()][0]):g}; this model was "
                f"fitted on integers from 0 to {self.levels - 1}"
            )


@dataclass(frozen=True, eq=False)
class Reals:
    """Real numbers as they are, but for the mean and scale of each feature.

    Attributes
    ----------
    mean, scale : Tensor
        (features,) float64 on the CPU, of the samples that were fitted.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Reals:
        """Find out from the values to be fitted; the scale of a feature that never changes is 1."""
        mean, scale = mean_and_spread(values)
        return cls(mean, torch.where(scale > 1e-12 * values.double().abs().amax(0), scale, 1.0))

    def encode(self, values: Tensor) -> Tensor:
        """Standardized values, float64."""
        return (values.double() - self.mean) / self.scale

    def decode(self, values: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return values.double() * self.scale + self.mean

    def log_volume(self, missing: Tensor | None) -> Tensor:
        """Logarithms of the factors between densities of values and of standardized ones, (samples,) or ()."""
        logs = self.scale.log()
        return logs.sum() if missing is None else (logs * ~missing).sum(1)


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() or bool((values == values.round()).all())


@dataclass(frozen=True)
class Given:
    """Samples that a user gave.

    Attributes
    ----------
    values : Tensor
        (samples, features) on the CPU, without NaN.
    missing : Tensor or None
        (samples, features) booleans.
    as_tensor : bool
        Whether they came as a tensor, so that answers are to be tensors.
    shape : tuple of int
        Of one sample.
    """

    values: Tensor
    missing: Tensor | None
    as_tensor: bool
    shape: tuple[int, ...]


def read(x: Any, missing: Any = None, shape: tuple[int, ...] | None = None, model: str = "the model") -> Given:
    """Check samples and a mask; `shape` is that of one sample, where it is known, of a `model` by name.

    Raises
    ------
    TypeError, ValueError
        The message names `x` or `missing`, what came and what was expected.
    """
    values, as_tensor = numbers("x", x), isinstance(x, Tensor)
    if values.ndim not in (2, 3):
        hint = ". Reshape your data" if values.ndim == 1 else ""
        raise ValueError(
            f"x has shape {tuple(values.shape)}; expected (samples, height, width) or (samples, features){hint}"
        )
    found = tuple(values.shape[1:])
    if not len(values):
        raise ValueError(f"x has 0 sample(s) (shape={tuple(values.shape)}) while a minimum of 1 is required.")
    if shape is not None and found != shape:
        if len(shape) == len(found) == 1:
            raise ValueError(f"X has {found[0]} features, but {model} is expecting {shape[0]} features as input")
        raise ValueError(f"x has samples of shape {found}; this model was fitted on samples of shape {shape}")
    if not math.prod(found):
        raise ValueError(f"x has 0 feature(s) (shape={tuple(values.shape)}) while a minimum of 2 is required.")
    marks = None
    if missing is not None:
        marks = numbers("missing", missing)
        if marks.dtype != torch.bool:
            raise TypeError(f"missing has dtype {marks.dtype}; expected booleans, True where a value is missing")
        if marks.shape != values.shape:
            raise ValueError(f"missing has shape {tuple(marks.shape)}; expected that of x, {tuple(values.shape)}")
        marks = marks.flatten(1)
    values = values.flatten(1)
    if values.is_floating_point():
        known = values if marks is None else values.masked_fill(marks, 0)
        if not bool(known.isfinite().all()):
            row = int((~known.isfinite()).any(1).nonzero()[0])
            what = "NaN" if bool(known[row].isnan().any()) else "infinity"
            raise ValueError(
                f"x contains {what} in sample {row}; values that are not known are to be marked by missing=mask, "
                "True where they are missing"
            )
        values = known
    elif marks is not None:
        values = values.masked_fill(marks, 0)
    return Given(values, marks, as_tensor, found)
