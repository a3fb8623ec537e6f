"""Tables whose features are permuted: images of known grids, and data sets of R's mlbench from a local file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

import htf

from .fetch import check

IMAGES = ("digits", "mnist", "fashion_mnist", "cifar10")
# Files NAME.rda of R's mlbench, and the column of classes.
MLBENCH = {"dna": ("DNA", "Class"), "satellite": ("Satellite", "classes"), "letters": ("LetterRecognition", "lettr")}
NAMES = (*IMAGES, *MLBENCH)


@dataclass(frozen=True)
class Table:
    """Training and test samples of permuted features.

    Attributes
    ----------
    x, y, test_x, test_y : array
    permutation : array (features,)
        The original number of each feature.
    grid : (int, int) or None
        Height and width of images.
    seed : int
    sides : (int, int)
        Of the grid for networks that read one: that of images, or one of as many cells as features, nearly square.
    """

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    permutation: np.ndarray
    grid: tuple[int, int] | None
    seed: int

    @property
    def sides(self) -> tuple[int, int]:
        features = self.x.shape[1]
        height = max(k for k in range(1, int(features**0.5) + 1) if features % k == 0)
        return self.grid or (height, features // height)


@lru_cache(maxsize=4)
def permuted(
    name: str, train: int, test: int, seed: int, data_dir: str | None, mlbench: str | None, held_out: bool = False
) -> Table:
    """A data set standardized by one factor, with its samples drawn and its features permuted by a seed.

    With `held_out`, test samples are a quarter of the training samples, which is taken from these.
    """
    x, y, test_x, test_y, grid = _images(name, data_dir) if name in IMAGES else _mlbench(name, mlbench)
    rng = np.random.default_rng(seed)
    rows, others = rng.permutation(len(x))[:train], rng.permutation(len(test_x))[:test]
    permutation = rng.permutation(x.shape[1])
    if held_out:
        test_x, test_y = x, y
        others, rows = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    mean, scale = float(x[rows].mean()), float(x[rows].std())
    x, test_x = ((each[:, permutation] - mean) / scale for each in (x[rows], test_x[others]))
    return Table(x, y[rows], test_x, test_y[others], permutation, grid, seed)


def _images(name: str, data_dir: str | None) -> tuple[Any, ...]:
    if name == "cifar10":
        folder = Path(data_dir or os.environ.get("HTF_DATA", "data")) / "CIFAR10"
        parts = [np.load(folder / file) for file in ("train_12k.npz", "test_5k.npz")]
        # Grey, by the weights of luma.
        grey = [part["images"].astype(np.float64) @ [0.299, 0.587, 0.114] for part in parts]
        labels = [part["labels"].astype(np.int64) for part in parts]
        return grey[0].reshape(len(grey[0]), -1), labels[0], grey[1].reshape(len(grey[1]), -1), labels[1], (32, 32)
    data = htf.datasets.load(name, data_dir)
    images = [each.flatten(1).double().numpy() for each in (data.train_images, data.test_images)]
    side = (data.train_images.shape[1], data.train_images.shape[2])
    return images[0], data.train_labels.numpy(), images[1], data.test_labels.numpy(), side


def _mlbench(name: str, folder: str | None) -> tuple[Any, ...]:
    if folder is None:
        raise FileNotFoundError(f"{name} is read from files of mlbench; fetch them by --fetch, name them by --mlbench")
    import rdata

    file, column = MLBENCH[name]
    frame = rdata.read_rda(check(Path(folder) / f"{file}.rda"))[file]
    y = np.unique(frame[column].astype(str), return_inverse=True)[1]
    # Factors of zeros and ones, as dna has them, are read as numbers.
    x = frame.drop(columns=[column]).astype(str).astype(np.float64).to_numpy()
    parts = train_test_split(x, y, test_size=1 / 3, random_state=0, stratify=y)
    return parts[0], parts[2], parts[1], parts[3], None
