"""Randomized twins of a data set: the same sizes and class proportions, without the structure.

After Zhang, Bengio, Hardt, Recht & Vinyals, "Understanding deep learning requires rethinking generalization" (2017),
section 2.  Each twin is a function of the data and a seed, and keeps train and test apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from htf._random import place
from htf.datasets.images import ImageData


@dataclass(frozen=True)
class Twin:
    """A randomization of a data set.

    Attributes
    ----------
    name : str
    changes_images : bool
        Whether images depend on the seed; if not, fits to several twins share their inputs.
    transform : callable
        From data and a generator to data.

    See Also
    --------
    htf.datasets.TWINS : the twins there are, by name.
    htf.datasets.corrupted_labels : part of the labels replaced.
    htf.probes.rank_fit : ranks that fit data and twins.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.load("digits")
    >>> twin = htf.datasets.TWINS["random_labels"](data, seed=0)
    >>> bool((twin.train_images == data.train_images).all())
    True
    >>> round(float((twin.train_labels == data.train_labels).float().mean()), 1)  # one in ten by chance
    0.1
    """

    name: str
    changes_images: bool
    transform: Callable[[ImageData, Generator], ImageData]

    def __call__(self, data: ImageData, seed: int) -> ImageData:
        """The twin of `data`; the same for the same seed."""
        return self.transform(data, Generator().manual_seed(seed))


def _shuffled(labels: Tensor, generator: Generator) -> Tensor:
    return labels[torch.randperm(len(labels), generator=generator, device=place(generator))]


def _original(data: ImageData, generator: Generator) -> ImageData:
    return data


def _random_labels(data: ImageData, generator: Generator) -> ImageData:
    return replace(
        data,
        train_labels=_shuffled(data.train_labels, generator),
        test_labels=_shuffled(data.test_labels, generator),
    )


def _random_images(data: ImageData, generator: Generator) -> ImageData:
    def noise(images: Tensor) -> Tensor:
        return torch.randint(
            0, data.maximum + 1, images.shape, generator=generator, dtype=torch.uint8, device=place(generator)
        )

    return replace(data, train_images=noise(data.train_images), test_images=noise(data.test_images))


def _shuffled_pixels(data: ImageData, generator: Generator) -> ImageData:
    height, width = data.image_size
    order = torch.randperm(height * width, generator=generator, device=place(generator))

    def permute(images: Tensor) -> Tensor:
        return images.flatten(1, 2)[:, order].view_as(images)

    return replace(data, train_images=permute(data.train_images), test_images=permute(data.test_images))


def _random_pixels(data: ImageData, generator: Generator) -> ImageData:
    def permute(images: Tensor) -> Tensor:
        # A color image, with its channels last, moves whole pixels.
        flat = images.flatten(1, 2)
        order = torch.rand(flat.shape[:2], generator=generator, dtype=torch.float32, device=place(generator)).argsort(1)
        return flat.gather(1, order.view(*order.shape, *[1] * (flat.ndim - 2)).expand_as(flat)).view_as(images)

    return replace(data, train_images=permute(data.train_images), test_images=permute(data.test_images))


def _gaussian_images(data: ImageData, generator: Generator) -> ImageData:
    # Of each channel, where there are several.
    deviation, mean = torch.std_mean(data.train_images.double(), dim=(0, 1, 2))

    def noise(images: Tensor) -> Tensor:
        values = (
            torch.randn(images.shape, generator=generator, dtype=torch.float32, device=place(generator)) * deviation
            + mean
        )
        return values.round().clamp(0, data.maximum).to(torch.uint8)

    return replace(data, train_images=noise(data.train_images), test_images=noise(data.test_images))


TWINS: dict[str, Twin] = {
    twin.name: twin
    for twin in (
        Twin("original", False, _original),
        Twin("random_labels", False, _random_labels),
        Twin("random_images", True, _random_images),
        Twin("shuffled_pixels", True, _shuffled_pixels),
        Twin("random_pixels", True, _random_pixels),
        Twin("gaussian_images", True, _gaussian_images),
    )
}
"""Twins by name: labels permuted; images of independent uniform pixels; the pixels of all images shuffled by one
permutation, and those of each image by its own; images of independent Gaussian pixels with the mean and variance of the
train images, rounded and cut off at black and white (where images are mostly black, that makes them brighter)."""
