"""Decompositions into hierarchical Tucker format: of dense tensors, of observed entries, of functions."""

from htf.decomposition.als import ht_als
from htf.decomposition.apply import apply
from htf.decomposition.completion import CompletionInfo, HTCompletion, ht_completion, ht_completion_masked
from htf.decomposition.cross import CrossInfo, cross_approximation
from htf.decomposition.hierarchical_tucker import HierarchicalTucker, hierarchical_tucker
from htf.decomposition.stream import HTStream
from htf.decomposition.tree_choice import optimize_tree

__all__ = [
    "CompletionInfo",
    "CrossInfo",
    "HTCompletion",
    "HTStream",
    "HierarchicalTucker",
    "apply",
    "cross_approximation",
    "hierarchical_tucker",
    "ht_als",
    "ht_completion",
    "ht_completion_masked",
    "optimize_tree",
]
