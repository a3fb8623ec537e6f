"""Geometry of Pathfinder: dashed curves ("snakes") that keep clear of each other, many scenes at once.

A snake is the polyline on which its dashes lie, (vertices, 2) as (y, x) in pixels: its two tips, and between them the
middles of its gaps, where it turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from htf.datasets._pathfinder_spacing import Array, Style, apart, are_clear, unfolded
from htf.datasets._random_streams import labels_by_twos

# A turn of t has the density cos²(1.8 t), as in the papers' generator: 50 degrees at most, 13 at the median.
_CONTINUITY = 1.8
_SHARPEST = math.pi / 2 / _CONTINUITY
# Entries of the largest array of distances that is worked on at once.
_LARGEST = 2**21
# Dots for which twice as many tries in a row bring no scene are given up, for both labels.
_TRIES = 2**10
# Where angles are drawn alike many dots have no second scene: more are tried, up to so many times, and given up soon.
_TRIES_ALIKE, _MORE_ALIKE = 2**4, 64
# Given up where fewer than one of ten thousand dots has one, seen on so many.
_LEAST_ALIKE, _SEEN_ALIKE = 1e-4, 2**16
# Curves that one of a wanted distance between its tips is taken from, and how many are near enough.
_POOL, _NEAREST = 2**13, 16


@dataclass(frozen=True)
class Scenes:
    """Many scenes.

    Attributes
    ----------
    first, second : ndarray
        (n, path_length + 1, 2).  The last vertices of both are equally far from the first vertex of `first`.
    labels : ndarray
        (n,) int64: 1 if the dots are on both tips of `first`, 0 if they are on its first and the last of `second`.
    distractors : ndarray
        (n, k, distractor_length + 1, 2), NaN for those that found no place.
    """

    first: Array
    second: Array
    labels: NDArray[np.int64]
    distractors: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice) -> Scenes:
        return Scenes(self.first[index], self.second[index], self.labels[index], self.distractors[index])

    @property
    def dots(self) -> Array:
        """Centres of the two dots, (n, 2, 2)."""
        ends = np.where(self.labels[:, None] == 1, self.first[:, -1], self.second[:, -1])
        return np.stack([self.first[:, 0], ends], 1)


def draw_scenes(count: int, style: Style, rng: Generator, alike: bool = False) -> Scenes:
    """An even number of scenes, one of each label in every two.

    The two have their dots at the same places, up to one of the eight symmetries of the square for each: where dots
    are tells nothing of the label.  If `alike`, their dashes at the dots point the same ways too.

    Raises
    ------
    ValueError
        If `alike` and there are next to no such scenes.
    """
    pairs = np.empty((0, 2, 2, style.path_length + 1, 2))
    more, seen = 1, 0
    while len(pairs) < count // 2:
        marked = _placed(more * (count // 2 - len(pairs)), style, rng)
        more, seen = min(2 * more, _MORE_ALIKE) if alike else 1, seen + len(marked)
        if alike and seen > _SEEN_ALIKE and len(pairs) < _LEAST_ALIKE * seen:
            curves = f"{style.path_length} dashes of {style.dash:g} with gaps of {style.gap:g} pixels in {style.size}"
            raise ValueError(
                f"angles is 'alike'; two curves of {curves} × {style.size} leave no room for the same angles on one "
                "curve and on two: expected more dashes, or a larger image"
            )
        negative, found = _completed(marked, style, rng, label=0, alike=alike)
        marked, negative = marked[found], negative[found]
        positive, found = _completed(marked, style, rng, label=1)
        pairs = np.concatenate([pairs, np.stack([negative[found], positive[found]], 1)])[: count // 2]
    labels = labels_by_twos(count, rng)
    snakes = _turned(pairs[np.arange(count) // 2, labels], style, rng)
    return Scenes(snakes[:, 0], snakes[:, 1], labels, _distractors(snakes, style, rng))


def smallest_size(style: Style) -> int | None:
    """The smallest image in which one of a hundred pairs of snakes fits that were drawn without an image in mind.

    None if less than one of a hundred keep clear of each other.
    """
    rng = np.random.default_rng(0)
    pairs = _candidates(_snakes((2**12,), style.path_length, style, rng), style, rng, label=1)
    clear = pairs[are_clear(pairs, style)]
    if 100 * len(clear) < len(pairs):
        return None
    return math.ceil(float(np.quantile(np.ptp(clear, axis=(1, 2)).max(1), 0.01)) + 2 * style.border)


def dashes(snakes: Array, style: Style) -> Array:
    """The dashes on snakes of shape (..., vertices, 2), as (..., vertices - 1, 2, 2): start and end of each."""
    starts, ends = snakes[..., :-1, :].copy(), snakes[..., 1:, :].copy()
    along = ends - starts
    along *= style.gap / 2 / np.linalg.norm(along, axis=-1, keepdims=True)
    starts[..., 1:, :] += along[..., 1:, :]
    ends[..., :-1, :] -= along[..., :-1, :]
    return np.stack([starts, ends], -2)


# -- drawing at random ----------------------------------------------------------------------------------


def _placed(count: int, style: Style, rng: Generator) -> Array:
    """Single snakes, (count, vertices, 2), inside the image."""
    found = np.empty((0, style.path_length + 1, 2))
    while len(found) < count:
        snakes = _snakes((2 * count,), style.path_length, style, rng)
        snakes = snakes[unfolded(snakes, style)]
        found = np.concatenate([found, snakes[np.ptp(snakes, axis=1).max(1) <= style.room]])
    found = found[:count]
    low, high = found.min(1), found.max(1)
    return found + (style.border + rng.random((count, 2)) * (style.room - (high - low)) - low)[:, None]


def _completed(
    marked: Array, style: Style, rng: Generator, label: int, alike: bool = False
) -> tuple[Array, NDArray[np.int64]]:
    """Scenes with dots at the tips of given snakes, (n, 2, vertices, 2), and the numbers of those that were found."""
    found = np.empty((len(marked), 2, *marked.shape[1:]))
    missing = np.arange(len(marked))
    tries, most = 4, _TRIES_ALIKE if alike else _TRIES
    while len(missing) and tries <= most:
        for part in np.array_split(missing, math.ceil(len(missing) * tries * marked.shape[1] ** 2 / _LARGEST)):
            numbers = np.repeat(part, tries)
            candidates = _candidates_alike if alike else _candidates
            pairs = candidates(marked[numbers], style, rng, label)
            good = np.asarray(np.abs(pairs - style.size / 2).max((1, 2, 3)) <= style.room / 2)
            good[good] = are_clear(pairs[good], style)
            # Of several good ones for the same dots any will do.
            found[numbers[good]] = pairs[good]
            missing = np.setdiff1d(missing, numbers[good])
        tries *= 2
    return found, np.setdiff1d(np.arange(len(marked)), missing)


def _candidates(marked: Array, style: Style, rng: Generator, label: int) -> Array:
    """Pairs of snakes, (n, 2, vertices, 2), for dots at the tips of given ones, perhaps not inside and not clear."""
    first, second = marked, _snakes((len(marked),), style.path_length, style, rng)
    turned = _rotated(marked, rng.random(len(marked)) * 2 * math.pi)
    # In either case the tip that has no dot is as far from the first dot as the one that has.
    if label == 1:
        end = turned[:, -1]
    else:
        first, end = turned, marked[:, -1]
    return np.stack([first, second + (end - second[:, -1])[:, None]], 1)


def _candidates_alike(marked: Array, style: Style, rng: Generator, label: int) -> Array:
    """Pairs for dots on two snakes whose dashes there point as those of one given snake do, (n, 2, vertices, 2).

    The first snake begins as the given one, with its tips about as far apart, the second ends as it.
    """
    assert label == 0
    count, length = len(marked), style.path_length
    pool = _snakes((_POOL,), length, style, rng)
    tips = np.linalg.norm(pool[:, -1], axis=-1)
    pool, tips = pool[np.argsort(tips)], np.sort(tips)
    nearest = np.searchsorted(tips, np.linalg.norm(marked[:, -1] - marked[:, 0], axis=-1))
    nearest += rng.integers(-_NEAREST // 2, _NEAREST // 2, count)
    first = _aligned(pool[np.clip(nearest, 0, _POOL - 1)], marked)
    # Backwards, a curve is one that begins where it ended.
    backwards, ending = _snakes((count,), length, style, rng), marked[:, ::-1]
    return np.stack([first, _aligned(backwards, ending)[:, ::-1]], 1)


def _aligned(snakes: Array, others: Array) -> Array:
    """Snakes that begin at the origin, moved and turned so that they begin as others do."""
    (y, x), (to_y, to_x) = (np.moveaxis(each[:, 1] - each[:, 0], -1, 0) for each in (snakes, others))
    return _rotated(snakes, np.arctan2(to_y, to_x) - np.arctan2(y, x)) + others[:, :1]


def _rotated(snakes: Array, angles: Array) -> Array:
    """Snakes turned about their first tips."""
    (y, x), (sin, cos) = np.moveaxis(snakes - snakes[:, :1], -1, 0), _directions(angles).T[..., None]
    return snakes[:, :1] + np.stack([cos * y + sin * x, cos * x - sin * y], -1)


def _turned(snakes: Array, style: Style, rng: Generator) -> Array:
    """Each scene mirrored and turned by quarters at random."""
    turns = rng.integers(0, 2, (3, len(snakes), 1, 1, 1)).astype(bool)
    snakes = np.where(turns[0], snakes[..., ::-1], snakes)
    return np.where(np.concatenate([turns[1], turns[2]], -1), style.size - snakes, snakes)


def _snakes(shape: tuple[int, ...], length: int, style: Style, rng: Generator) -> Array:
    """Smooth dashed curves that begin at the origin, (*shape, length + 1, 2)."""
    heading = rng.random((*shape, 1)) * 2 * math.pi
    turns = np.interp(rng.random((*shape, length - 1)), _CUMULATED, _TURNS)
    headings = np.concatenate([heading, turns], -1).cumsum(-1)
    steps = np.full(length, style.period)
    steps[0] -= style.gap / 2
    steps[-1] -= style.gap / 2
    vertices = np.zeros((*shape, length + 1, 2))
    (steps[:, None] * _directions(headings)).cumsum(-2, out=vertices[..., 1:, :])
    return vertices


def _directions(angles: Array) -> Array:
    return np.stack([np.sin(angles), np.cos(angles)], -1)


_TURNS = np.linspace(-_SHARPEST, _SHARPEST, 1025)
# The integral of cos²(1.8 t), from 0 to 1.
_CUMULATED = 0.5 + _TURNS / (2 * _SHARPEST) + np.sin(2 * _CONTINUITY * _TURNS) / (2 * math.pi)


def _distractors(pairs: Array, style: Style, rng: Generator) -> Array:
    """Short snakes, placed one after the other where they are clear of all that is there."""
    count, wanted, length = len(pairs), style.distractors, style.distractor_length
    found = np.full((count, wanted, length + 1, 2), np.nan)
    if not wanted:
        return found
    # Each is tried once, and what does not fit is thrown away; in a usual scene three of four fit.
    tries = 2 * wanted + 6
    snakes = _snakes((count, tries), length, style, rng)
    low, high = snakes.min(2), snakes.max(2)
    snakes += (style.border + rng.random((count, tries, 2)) * (style.room - (high - low)) - low)[:, :, None]
    earlier, later = np.triu_indices(tries, 1)
    cells = (2 * tries * style.path_length + len(earlier) * length) * (length + 1) * 2
    chunk = max(1, _LARGEST // cells)
    for start in range(0, count, chunk):
        part = snakes[start : start + chunk]
        clear = apart(part[:, :, None], pairs[start : start + chunk, None], style)
        blocked = ~(clear[..., 0] & clear[..., 1])
        clash = np.zeros((len(part), tries, tries), dtype=bool)
        clash[:, earlier, later] = ~apart(part[:, earlier], part[:, later], style)
        placed = np.zeros(len(part), dtype=np.int64)
        for k in range(tries):
            (taken,) = np.nonzero(~blocked[:, k] & (placed < wanted))
            found[start + taken, placed[taken]] = part[taken, k]
            placed[taken] += 1
            blocked[taken] |= clash[taken, k]
    return found
