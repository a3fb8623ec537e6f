"""Data sets, encodings, randomized twins, and problems in which a planted tensor is to be recovered."""

from htf.datasets.completion import completion_from_file, diverging_completion, tensor_completion, tensor_sensing
from htf.datasets.encodings import affine, one_hot, quantize, trigonometric
from htf.datasets.idx import read_idx
from htf.datasets.images import NAMES, ImageData, load, one_vs_all
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.datasets.twins import TWINS, Twin

__all__ = [
    "NAMES",
    "TWINS",
    "CompletionProblem",
    "ImageData",
    "SensingProblem",
    "Twin",
    "affine",
    "completion_from_file",
    "diverging_completion",
    "load",
    "one_hot",
    "one_vs_all",
    "quantize",
    "read_idx",
    "tensor_completion",
    "tensor_sensing",
    "trigonometric",
]
