"""Data sets, encodings, randomized twins, long-range tasks, and problems in which a planted tensor is recovered."""

from htf.datasets.completion import completion_from_file, diverging_completion, tensor_completion, tensor_sensing
from htf.datasets.corruption import corrupted_labels
from htf.datasets.crossed_dots import crossed_dots
from htf.datasets.encodings import affine, complementary, encoding_moments, fourier, one_hot, quantize, trigonometric
from htf.datasets.far_parity import far_parity
from htf.datasets.idx import read_idx
from htf.datasets.images import NAMES, ImageData, load, one_vs_all
from htf.datasets.is_same_class import is_same_class
from htf.datasets.long_range import LongRangeData
from htf.datasets.pathfinder import pathfinder
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.datasets.split import Split
from htf.datasets.twins import TWINS, Twin

__all__ = [
    "NAMES",
    "TWINS",
    "CompletionProblem",
    "ImageData",
    "LongRangeData",
    "SensingProblem",
    "Split",
    "Twin",
    "affine",
    "complementary",
    "completion_from_file",
    "corrupted_labels",
    "crossed_dots",
    "diverging_completion",
    "encoding_moments",
    "far_parity",
    "fourier",
    "is_same_class",
    "load",
    "one_hot",
    "one_vs_all",
    "pathfinder",
    "quantize",
    "read_idx",
    "tensor_completion",
    "tensor_sensing",
    "trigonometric",
]
