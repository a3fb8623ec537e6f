"""Images with contents of one patch crossed with contents of another, and what makes up their outputs' variance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from htf._random import beside, place
from htf.patches.sampling import Patch


class DrawnGrids(NamedTuple):
    """Which samples make up grids, by their indices.

    Attributes
    ----------
    base : Tensor, (grids,)
        What the images are outside of the patches.
    contents : tuple of two Tensors, (grids, size)
        What stands in the first and in the second patch; the base sample's own comes first.
    """

    base: Tensor
    contents: tuple[Tensor, Tensor]

    @property
    def size(self) -> int:
        """Contents of each patch."""
        return self.contents[0].shape[1]


def draw_grids(samples: int, grids: int, size: int, generator: Generator) -> DrawnGrids:
    """Different base samples, and for each and each patch different other samples, all drawn uniformly."""
    base = torch.randperm(samples, generator=generator, device=place(generator))[:grids]

    def contents() -> Tensor:
        # In float32 whatever torch's default is: a seed draws the same grids.
        shape, dtype, device = (grids, samples - 1), torch.float32, place(generator)
        steps = torch.rand(shape, generator=generator, dtype=dtype, device=device).argsort(1)[:, : size - 1] + 1
        return torch.cat([base[:, None], (base[:, None] + steps) % samples], 1)

    return DrawnGrids(base, (contents(), contents()))


def grid_images(x: Tensor, drawn: DrawnGrids, patches: tuple[Patch, Patch]) -> Tensor:
    """The images of all grids, (grids * size², channels, height, width): those of a grid row by row."""
    grids, size = len(drawn.base), drawn.size
    base = beside(drawn.base, x).repeat_interleave(size**2)
    # Rows of a grid share what is in the first patch, columns what is in the second.
    of_first = beside(drawn.contents[0].repeat_interleave(size, 1).flatten(), x)
    of_second = beside(drawn.contents[1].repeat(1, size).flatten(), x)
    images = x[base]
    assert len(images) == grids * size**2
    for patch, sample in zip(patches, (of_first, of_second), strict=True):
        images[:, :, patch.rows, patch.columns] = x[:, :, patch.rows, patch.columns][sample]
    return images


def centred(grids: Tensor) -> Tensor:
    """Grids (n, size, size) less their means."""
    return grids - grids.mean((1, 2), keepdim=True)


def doubly_centred(grids: Tensor) -> Tensor:
    """Grids (n, size, size) less what rows and columns alone explain."""
    grids = centred(grids)
    return grids - grids.mean(1, keepdim=True) - grids.mean(2, keepdim=True)
