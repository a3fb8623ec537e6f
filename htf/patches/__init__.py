"""Patches of images: pairs of them drawn for regularizers and measurements, and images whose patches are exchanged."""

from htf.patches.sampling import Patch, PatchSampler, far_patches, preset_areas, random_patches, tree_patches

__all__ = ["Patch", "PatchSampler", "far_patches", "preset_areas", "random_patches", "tree_patches"]
