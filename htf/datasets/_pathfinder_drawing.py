"""Dashes and dots drawn with smooth edges, one stamp per mark in many images at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from htf.datasets._pathfinder_curves import Scenes, dashes
from htf.datasets._pathfinder_spacing import Array, Style

# Values of the largest set of images that is drawn at once.
_LARGEST = 2**24


def draw_images(scenes: Scenes, style: Style) -> NDArray[np.uint8]:
    """Images of scenes with their dots, (n, size, size), white on black."""
    images = np.empty((len(scenes), style.size, style.size), dtype=np.uint8)
    chunk = max(1, _LARGEST // style.size**2)
    for start in range(0, len(scenes), chunk):
        part = slice(start, start + chunk)
        images[part] = _draw(scenes[part], style)
    return images


def _draw(scenes: Scenes, style: Style) -> NDArray[np.uint8]:
    # A stamp may reach over the edge of the image.
    pad = math.ceil(max(style.dash + style.thickness, 2 * style.radius)) + 3
    canvas = np.zeros((len(scenes), style.size + 2 * pad, style.size + 2 * pad), dtype=np.float32)
    for snakes in (scenes.first[:, None], scenes.second[:, None], scenes.distractors):
        ends = dashes(snakes, style).reshape(len(scenes), -1, 2, 2) + pad
        for k in range(ends.shape[1]):
            _dash(canvas, ends[:, k], style)
    for centre in (scenes.dots + pad).swapaxes(0, 1):
        _dot(canvas, centre, style.radius)
    return np.rint(255 * canvas[:, pad:-pad, pad:-pad]).astype(np.uint8)


def _dash(canvas: NDArray[np.float32], ends: Array, style: Style) -> None:
    """Draw one dash of square ends on each image, none where it is NaN."""
    (drawn,) = np.nonzero(~np.isnan(ends[:, 0, 0]))
    middle = ends[drawn].mean(1)
    direction = (ends[drawn, 1] - ends[drawn, 0]) / style.dash
    y, x, rows, columns = _stamp(middle, math.hypot(style.dash, style.thickness) / 2 + 1)
    dy, dx = (direction[:, axis, None, None] for axis in (0, 1))
    cover = _covered(y * dy + x * dx, style.dash) * _covered(x * dy - y * dx, style.thickness)
    _lay(canvas, drawn, rows, columns, cover)


def _dot(canvas: NDArray[np.float32], centre: Array, radius: float) -> None:
    y, x, rows, columns = _stamp(centre, radius + 1)
    _lay(canvas, np.arange(len(canvas)), rows, columns, np.clip(radius + 0.5 - np.hypot(y, x), 0, 1))


def _covered(offset: Array, width: float) -> Array:
    """The share of pixels at an offset from the middle of a band that the band covers."""
    return np.clip((width + 1) / 2 - np.abs(offset), 0, min(1, width))


def _stamp(middle: Array, reach: float) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """Offsets from points, and numbers of the rows and columns around them; pixel (0, 0) has its centre at (½, ½)."""
    window = np.arange(2 * math.ceil(reach) + 1)
    first = np.floor(middle - reach).astype(np.int64)
    rows, columns = first[:, 0, None, None] + window[:, None], first[:, 1, None, None] + window
    return rows + 0.5 - middle[:, 0, None, None], columns + 0.5 - middle[:, 1, None, None], rows, columns


def _lay(
    canvas: NDArray[np.float32],
    images: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    cover: Array,
) -> None:
    at = (images[:, None, None], rows, columns)
    canvas[at] = np.maximum(canvas[at], cover)
