"""Sizes of what Pathfinder's images show, and how near its curves may come to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """Sizes in Pathfinder's scenes; lengths in pixels.

    Attributes
    ----------
    size : int
        Height and width of the image.
    path_length, distractor_length : int
        Dashes of each of the two snakes, and of a distractor.
    distractors : int
        Distractors at most: those that find no place are left out.
    dash, gap, thickness, radius : float
        Of a dash, between two, of their lines, and of the dots.
    """

    size: int
    path_length: int
    distractor_length: int
    distractors: int
    dash: float
    gap: float
    thickness: float
    radius: float

    @property
    def margin(self) -> float:
        """Least distance of the middle lines of two snakes: over a gap from a dot on one to the line of the other."""
        return 1.25 * self.gap + self.radius + self.thickness / 2

    @property
    def period(self) -> float:
        """From one gap's middle to the next."""
        return self.dash + self.gap

    @property
    def border(self) -> float:
        """Least distance of a middle line from the edge of the image: a dot is within, whole."""
        return self.radius + 1

    @property
    def room(self) -> float:
        """Side of the square that middle lines may use."""
        return self.size - 2 * self.border


def are_clear(pairs: Array, style: Style) -> NDArray[np.bool_]:
    """Which pairs of snakes, (n, 2, vertices, 2), keep the margin from themselves and from each other."""
    good = apart(pairs[:, 0], pairs[:, 1], style)
    good[good] = unfolded(pairs[good], style).all(1)
    return good


def apart(one: Array, other: Array, style: Style) -> NDArray[np.bool_]:
    """Whether polylines of shapes (..., vertices, 2), which broadcast, are nowhere nearer than the margin."""
    there, back = _squared(_points(one, style), other), _squared(_points(other, style), one)
    return np.asarray(np.minimum(there.min((-1, -2)), back.min((-1, -2))) >= style.margin**2)


def unfolded(snakes: Array, style: Style) -> NDArray[np.bool_]:
    """Whether snakes, (..., vertices, 2), come nowhere near to themselves, but for what is next along them."""
    points = _points(snakes, style)
    length = snakes.shape[-2] - 1
    place = np.linspace(0, length, points.shape[-2])[:, None]
    segment = np.arange(length)
    # What is as many steps away as this is further away than the margin, if the snake is smooth.
    skipped = math.ceil(style.margin / (0.9 * style.period))
    far = (place - segment - 1 > skipped) | (segment - place > skipped)
    return np.asarray(np.where(far, _squared(points, snakes), np.inf).min((-1, -2)) >= style.margin**2)


def _points(snakes: Array, style: Style) -> Array:
    """Vertices, and points between them: of two lines that cross, one has a point within the margin of the other."""
    pieces = math.ceil(style.period / (2 * style.margin))
    if pieces == 1:
        return snakes
    shares = np.arange(1, pieces + 1)[:, None] / pieces
    between = snakes[..., :-1, None, :] + shares * np.diff(snakes, axis=-2)[..., None, :]
    count = pieces * (snakes.shape[-2] - 1)
    return np.concatenate([snakes[..., :1, :], between.reshape(*snakes.shape[:-2], count, 2)], -2)


def _squared(points: Array, polyline: Array) -> Array:
    """Squared distances of points, (..., points, 2), from the segments of a polyline, (..., points, segments)."""
    starts, along = polyline[..., :-1, :], np.diff(polyline, axis=-2)
    y, x = (points[..., :, None, axis] - starts[..., None, :, axis] for axis in (0, 1))
    dy, dx = (along[..., None, :, axis] for axis in (0, 1))
    share = np.clip((y * dy + x * dx) / (dy * dy + dx * dx), 0, 1)
    return (y - share * dy) ** 2 + (x - share * dx) ** 2
