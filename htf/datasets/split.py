"""Labelled images, as every data set of images holds them and every training takes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from htf._repr import brief


@dataclass(frozen=True, eq=False)
class Split(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images of train, validation or test, as `torch.utils.data.DataLoader` takes them.

    Attributes
    ----------
    images : Tensor
        (n, channels, height, width) uint8.
    labels : Tensor
        (n,) int64.
    maximum : int
        The value of a pixel that becomes 1.

    Raises
    ------
    TypeError, ValueError
        For images that are not uint8 of four axes, and labels that are not as many int64.

    See Also
    --------
    htf.datasets.LongRangeData : three splits of a task.

    Examples
    --------
    >>> import htf
    >>> from torch.utils.data import DataLoader
    >>> split = htf.datasets.far_parity((8, 8), distance=4, train=100, validation=20, test=20).train
    >>> images, labels = next(iter(DataLoader(split, batch_size=32)))
    >>> images.shape, images.dtype, labels.shape
    (torch.Size([32, 1, 8, 8]), torch.float32, torch.Size([32]))
    >>> images, labels = split.tensors()  # all at once
    >>> images.shape, float(images.max())
    (torch.Size([100, 1, 8, 8]), 1.0)
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    maximum: int = 255

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            raise TypeError(f"images are {self.images.dtype}, labels {self.labels.dtype}; expected uint8 and int64")
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"images have shape {tuple(self.images.shape)} and labels {tuple(self.labels.shape)}; "
                "expected (n, channels, height, width) and (n,)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """An image in [0, 1], of torch's default dtype, and its label; several for a slice or a tensor of indices."""
        return self.images[index].to(torch.get_default_dtype()) / self.maximum, self.labels[index]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images in [0, 1], of torch's default dtype, and all labels."""
        return self[:]
