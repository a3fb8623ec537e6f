"""CIFAR-10, from the archive of binary files or from arrays; the pickled files are not read."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from htf.datasets._archives import Declared, Refused, read_arrays

_URL = "https://www.cs.toronto.edu/~kriz/"
_ARCHIVE = "cifar-10-binary.tar.gz"
_ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_ARRAYS = ("train_12k.npz", "test_5k.npz")
_SIDE, _CLASSES = 32, 10
_RECORD = 1 + 3 * _SIDE**2

Images = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class CifarFiles:
    """Where CIFAR-10 is read from.

    Attributes
    ----------
    paths : tuple of Path
        The archive, or an npz file for train and one for test.
    identity : str
        The same for the same content.
    """

    paths: tuple[Path, ...]
    identity: str

    def read(self) -> tuple[Images, Images]:
        """Images, (n, 3, 32, 32) uint8, and labels, (n,) uint8, of train and test."""
        if len(self.paths) == 2:
            train, test = (_from_arrays(path) for path in self.paths)
            return train, test
        batches = _from_archive(self.paths[0])
        images, labels = (np.concatenate([batch[k] for batch in batches[:-1]]) for k in (0, 1))
        return (images, labels), batches[-1]


def find_cifar10(data_dir: str | Path | None) -> CifarFiles:
    """CIFAR-10's files in a folder, in HTF_DATA, or downloaded once.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold them.
    ValueError
        If the archive is another or a changed file.
    ConnectionError
        If it cannot be downloaded.
    """
    data_dir = data_dir or os.environ.get("HTF_DATA")
    if not data_dir:
        return CifarFiles((_download(),), _ARCHIVE_MD5)
    for folder in (Path(data_dir) / "CIFAR10", Path(data_dir)):
        if (archive := folder / _ARCHIVE).is_file():
            if (found := _md5(archive)) != _ARCHIVE_MD5:
                raise ValueError(
                    f"{archive} has MD5 {found}; the data set's is {_ARCHIVE_MD5}: it is another or a changed file"
                )
            return CifarFiles((archive,), _ARCHIVE_MD5)
        arrays = tuple(folder / name for name in _ARRAYS)
        if all(path.is_file() for path in arrays):
            return CifarFiles(arrays, " ".join(_md5(path) for path in arrays))
    raise FileNotFoundError(
        f"data_dir {data_dir} does not hold {_ARCHIVE} (or {_ARRAYS[0]} and {_ARRAYS[1]}), nor does CIFAR10 below it"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _from_archive(path: Path) -> list[Images]:
    """The six batches, records of a label and then the pixels, channel by channel."""
    found: dict[str, Images] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in _BATCHES and (file := archive.extractfile(member)) is not None:
                    records = np.frombuffer(file.read(), np.uint8).reshape(-1, _RECORD)
                    labels = _checked_labels(records[:, 0], name, "record")
                    found[name] = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE), labels
        return [found[name] for name in _BATCHES]
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def _from_arrays(path: Path) -> Images:
    try:
        arrays = read_arrays(path, ("images", "labels"), _check_arrays)
    except ValueError as error:
        raise ValueError(f"{error}; {path} is not an npz file of images and labels") from error
    images, labels = arrays["images"], arrays["labels"]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), _checked_labels(labels, str(path), "row")


def _check_arrays(names: Collection[str], declared: Declared) -> None:
    if not {"images", "labels"} <= set(names):
        raise Refused(f"has the arrays {', '.join(names) or 'none'}; expected images and labels")
    (images, kind), (labels, _) = declared["images"], declared["labels"]
    if kind != np.uint8 or images[1:] != (_SIDE, _SIDE, 3) or labels != images[:1]:
        raise Refused(
            f"has images of shape {images}, {kind}, and labels of shape {labels}; "
            f"expected (n, {_SIDE}, {_SIDE}, 3), uint8, and (n,)"
        )


def _checked_labels(labels: NDArray[Any], source: str, unit: str) -> NDArray[np.uint8]:
    """Labels as bytes, or an error that names the first that is none."""
    if labels.dtype.kind in "iu":
        wrong = (labels < 0) | (labels >= _CLASSES)
    else:
        # Of real numbers the first that is no integer, if there is one.
        wrong = labels != np.floor(labels) if labels.dtype.kind == "f" else np.ones(len(labels), dtype=bool)
        wrong |= not wrong.any()
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{source} {unit} {row} has the label {labels[row].item()!r}; expected an integer from 0 to {_CLASSES - 1}"
        )
    return labels.astype(np.uint8)


def _download() -> Path:
    import pooch

    folder = pooch.os_cache("htf") / "CIFAR10"
    try:
        return Path(pooch.retrieve(f"{_URL}{_ARCHIVE}", f"md5:{_ARCHIVE_MD5}", _ARCHIVE, folder, progressbar=True))
    except OSError as error:
        raise ConnectionError(
            f"cannot download {_ARCHIVE} ({error}); put it into a folder and name that by data_dir or HTF_DATA"
        ) from error
