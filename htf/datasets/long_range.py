"""Generated tasks that need what is far apart to be seen together: their images, and a cache of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htf._checks import natural, positive
from htf._files import read_tensors, write_tensors
from htf._repr import brief
from htf.datasets.split import Split as Split  # its place until 0.1

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class LongRangeData:
    """A generated task of two classes, labels 0 and 1.

    Attributes
    ----------
    name : str
    train, validation, test : Split
        None of them has an image, or what an image is made from, in common with another.
    settings : dict
        All that the images were made from, seed included, as JSON can hold it.

    See Also
    --------
    htf.datasets.pathfinder, htf.datasets.is_same_class, htf.datasets.far_parity : what makes such data.
    htf.datasets.Split : one of its splits.
    htf.plotting.plot_samples : pictures of it.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.far_parity((8, 8), distance=4, train=100, validation=20, test=20)
    >>> data.image_size, len(data.train), data.settings["distance"]
    ((1, 8, 8), 100, 4)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    settings: Mapping[str, Any]

    __repr__ = brief

    @property
    def image_size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def span(self) -> int:
        """Pixels that a receptive field has to span: from area to area, or from dot to dot of a straight curve.

        A network of a smaller field has no unit that sees both of what is to be related; see `htf.nn.receptive_field`.

        Raises
        ------
        ValueError
            If the settings do not say where that is.
        """
        found = self.settings
        if "areas" in found:
            (top, left, height, width), (other_top, other_left, other_height, other_width) = found["areas"]
            down = max(top, other_top) - min(top + height, other_top + other_height)
            across = max(left, other_left) - min(left + width, other_left + other_width)
            # A pixel of each, and those between.
            return max(down, across) + 2
        if "path_length" in found:
            length = found["path_length"]
            return round(length * found["dash"] + (length - 1) * found["gap"])
        raise ValueError(
            f"settings of {self.name} have neither areas nor path_length; expected data of a long-range task"
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all images, labels and maxima."""
        splits = {part: getattr(self, part) for part in _PARTS}
        maxima = [split.maximum for split in splits.values()]
        return hashlib.sha256(f"{_fingerprint(splits)} {maxima}".encode()).hexdigest()

    def plot(self, samples: int = 8) -> Figure:
        """Some training images of each class; see `htf.plotting.plot_samples`."""
        from htf.plotting import plot_samples

        return plot_samples(self, samples)


def _fingerprint(splits: Mapping[str, Split]) -> str:
    """SHA-256 of images and labels, as in the files of caches."""
    digest = hashlib.sha256()
    for part in _PARTS:
        for tensor in (splits[part].images, splits[part].labels):
            digest.update(f"{part} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def check_sizes(train: int, validation: int, test: int) -> dict[str, int]:
    """Images per split; only the train split needs some."""
    return {
        "train": positive("train", train),
        "validation": natural("validation", validation),
        "test": natural("test", test),
    }


def made_or_cached(
    name: str,
    settings: dict[str, Any],
    make: Callable[[], dict[str, Split]],
    cache: str | Path | None,
    *,
    generator: int,
) -> LongRangeData:
    """Read a task from the cache folder, or make it and write it there.

    Parameters
    ----------
    name : str
    settings : dict
        All that decides the images, as JSON can hold it.
    make : callable
        Makes the three splits.
    cache : str or Path, optional
        A folder.
    generator : int
        Number of the version of what `make` does: a file of another one is not this task's.

    Raises
    ------
    ValueError
        If the file is there and damaged, or holds something else; it names the file.
    """
    about = {"task": name, "generator": generator, "settings": settings}
    if cache is None:
        return LongRangeData(name, **make(), settings=settings)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = Path(cache) / f"{name}-{key[:16]}.safetensors"
    if Path(cache).exists() and not Path(cache).is_dir():
        raise NotADirectoryError(f"cache is {str(cache)!r}, a file; expected a folder")
    if path.exists():
        return LongRangeData(name, **_read(path, about), settings=settings)
    splits = make()
    tensors = {
        f"{part}_{kind}": getattr(split, kind) for part, split in splits.items() for kind in ("images", "labels")
    }
    maxima = {part: split.maximum for part, split in splits.items()}
    write_tensors(path, tensors, {**about, "maximum": maxima, "fingerprint": _fingerprint(splits)})
    return LongRangeData(name, **splits, settings=settings)


def _read(path: Path, about: dict[str, Any]) -> dict[str, Split]:
    try:
        tensors, found = read_tensors(path)
        for key, value in about.items():
            if found[key] != value:
                raise ValueError(f"its {key} is {found[key]!r}, expected {value!r}")
        splits = {
            part: Split(tensors[f"{part}_images"], tensors[f"{part}_labels"], int(found["maximum"][part]))
            for part in _PARTS
        }
        if _fingerprint(splits) != found["fingerprint"]:
            raise ValueError("its content is not what was written")
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} cannot be used as cache: cut short, damaged or of another origin ({error}); "
            "delete it, and it is made anew"
        ) from error
    return splits
