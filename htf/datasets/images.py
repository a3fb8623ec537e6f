"""Image data sets by name: the embedded digits, MNIST and Fashion-MNIST."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from htf._repr import brief
from htf.datasets.idx import parse_idx, read_content
from htf.datasets.split import Split

# MD5 of the uncompressed content, as published with the data sets: a file that was gzipped again still matches.
_PARTS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CONTENT_MD5 = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}

NAMES = ("digits", "mnist", "fashion_mnist")


@dataclass(frozen=True)
class ImageData:
    """Images with labels, split into train and test, as arrays of pixels.

    Attributes
    ----------
    name : str
    train_images, test_images : Tensor
        (n, height, width) uint8, or (n, height, width, channels); `maximum` is white.
    train_labels, test_labels : Tensor
        (n,) int64.
    maximum : int
        255, or 16 for the digits.

    See Also
    --------
    htf.datasets.load : data sets by name.
    htf.datasets.Twin : randomizations of a data set.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.load("digits")
    >>> data.train_images.shape, data.test_images.shape, data.maximum, data.image_size
    (torch.Size([1433, 8, 8]), torch.Size([364, 8, 8]), 16, (8, 8))
    >>> small = data.take(100, 50)
    >>> len(small.train_labels), len(small.test_labels)
    (100, 50)
    >>> images, labels = data.holdout(0.2, seed=0).test.tensors()  # a validation part of the train set
    >>> images.shape, images.dtype
    (torch.Size([287, 1, 8, 8]), torch.float32)
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    maximum: int = 255

    __repr__ = brief

    @property
    def train(self) -> Split:
        """The train images, (n, channels, height, width), and their labels, as a `Split`."""
        return _split(self.train_images, self.train_labels, self.maximum)

    @property
    def test(self) -> Split:
        """The test images, (n, channels, height, width), and their labels, as a `Split`."""
        return _split(self.test_images, self.test_labels, self.maximum)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train_images.shape[1], self.train_images.shape[2]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all images and labels."""
        digest = hashlib.sha256(str((tuple(self.train_images.shape), self.maximum)).encode())
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def classes(self) -> list[int]:
        """The labels that occur in the train set."""
        return sorted(set(self.train_labels.tolist()))

    def take(self, train: int, test: int | None = None) -> ImageData:
        """The first `train` (and `test`) images.

        Parameters
        ----------
        train : int
        test : int, optional
            All by default.

        Returns
        -------
        ImageData

        Raises
        ------
        ValueError
            If a number is below 1, or there are fewer images.
        """
        for name, asked, there in (("train", train, len(self.train_labels)), ("test", test, len(self.test_labels))):
            if asked is not None and not 1 <= asked <= there:
                raise ValueError(f"{name} is {asked}; {self.name} has {there} such images")
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def holdout(self, share: float = 1 / 6, seed: int = 0) -> ImageData:
        """Split the train set: its validation part takes the place of the test set, which is not used.

        Parameters
        ----------
        share : float
            Share of the train set that is held out, between 0 and 1.
        seed : int
            Seed of the split.

        Returns
        -------
        ImageData

        Raises
        ------
        ValueError
            If `share` is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; expected between 0 and 1")
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(seed), device="cpu")
        kept, held = order[round(share * len(order)) :], order[: round(share * len(order))]
        return ImageData(
            f"{self.name}-holdout",
            self.train_images[kept],
            self.train_labels[kept],
            self.train_images[held],
            self.train_labels[held],
            self.maximum,
        )


