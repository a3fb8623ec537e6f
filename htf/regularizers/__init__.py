"""Regularizers that promote or lower rank: of CNNs by two patches, of trees in closed form, of weights by penalties."""

from htf.patches import (
    Patch,
    PatchSampler,
    far_patches,
    preset_areas,
    random_patches,
    tree_patches,
)
from htf.regularizers.gradient_field import GradientFieldChange
from htf.regularizers.input_gradient import InputGradientChange
from htf.regularizers.interaction import Interaction
from htf.regularizers.tree_spectra import TreeEntropy, TreeLogDet, separating_edges
from htf.regularizers.weight_rank import WeightRank

__all__ = [
    "GradientFieldChange",
    "InputGradientChange",
    "Interaction",
    "Patch",
    "PatchSampler",
    "TreeEntropy",
    "TreeLogDet",
    "WeightRank",
    "far_patches",
    "preset_areas",
    "random_patches",
    "separating_edges",
    "tree_patches",
]
