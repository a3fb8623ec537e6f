"""Labelled samples of any source, read batch by batch as a model takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from htf.datasets.images import ImageData
from htf.datasets.long_range import LongRangeData
from htf.datasets.split import Split
from htf.training.digests import digest

PARTS = ("train", "validation", "test")
# Items of a torch Dataset that are read for its digest and for the range of its labels.
LOOKED_AT = 64


class Samples(ABC):
    """Samples and labels.

    Attributes
    ----------
    labels_below : int
        One more than the largest label, as far as it is known.
    """

    labels_below: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        """Where batches are to be, of which dtype if they are floats, and in which memory format if they are images."""

    @abstractmethod
    def batch(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs and labels of samples by number, on the CPU or a slice."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of the contents."""

    def batches(self, size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order; of several processes, number `share[0]` of `share[1]` takes its own."""
        for start in range(share[0] * size, len(self), share[1] * size):
            yield self.batch(slice(start, start + size))


class Stored(Samples):
    """Tensors, kept on the device.

    Parameters
    ----------
    inputs : Tensor
        (n, ...).
    labels : Tensor
        (n,) int64.
    maximum : int, optional
        For images of bytes: the value of a pixel that becomes 1.  They are kept as they are, which takes a quarter of
        the memory of floats.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, maximum: int | None = None) -> None:
        self._inputs, self._labels, self._maximum = inputs, labels, maximum
        self.labels_below = int(labels.max()) + 1 if len(labels) else 0
        self._dtype: torch.dtype | None = None
        self._format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self._labels)

    def place(self, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        self._inputs, self._labels = self._inputs.to(device), self._labels.to(device)
        if self._maximum is not None or self._inputs.is_floating_point():
            self._dtype = dtype
        if channels_last and self._inputs.ndim == 4:
            self._format = torch.channels_last

    def batch(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        if isinstance(indices, Tensor):
            indices = indices.to(self._labels.device)
        x = self._inputs[indices]
        if self._maximum is not None:
            x = x.to(self._dtype).div_(self._maximum)
        elif self._dtype is not None:
            x = x.to(self._dtype)
        return x.contiguous(memory_format=self._format), self._labels[indices]

    def fingerprint(self) -> str:
        return digest((self._inputs, self._labels), self._maximum)


class _Items(Samples):
    """The items of a torch Dataset, read one by one when they are asked for."""

    def __init__(self, name: str, dataset: Dataset[Any]) -> None:
        self._dataset, self._n = dataset, len(dataset)  # type: ignore[arg-type]
        self._device, self._dtype, self._format = torch.device("cpu"), torch.float32, torch.contiguous_format
        if not self._n:
            self.labels_below = 0
            return
        some = sorted({k * (self._n - 1) // (LOOKED_AT - 1) for k in range(LOOKED_AT)})
        # A data set may change its items at random.
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            looked = [_checked(name, dataset[k], k) for k in some]
        self._digest = digest(self._n, [part for item in looked for part in item])
        self.labels_below = max(int(y) for _, y in looked) + 1

    def __len__(self) -> int:
        return self._n

    def place(self, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        self._device, self._dtype = device, dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def batch(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        numbers = range(self._n)[indices] if isinstance(indices, slice) else indices.tolist()
        inputs, labels = zip(*(self._dataset[k] for k in numbers), strict=True)
        x, y = torch.stack(inputs).to(self._device), torch.tensor([int(label) for label in labels], device=self._device)
        x = x.to(self._dtype) if x.is_floating_point() else x
        return x.contiguous(memory_format=self._format) if x.ndim == 4 else x, y

    def fingerprint(self) -> str:
        return self._digest if self._n else digest(0)


def _checked(name: str, item: Any, k: int) -> tuple[Tensor, Tensor]:
    if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Tensor)):
        raise TypeError(f"{name}[{k}] is a {type(item).__name__}; expected a pair of a tensor and a label")
    label = torch.as_tensor(item[1])
    if label.is_floating_point() or label.numel() != 1 or int(label) < 0:
        raise ValueError(f"{name}[{k}] has the label {item[1]!r}; expected an integer of at least 0")
    return item[0], label.reshape(()).long()


def as_samples(name: str, given: Any) -> Samples:
    """Samples of a pair of tensors, a `Split` or a torch Dataset.

    Raises
    ------
    TypeError, ValueError
        For something else, for inputs and labels of different lengths, or for labels that are not integers from 0.
    """
    if isinstance(given, Split):
        made: Samples = Stored(given.images.detach(), _labels(name, given.images, given.labels), given.maximum)
    elif isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        x, y = given
        made = Stored(x.detach(), _labels(name, x, y), 255 if x.dtype == torch.uint8 and x.ndim == 4 else None)
    elif isinstance(given, Dataset) and hasattr(given, "__len__") and hasattr(type(given), "__getitem__"):
        made = _Items(name, given)
    else:
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected a pair of tensors (inputs, labels), or a torch Dataset of "
            "known length"
        )
    return made


def _labels(name: str, x: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point() or y.is_complex() or y.ndim != 1 or len(x) != len(y):
        raise ValueError(
            f"{name} has inputs of shape {tuple(x.shape)} and labels of shape {tuple(y.shape)}, {y.dtype}; "
            f"expected ({len(x)},) integers"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"{name} has the label {int(y.min())}; expected labels of at least 0")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{name} has inputs that are NaN or infinite")
    return y


def parts_of(data: Any) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Train, validation and test of what is given as data; its name and settings.

    Parameters
    ----------
    data : LongRangeData, ImageData, mapping or sequence
        A mapping has keys "train", "validation" and "test"; a sequence has data sets in that order.
    """
    if isinstance(data, LongRangeData):
        return {part: getattr(data, part) for part in PARTS}, data.name, dict(data.settings)
    if isinstance(data, ImageData):
        return {"train": data.train, "test": data.test}, data.name, {}
    if isinstance(data, Mapping):
        unknown = sorted(set(data) - set(PARTS), key=str)
        if unknown or "train" not in data:
            raise ValueError(
                f"data has {', '.join(map(repr, data)) or 'nothing'}; expected 'train' and, if there are "
                "any, 'validation' and 'test'"
            )
        return dict(data), "data", {}
    if isinstance(data, Sequence) and not isinstance(data, str | Dataset) and 1 <= len(data) <= 3:
        if any(isinstance(part, Tensor) for part in data):
            return {"train": data}, "data", {}
        return dict(zip(PARTS, data, strict=False)), "data", {}
    raise TypeError(
        f"data is a {type(data).__name__}; expected a LongRangeData, an ImageData, or data sets for train, validation "
        "and test, each a pair of tensors or a torch Dataset"
    )