def load(name: str = "digits", data_dir: str | Path | None = None) -> ImageData:
    """Load a data set by name.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion_mnist"}
        "digits" are the 1,797 images of 8 × 8 pixels that come with scikit-learn.
    data_dir : str or Path, optional
        A folder with the IDX files (gzipped or not) in it, or in ``MNIST/raw`` or ``FashionMNIST/raw`` below it;
        default is the environment variable HTF_DATA.  Without either the files are downloaded, once, into the user's
        cache folder.

    Returns
    -------
    ImageData

    Raises
    ------
    ValueError
        For an unknown name, and for a file whose content is damaged or is not the data set's.
    FileNotFoundError
        If `data_dir` does not hold the files.
    ConnectionError
        If they cannot be downloaded.

    See Also
    --------
    htf.datasets.ImageData : what it returns.
    htf.datasets.TWINS : randomized twins.
    htf.datasets.quantize, htf.datasets.affine : inputs of networks, made from images.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits")
    >>> digits.train_images.shape, digits.train_labels.shape, digits.test_images.shape
    (torch.Size([1433, 8, 8]), torch.Size([1433]), torch.Size([364, 8, 8]))
    """
    if name == "digits":
        return _digits()
    if name not in _FOLDERS:
        raise ValueError(f"data set is {name!r}; known are {', '.join(NAMES)}")
    data_dir = data_dir or os.environ.get("HTF_DATA")
    contents = []
    for part, md5 in zip(_PARTS, _CONTENT_MD5[name], strict=True):
        path = _find(Path(data_dir), name, part) if data_dir else _download(name, part, md5)
        contents.append(_checked(path, md5))
    train_images, train_labels, test_images, test_labels = contents
    _check_pair(name, train_images, train_labels)
    _check_pair(name, test_images, test_labels)
    return ImageData(
        name,
        torch.from_numpy(train_images),
        torch.from_numpy(train_labels).long(),
        torch.from_numpy(test_images),
        torch.from_numpy(test_labels).long(),
    )


def one_vs_all(labels: Tensor, positive: int) -> Tensor:
    """Targets 1 for the class `positive` and 0 for the others.

    Parameters
    ----------
    labels : Tensor
        (n,) integers.
    positive : int

    Returns
    -------
    Tensor
        (n,) of torch's default dtype.

    Raises
    ------
    ValueError
        If the class does not occur.

    See Also
    --------
    htf.probes.rank_fit : fits of all classes against the others.
    htf.datasets.load : data sets by name.

    Examples
    --------
    >>> import torch, htf
    >>> htf.datasets.one_vs_all(torch.tensor([3, 1, 4, 1]), positive=1)
    tensor([0., 1., 0., 1.])
    """
    if not bool((labels == positive).any()):
        raise ValueError(f"class {positive} does not occur; labels are {sorted(set(labels.tolist()))}")
    return (labels == positive).to(torch.get_default_dtype())


def _split(images: Tensor, labels: Tensor, maximum: int) -> Split:
    return Split(images[:, None] if images.ndim == 3 else images.movedim(-1, 1), labels, maximum)


def _digits() -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8))
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # A fixed shuffle: the file is ordered by writer, and a fifth of each class is for testing.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0), device="cpu")
    test = torch.cat([order[labels[order] == c][::5] for c in range(10)]).sort().values
    is_test = torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, test, True)
    return ImageData("digits", images[~is_test], labels[~is_test], images[is_test], labels[is_test], 16)


def _find(folder: Path, name: str, part: str) -> Path:
    places = (folder / _FOLDERS[name] / "raw", folder / _FOLDERS[name], folder)
    for place in places:
        for ending in ("", ".gz"):
            # Both data sets use the same file names: a bare folder may hold either, and checksums tell.
            if (path := place / (part + ending)).is_file():
                return path
    raise FileNotFoundError(
        f"data_dir {folder} does not hold {part} (or {part}.gz) of {name}, nor does {_FOLDERS[name]}/raw below it"
    )


def _checked(path: Path, md5: str) -> NDArray[np.uint8]:
    content = read_content(path)
    array = parse_idx(content, str(path))
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path} has content MD5 {found}; the data set's is {md5}: it is another or a changed file")
    return array


def _check_pair(name: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(f"{name} has images of shape {images.shape} and labels of shape {labels.shape}")


def _download(name: str, part: str, md5: str) -> Path:
    import pooch

    folder = pooch.os_cache("htf") / _FOLDERS[name] / "raw"
    target = folder / f"{part}.gz"

    def verify(fname: str, action: str, _: pooch.Pooch | None) -> str:
        _checked(Path(fname), md5)
        return fname

    if target.is_file():
        try:
            _checked(target, md5)
        except ValueError:
            target.unlink()  # damaged since it was fetched: fetch it again
    try:
        if not target.is_file():
            partial = pooch.retrieve(
                f"{_URLS[name]}{part}.gz", None, f"{part}.gz.partial", folder, verify, progressbar=True
            )
            Path(partial).replace(target)
    except ValueError:
        (folder / f"{part}.gz.partial").unlink(missing_ok=True)
        raise
    except OSError as error:
        raise ConnectionError(
            f"cannot download {part}.gz of {name} ({error}); "
            "put the files into a folder and name it by data_dir or HTF_DATA"
        ) from error
    return target
