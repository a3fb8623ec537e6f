"""Data sets, encodings and randomized twins."""

from htf.datasets.encodings import affine, one_hot, quantize, trigonometric
from htf.datasets.idx import read_idx
from htf.datasets.images import NAMES, ImageData, load, one_vs_all
from htf.datasets.twins import TWINS, Twin

__all__ = [
    "NAMES",
    "TWINS",
    "ImageData",
    "Twin",
    "affine",
    "load",
    "one_hot",
    "one_vs_all",
    "quantize",
    "read_idx",
    "trigonometric",
]
