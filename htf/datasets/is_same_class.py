"""Is-Same-Class: do two images, far from each other on one canvas, show the same class?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from htf._checks import check_seed, natural, positive
from htf.datasets._arguments import is_number
from htf.datasets._cifar import Images, find_cifar10
from htf.datasets._random_streams import stream_of
from htf.datasets.images import NAMES, load
from htf.datasets.long_range import LongRangeData, check_sizes, made_or_cached
from htf.datasets.split import Split

_GENERATOR = 1
_SOURCES = (*NAMES, "cifar10")
_SIDES = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "cifar10": 32}
_PAPER_CANVAS = (224, 224)
# Of the source's train images: those that validation pairs are made from.
_HELD_OUT = 1 / 6


def is_same_class(
    source: str = "mnist",
    distance: int = 20,
    canvas: Sequence[int] | None = None,
    *,
    scale: float = 1.0,
    train: int = 5_000,
    validation: int = 1_000,
    test: int = 2_000,
    seed: int = 0,
    data_dir: str | Path | None = None,
    cache: str | Path | None = None,
) -> LongRangeData:
    """Pairs of images on a black canvas: label 1 if of the same class.

    Parameters
    ----------
    source : {"mnist", "fashion_mnist", "cifar10", "digits"}
        "digits" are those that come with scikit-learn, 8 × 8 pixels.
    distance : int
        Pixels between the two images, which are side by side in the middle of the canvas; 0 or more.
    canvas : (int, int), optional
        Height and width.  By default the papers' 224 × 224 for CIFAR-10 at full scale; otherwise two rows more than an
        image has, and four times as wide.
    scale : float
        1, ½, ⅓ …: images are made smaller by means over squares of pixels.
    train, validation, test : int
        Pairs in each split, half of each label.  The first pairs of a split are the same whatever its size is.
    seed : int
        0 or more.
    data_dir : str or Path, optional
        Where the source's files are; see `load`.  CIFAR-10 is read from ``cifar-10-binary.tar.gz``, or from arrays
        images, (n, 32, 32, 3) uint8, and labels in ``train_12k.npz`` and ``test_5k.npz``, there or in ``CIFAR10``
        below.
    cache : str or Path, optional
        A folder: the images are read from there, or made and written there.

    Returns
    -------
    LongRangeData
        Images of ``(channels, *canvas)``, 3 channels for CIFAR-10.  ``settings["areas"]`` are the places of the two
        images, [top, left, height, width] each.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, if the images do not fit the canvas at that distance (the message says which
        distance fits), if there are too few different pairs, or if a file is damaged.
    FileNotFoundError, ConnectionError
        As `load`.

    See Also
    --------
    htf.datasets.pathfinder, htf.datasets.far_parity : other long-range tasks.
    htf.regularizers.preset_areas : patches at the two images.

    Notes
    -----
    Test pairs are of the source's test images.  A sixth of its train images, of each class, is kept for validation
    pairs: no image is in two splits.  Among the pairs of a label every class comes equally often on either side, and
    no image is paired with itself.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.is_same_class("digits", distance=20, train=100, validation=20, test=20)
    >>> data.train.images.shape, data.settings["areas"]
    (torch.Size([100, 1, 10, 40]), [[1, 2, 8, 8], [1, 30, 8, 8]])
    """
    if source not in _SOURCES:
        raise ValueError(f"source is {source!r}; known are {', '.join(_SOURCES)}")
    factor = _factor(scale, _SIDES[source])
    height, width = _canvas(canvas, source, factor)
    areas = _areas(_SIDES[source] // factor, natural("distance", distance), height, width)
    sizes = check_sizes(train, validation, test)
    seed = check_seed(seed)
    files = find_cifar10(data_dir) if source == "cifar10" else None
    settings: dict[str, Any] = {
        "source": source,
        "distance": int(distance),
        "canvas": [height, width],
        "scale": 1 / factor,
        **sizes,
        "seed": seed,
        "areas": areas,
    }
    if files is not None:
        settings["files"] = files.identity

    def make() -> dict[str, Split]:
        (images, labels), test_part = files.read() if files is not None else _grey(source, data_dir)
        held = _held_out(labels, stream_of(seed, len(sizes)))
        parts = ((images[~held], labels[~held]), (images[held], labels[held]), test_part)
        return {
            name: _split(count, name, part, settings, stream_of(seed, k))
            for k, ((name, count), part) in enumerate(zip(sizes.items(), parts, strict=True))
        }

    return made_or_cached("is_same_class", settings, make, cache, generator=_GENERATOR)


# -- arguments ------------------------------------------------------------------------------------------


def _factor(scale: float, side: int) -> int:
    """How many pixels become one, along each side."""
    if not is_number(scale):
        raise TypeError(f"scale is {scale!r}; expected a number")
    factor = round(1 / scale) if 0 < scale <= 1 else 0
    if not factor or abs(scale * factor - 1) > 1e-6:
        raise ValueError(f"scale is {scale}; expected 1, or 1 divided by an integer")
    if side % factor:
        raise ValueError(f"scale is {scale}; images of {side} pixels cannot be divided into squares of {factor}")
    return factor


def _canvas(canvas: Sequence[int] | None, source: str, factor: int) -> tuple[int, int]:
    side = _SIDES[source] // factor
    if canvas is None:
        return _PAPER_CANVAS if source == "cifar10" and factor == 1 else (side + 2, 4 * (side + 2))
    if not isinstance(canvas, Iterable):
        raise TypeError(f"canvas is {canvas!r}; expected height and width")
    if len(canvas) != 2:
        raise ValueError(f"canvas is {tuple(canvas)}; expected height and width")
    height, width = (positive(f"canvas[{k}]", length) for k, length in enumerate(canvas))
    if height < side or width < 2 * side:
        raise ValueError(f"canvas is {(height, width)}; two images of {side} pixels need {(side, 2 * side)} at least")
    return height, width


def _areas(side: int, distance: int, height: int, width: int) -> list[list[int]]:
    left = (width - 2 * side - distance) // 2
    if left < 0:
        raise ValueError(
            f"distance is {distance}; two images of {side} pixels on a canvas of width {width} can be "
            f"{width - 2 * side} pixels apart at most"
        )
    top = (height - side) // 2
    return [[top, column, side, side] for column in (left, left + side + distance)]


# -- pairs ----------------------------------------------------------------------------------------------


def _grey(source: str, data_dir: str | Path | None) -> tuple[Images, Images]:
    data = load(source, data_dir)
    scaled = [
        np.rint(images.numpy() * (255 / data.maximum)).astype(np.uint8)[:, None]
        for images in (data.train_images, data.test_images)
    ]
    train, test = data.train_labels.numpy().astype(np.uint8), data.test_labels.numpy().astype(np.uint8)
    return (scaled[0], train), (scaled[1], test)


def _held_out(labels: NDArray[np.uint8], rng: Generator) -> NDArray[np.bool_]:
    """A part of each class."""
    held = np.zeros(len(labels), dtype=bool)
    order = rng.permutation(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held[members[: round(_HELD_OUT * len(members))]] = True
    return held


def _split(count: int, name: str, part: Images, settings: dict[str, Any], rng: Generator) -> Split:
    images, labels = part
    pairs, same = _pairs(count, name, labels, rng)
    channels, side = images.shape[1], settings["areas"][0][2]
    factor = images.shape[2] // side
    canvas = np.zeros((count, channels, *settings["canvas"]), dtype=np.uint8)
    for which, (top, left, _, _) in enumerate(settings["areas"]):
        blocks = images[pairs[:, which]].reshape(count, channels, side, factor, side, factor)
        canvas[:, :, top : top + side, left : left + side] = np.rint(blocks.mean((3, 5)))
    return Split(torch.from_numpy(canvas), torch.from_numpy(same))


def _pairs(
    count: int, name: str, labels: NDArray[np.uint8], rng: Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images of each pair, (count, 2), and whether they are of the same class."""
    by_class = np.argsort(labels, kind="stable")
    classes, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    each = len(classes)
    # Every class has to make pairs of both labels, and those of the same class run out first.
    possible = 2 * int((sizes * (sizes - 1) // 2).sum()) if each > 1 and sizes.min() > 1 else 0
    if count > possible:
        raise ValueError(
            f"{name} is {count}; {len(labels)} images of {each} classes make {possible} different pairs at most, "
            "half of them of the same class"
        )
    if not count:
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64)
    # A round has every class once on either side of both labels; rounds are rows, drawn one after the other, so that
    # pairs do not depend on how many there are.
    rounds = -(-count // (2 * each))
    uniform = rng.random((rounds, 2 * each + 1 + 4 * each + each))
    left = uniform[:, : 2 * each].reshape(rounds, 2, each).argsort(-1)
    shift = 1 + (uniform[:, 2 * each] * (each - 1)).astype(np.int64)
    # Label 0: another class than on the left, as far behind in a circle for all.
    right = np.stack([(left[:, 0] + shift[:, None]) % each, left[:, 1]], 1)
    picks = uniform[:, 2 * each + 1 : -each].reshape(rounds, 2, each, 2)
    first = (picks[..., 0] * sizes[left]).astype(np.int64)
    # Label 1: not the same image again.
    others = sizes[right] - (left == right)
    second = (picks[..., 1] * others).astype(np.int64)
    second += (left == right) & (second >= first)
    numbers = by_class[np.stack([starts[left] + first, starts[right] + second], -1)]
    # A 0 and a 1 in every two, in either order: cut anywhere, labels are balanced.
    same = (uniform[:, -each:, None] < 0.5) ^ np.array([False, True])
    numbers = np.take_along_axis(numbers.transpose(0, 2, 1, 3), same.astype(np.int64)[..., None], 2)
    return numbers.reshape(-1, 2)[:count], same.astype(np.int64).reshape(-1)[:count]
