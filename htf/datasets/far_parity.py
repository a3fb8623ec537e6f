"""Far-apart parity: a discrete task of which the separation rank is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from htf._checks import check_seed, positive
from htf.datasets._random_streams import labels_by_twos, stream_of
from htf.datasets.long_range import LongRangeData, check_sizes, made_or_cached
from htf.datasets.split import Split

_GENERATOR = 1
# Images are drawn in blocks, each from a stream of its own, so that an image depends on no count.
_BLOCK = 512
# Of eight kinds of images, told apart by a sum of random multiples of their symbols, two are kept from the train split.
_PRIME, _KINDS = 2_147_483_629, 8
_KINDS_OF = ((0, 1, 2, 3, 4, 5), (6,), (7,))
_FEWEST = 4096


def far_parity(
    shape: Sequence[int] = (8, 8),
    distance: int = 4,
    *,
    levels: int = 4,
    pairs: int = 1,
    train: int = 5_000,
    validation: int = 1_000,
    test: int = 2_000,
    seed: int = 0,
    cache: str | Path | None = None,
) -> LongRangeData:
    """Images of random symbols: label 1 if an odd number of pairs of far pixels hold equal symbols.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    distance : int
        Columns from the one pixel of a pair to the other, at least 1.
    levels : int
        Symbols, 2 to 256.
    pairs : int
        In rows of their own, at most `shape[0]`.
    train, validation, test : int
        Images in each split, half of each label.  The first images of a split are the same whatever its size is.
    seed : int
        0 or more.
    cache : str or Path, optional
        A folder: the images are read from there, or made and written there.

    Returns
    -------
    LongRangeData
        Images of ``(1, *shape)``, symbols 0 to ``levels - 1``, which a split divides by ``levels - 1``.
        ``settings["positions"]`` are the pixels of each pair, ((row, column), (row, column)), and
        ``settings["areas"]`` the columns that hold them, [top, left, height, width] each.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, if pairs do not fit the shape, if there are too few different images, or if
        the file in the cache is damaged.

    See Also
    --------
    htf.datasets.pathfinder, htf.datasets.is_same_class : tasks of images that look like something.
    htf.datasets.LongRangeData : what it returns.

    Notes
    -----
    Each pair has its pixels on both sides of the middle of the columns.  As a tensor of order height × width and
    dimension `levels`, the label, be it 0 and 1 or -1 and 1, has the separation rank ``levels**pairs`` for three
    levels or more, if one side has one pixel of every pair, whatever else it has.  For the matrix of signs of one pair
    is all ones less twice the identity, with the eigenvalues ``levels - 2`` and -2, and that of several pairs is the
    Kronecker product; pairs that are whole on one side do not count.  Of two levels the signs have rank 1, being a
    plain parity of bits, and 0 and 1 have rank 2.

    No two splits share an image.

    References
    ----------
    .. [1] N. Cohen, A. Shashua, "Inductive bias of deep convolutional networks through pooling geometry", ICLR 2017.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.far_parity((8, 8), distance=4, train=100, validation=20, test=20)
    >>> (one, other), = data.settings["positions"]
    >>> image, label = data.train.images[0, 0], int(data.train.labels[0])
    >>> bool(image[*one] == image[*other]) == bool(label)
    True
    """
    height, width = _shape(shape)
    levels = positive("levels", levels)
    if not 2 <= levels <= 256:
        raise ValueError(f"levels is {levels}; expected 2 to 256")
    positions = _positions(height, width, positive("distance", distance), positive("pairs", pairs))
    sizes = check_sizes(train, validation, test)
    _check_enough(sizes, levels ** (height * width))
    seed = check_seed(seed)
    rows = [first[0] for first, _ in positions]
    settings: dict[str, Any] = {
        "shape": [height, width],
        "distance": int(distance),
        "levels": levels,
        "pairs": len(positions),
        **sizes,
        "seed": seed,
        "positions": positions,
        "areas": [[rows[0], position[1], rows[-1] - rows[0] + 1, 1] for position in positions[0]],
    }

    def make() -> dict[str, Split]:
        return {name: _split(count, settings, k) for k, (name, count) in enumerate(sizes.items())}

    return made_or_cached("far_parity", settings, make, cache, generator=_GENERATOR)


def labels_of(images: NDArray[np.uint8], positions: list[list[list[int]]]) -> NDArray[np.int64]:
    """Labels of images, (n, height, width)."""
    (first_rows, first_columns), (second_rows, second_columns) = np.array(positions).transpose(1, 2, 0)
    equal = images[:, first_rows, first_columns] == images[:, second_rows, second_columns]
    return equal.sum(1) % 2


def _shape(shape: Sequence[int]) -> tuple[int, int]:
    if not isinstance(shape, Iterable):
        raise TypeError(f"shape is {shape!r}; expected height and width")
    if len(shape) != 2:
        raise ValueError(f"shape is {tuple(shape)}; expected height and width")
    height, width = (positive(f"shape[{k}]", length) for k, length in enumerate(shape))
    if width < 2:
        raise ValueError(f"shape is {(height, width)}; expected a width of 2 at least")
    return height, width


def _positions(height: int, width: int, distance: int, pairs: int) -> list[list[list[int]]]:
    """Both pixels of each pair: in the middle of the width, and spread over the height."""
    if distance >= width:
        raise ValueError(f"distance is {distance}; in {width} columns it can be {width - 1} at most")
    if pairs > height:
        raise ValueError(f"pairs is {pairs}; expected at most one in each of the {height} rows")
    left = (width - 1 - distance) // 2
    rows = [(2 * pair + 1) * height // (2 * pairs) for pair in range(pairs)]
    return [[[row, left], [row, left + distance]] for row in rows]


def _check_enough(sizes: dict[str, int], total: int) -> None:
    if total < _FEWEST:
        raise ValueError(f"shape and levels make {total} different images; expected {_FEWEST} at least")
    for (name, size), kinds in zip(sizes.items(), _KINDS_OF, strict=True):
        # Half of a split's share: the rest of its kind would be drawn over and over.
        if size > (most := total * len(kinds) // (2 * _KINDS)):
            raise ValueError(f"{name} is {size}; of {total} different images expected {most} at most")


def _split(count: int, settings: dict[str, Any], part: int) -> Split:
    height, width = settings["shape"]
    blocks = [_block(settings, part, block) for block in range(-(-count // _BLOCK))]
    images = np.concatenate([images for images, _ in blocks] or [np.empty((0, height, width), dtype=np.uint8)])
    labels = np.concatenate([labels for _, labels in blocks] or [np.empty(0, dtype=np.int64)])
    return Split(
        torch.from_numpy(images[:count, None]), torch.from_numpy(labels[:count]), maximum=settings["levels"] - 1
    )


def _block(settings: dict[str, Any], part: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = stream_of(settings["seed"], part, block)
    by_label = [np.empty((0, *settings["shape"]), dtype=np.uint8)] * 2
    while min(len(images) for images in by_label) < _BLOCK // 2:
        images = rng.integers(0, settings["levels"], (_BLOCK, *settings["shape"]), dtype=np.uint8)
        images = images[np.isin(_kinds(images, settings["seed"]), _KINDS_OF[part])]
        labels = labels_of(images, settings["positions"])
        # Of the label that comes more often, no more than is used.
        by_label = [np.concatenate([by_label[k], images[labels == k]])[: _BLOCK // 2] for k in (0, 1)]
    labels = labels_by_twos(_BLOCK, rng)
    halves = np.stack(by_label)
    return halves[labels, np.arange(_BLOCK) // 2], labels


def _kinds(images: NDArray[np.uint8], seed: int) -> NDArray[np.int64]:
    """A number from 0 to 7 for each image, the same for the same image."""
    keys = stream_of(seed, len(_KINDS_OF)).integers(1, _PRIME, images[0].size)
    # Sums of products below 2³⁹ stay exact up to 2²⁴ pixels.
    return (images.reshape(len(images), -1) * keys).sum(1) % _PRIME % _KINDS
