"""Generated images of discs: position, size and colour, so that the dimension of the data is known."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from htf._checks import positive

# Two of position, one of size, three of colour.
DIMENSION = 6
SIZE, EDGE = 16, 3.0


def discs(count: int, seed: int, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Discs of one colour on black, in images of `size` × `size`; centres, radii and colours are uniform.

    Parameters
    ----------
    count, seed : int
    size : int
        Pixels; radii are from 1/8 to 1/4 of it, and discs lie within the image.

    Returns
    -------
    Tensor, Tensor
        Images (count, 3, size, size) of bytes, and what they were made of, (count, 6), from 0 to 1 each.
    """
    made_of = torch.rand(positive("count", count), DIMENSION, generator=Generator().manual_seed(seed))
    radius = size / 8 * (1 + made_of[:, 2])[:, None, None]
    down, across = (size / 4 + size / 2 * made_of[:, k, None, None] for k in (0, 1))
    places = torch.arange(size) + 0.5
    distance = ((places[:, None] - down).square() + (places - across).square()).sqrt()
    # Edges are some pixels wide, so that images change smoothly with each of the numbers.
    inside = ((radius - distance) / EDGE + 0.5).clamp(0, 1)
    colours = 0.1 + 0.9 * made_of[:, 3:]
    images = (255 * inside[:, None] * colours[:, :, None, None]).round().to(torch.uint8)
    return images, made_of
