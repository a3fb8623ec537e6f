"""Regularizers that promote, or lower, hierarchical rank: of CNNs by two patches, of trees in closed form."""

from htf.regularizers.gradient_field import GradientFieldChange
from htf.regularizers.input_gradient import InputGradientChange
from htf.regularizers.interaction import Interaction
from htf.regularizers.patches import (
    Patch,
    PatchSampler,
    far_patches,
    preset_areas,
    random_patches,
    tree_patches,
)
from htf.regularizers.tree_spectra import TreeEntropy, TreeLogDet, separating_edges

__all__ = [
    "GradientFieldChange",
    "InputGradientChange",
    "Interaction",
    "Patch",
    "PatchSampler",
    "TreeEntropy",
    "TreeLogDet",
    "far_patches",
    "preset_areas",
    "random_patches",
    "separating_edges",
    "tree_patches",
]
