"""Pathfinder: are two dots on the ends of the same dashed curve?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htf._checks import check_seed, natural, positive
from htf.datasets._arguments import is_number
from htf.datasets._pathfinder_curves import Scenes, draw_scenes, smallest_size
from htf.datasets._pathfinder_drawing import draw_images
from htf.datasets._pathfinder_spacing import Style
from htf.datasets._random_streams import stream_of
from htf.datasets.long_range import LongRangeData, check_sizes, made_or_cached
from htf.datasets.split import Split

# Scenes are drawn in blocks, each from a stream of its own, so that an image depends on no count.
_BLOCK = 256
_GENERATOR = 2
_ANGLES = ("free", "alike")
_LENGTHS, _SIZES = (2, 16), (32, 300)
# The papers' images: 30 dashes of distractors in 300 × 300, a dash and a gap making 11 pixels.
_PAPER_DISTRACTING, _PAPER_SIZE, _PAPER_PERIOD = 30, 300, 11


def pathfinder(
    path_length: int = 3,
    size: int = 48,
    *,
    train: int = 5_000,
    validation: int = 1_000,
    test: int = 2_000,
    dash: float | None = None,
    gap: float | None = None,
    distractors: int | None = None,
    angles: str = "free",
    seed: int = 0,
    cache: str | Path | None = None,
) -> LongRangeData:
    """Images of two dashed curves and shorter distractors, with dots on two ends: label 1 if of the same curve.

    Parameters
    ----------
    path_length : int
        Dashes of each of the two curves, 2 to 16; the papers' are 3, 5, 7 and 9.  Distractors have a third of it.
    size : int
        Height and width in pixels, 32 to 300.
    train, validation, test : int
        Images in each split, half of each label.  The first images of a split are the same whatever its size is.
    dash, gap : float, optional
        Lengths in pixels of a dash and of the space between two.  By default those of the papers for 150 pixels and
        more (size / 60 and size / 50), and 3 and 2 for smaller images, where theirs could not be seen.
    distractors : int, optional
        Distractors at most; one that finds no place is left out.  By default as dense as the papers', measured in
        lengths of dash and gap.
    angles : {"free", "alike"}
        Whether the dashes at the two dots point as it happens, which tells much of the label (see the notes), or in the
        same ways for both labels.  The latter takes at least 3 dashes, and about 10 seconds for 256 images of these,
        below one for more dashes.
    seed : int
        0 or more.
    cache : str or Path, optional
        A folder: the images are read from there, or made and written there.

    Returns
    -------
    LongRangeData
        Images of (1, size, size).

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, if the curves do not fit the image (the message says which size they fit) or
        leave no room for angles that are alike, or if the file in the cache is damaged.

    See Also
    --------
    htf.datasets.is_same_class, htf.datasets.far_parity : other long-range tasks.
    htf.datasets.crossed_dots : the same scenes with their dots exchanged.
    htf.regularizers.random_patches : patches for a regularizer that makes a CNN solve it.

    Notes
    -----
    Where the dots are says nothing about the label, nor does their distance: scenes are drawn in twos, one of each
    label, with dots at the same places, and each is then mirrored and turned by quarters at random.  In both, the end
    of the other curve is as far from the first dot as the second dot is.  What the marked dashes point at does tell:
    boosted trees that are given the angles of both to the line between the dots, and its length, are right for 99.9% of
    the images of 3 dashes (48 pixels), 98% of 5, 94% of 7 (64 pixels) and 84% of 9, without following a curve.  It
    takes both ends, far apart: place and angle of one say the label of 53% at most.

    With ``angles="alike"`` the two scenes of every two have the same angles and distance exactly, so that no classifier
    on these is right for more than half.  It keeps those curves whose dots can also stand on two curves that avoid each
    other, which turn more than others: of 3 dashes one of some hundred, of 9 one of three.

    Curves turn by at most 50° at a gap, 13° at the median, and keep clear of themselves, of each other and of
    distractors by more than a gap.

    Every block of 256 images is drawn from a stream of random numbers of its own, and every scene is used once.

    References
    ----------
    .. [1] D. Linsley, J. Kim, V. Veerabadran, C. Windolf, T. Serre, "Learning long-range spatial dependencies with
       horizontal gated recurrent units", NeurIPS 2018.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.pathfinder(path_length=3, size=48, train=20, validation=0, test=10)
    >>> data.train.images.shape, int(data.train.labels.sum())
    (torch.Size([20, 1, 48, 48]), 10)
    """
    style = style_of(path_length, size, dash, gap, distractors)
    sizes = check_sizes(train, validation, test)
    seed = check_seed(seed)
    if angles not in _ANGLES:
        raise ValueError(f"angles is {angles!r}; expected {' or '.join(map(repr, _ANGLES))}")
    alike = angles == "alike"
    if alike and style.path_length < 3:
        raise ValueError(
            f"path_length is {path_length} and angles 'alike'; expected 3 dashes or more, which turn twice"
        )
    settings: dict[str, Any] = {**asdict(style), **sizes, "seed": seed, **({"angles": angles} if alike else {})}

    def make() -> dict[str, Split]:
        return {name: _split(count, style, seed, k, alike) for k, (name, count) in enumerate(sizes.items())}

    return made_or_cached("pathfinder", settings, make, cache, generator=_GENERATOR)


def style_of(path_length: int, size: int, dash: float | None, gap: float | None, distractors: int | None) -> Style:
    """The scenes that the arguments ask for, after checks."""
    length = _between("path_length", path_length, *_LENGTHS)
    size = _between("size", size, *_SIZES)
    fine = size >= 150
    dash = _pixels("dash", dash, size / 60 if fine else 3.0)
    gap = _pixels("gap", gap, size / 50 if fine else 2.0)
    short = max(1, round(length / 3))
    if distractors is None:
        area = (size / _PAPER_SIZE * _PAPER_PERIOD / (dash + gap)) ** 2
        count = round(_PAPER_DISTRACTING * area / short)
    else:
        count = natural("distractors", distractors)
    style = _marked(Style(size, length, short, count, dash, gap, 1.0, 1.0), size)
    curves = f"curves of {length} dashes of {dash:g} with gaps of {gap:g} pixels"
    if (smallest := smallest_size(style)) is None:
        raise ValueError(f"two {curves} cannot keep {style.margin:g} pixels apart; expected longer dashes or more")
    if smallest > size:
        # Marks are wider in larger images, and so the size may have to grow a little more.
        while (again := smallest_size(_marked(style, smallest))) is not None and again > smallest:
            smallest = again
        raise ValueError(f"size is {size}; two {curves} need {smallest}")
    return style


def _marked(style: Style, size: int) -> Style:
    """The same scenes in another image, its lines and dots as wide as the papers', but no less than can be seen."""
    return replace(style, size=size, thickness=max(1.0, size / 150), radius=max(1.5, size / 100))


