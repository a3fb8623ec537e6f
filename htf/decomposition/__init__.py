"""Decompositions into hierarchical Tucker format: of dense tensors, of observed entries, of functions."""

from htf.decomposition.als import ht_als
from htf.decomposition.hierarchical_tucker import HierarchicalTucker, hierarchical_tucker
from htf.decomposition.tree_choice import optimize_tree

__all__ = ["HierarchicalTucker", "hierarchical_tucker", "ht_als", "optimize_tree"]
