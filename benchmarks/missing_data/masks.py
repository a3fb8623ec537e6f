"""Pixels that are missing: at independent rates, and in squares (Sharir, Tamari, Cohen & Shashua 2016)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

RATES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
COUNTS, WIDTHS = (1, 2, 3), (7, 11, 15)


def protocol(samples: int, height: int, width: int, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Names and masks, (samples, height, width) booleans, True where a pixel is missing; the first one is of none.

    Squares lie within the image wherever there is room, independently of each other; those that are wider than the
    image are left out.
    """
    generator = Generator().manual_seed(seed)
    yield "none", torch.zeros(samples, height, width, dtype=torch.bool)
    for rate in RATES:
        yield f"iid {rate:g}", independent(samples, height, width, rate, generator)
    for count in COUNTS:
        for side in WIDTHS:
            if side < min(height, width):
                yield f"{count} x {side}", squares(samples, height, width, count, side, generator)


def non_zero(images: Tensor, count: int, generator: Generator) -> Tensor:
    """So many of the pixels of each image that are not zero; all of them where there are fewer."""
    drawn = torch.rand(images.shape, generator=generator).masked_fill(images == 0, 2.0).flatten(1)
    places = drawn.argsort(1)[:, :count]
    missing = torch.zeros_like(drawn, dtype=torch.bool).scatter_(1, places, drawn.gather(1, places) < 2)
    return missing.view(images.shape)


def independent(samples: int, height: int, width: int, rate: float | Tensor, generator: Generator) -> Tensor:
    """Each pixel by itself; at least one of each image is left."""
    drawn = torch.rand(samples, height, width, generator=generator)
    missing = drawn < rate
    # Nothing can be said of an image without a pixel.
    kept = drawn.flatten(1).argmax(1)
    missing.view(samples, -1)[torch.arange(samples), kept] = False
    return missing


def squares(samples: int, height: int, width: int, count: int, side: int, generator: Generator) -> Tensor:
    """Some squares in each image."""
    missing = torch.zeros(samples, height, width, dtype=torch.bool)
    rows, columns = torch.arange(height), torch.arange(width)
    for _ in range(count):
        top = torch.randint(0, height - side + 1, (samples, 1), generator=generator)
        left = torch.randint(0, width - side + 1, (samples, 1), generator=generator)
        inside = ((rows >= top) & (rows < top + side)).unsqueeze(2)
        missing |= inside & ((columns >= left) & (columns < left + side)).unsqueeze(1)
    return missing