def _between(name: str, value: int, low: int, high: int) -> int:
    number = positive(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; expected {low} to {high}")
    return number


def _pixels(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not is_number(value):
        raise TypeError(f"{name} is {value!r}; expected a number of pixels")
    if not 1 <= value < math.inf:
        raise ValueError(f"{name} is {value}; expected at least 1 pixel")
    return float(value)


def _split(count: int, style: Style, seed: int, stream: int, alike: bool) -> Split:
    images = np.empty((count, style.size, style.size), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for part, scenes in blocks_of(count, style, seed, stream, alike):
        labels[part] = scenes.labels
        images[part] = draw_images(scenes, style)
    return Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels))


def blocks_of(count: int, style: Style, seed: int, stream: int, alike: bool = False) -> Iterator[tuple[slice, Scenes]]:
    """The first scenes of a split, and their numbers."""
    for block, start in enumerate(range(0, count, _BLOCK)):
        part = slice(start, min(start + _BLOCK, count))
        yield part, scenes_of(style, seed, stream, block, alike)[: part.stop - part.start]


def scenes_of(style: Style, seed: int, stream: int, block: int, alike: bool = False) -> Scenes:
    """The scenes of a block of a split, all of them."""
    return draw_scenes(_BLOCK, style, stream_of(seed, stream, block), alike)
