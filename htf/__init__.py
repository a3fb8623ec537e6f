"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

# Set before the imports below: results record it.
__version__ = "0.1.0"

from htf import datasets, nn, probes, training
from htf.decomposition import HierarchicalTucker, hierarchical_tucker, ht_als, optimize_tree
from htf.tensors import HTTensor, load, random_ht, save
from htf.tree import DimensionTree

__all__ = [
    "DimensionTree",
    "HTTensor",
    "HierarchicalTucker",
    "datasets",
    "hierarchical_tucker",
    "ht_als",
    "load",
    "nn",
    "optimize_tree",
    "probes",
    "random_ht",
    "save",
    "training",
]
