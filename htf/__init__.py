"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

# Set before the imports below: results record it.
__version__ = "0.1.0"

from htf import datasets, dynamics, jobs, nn, probes, ranks, regularizers, surgery, tensors, training
from htf.decomposition import (
    HierarchicalTucker,
    HTCompletion,
    cross_approximation,
    hierarchical_tucker,
    ht_als,
    ht_completion,
    ht_completion_masked,
    optimize_tree,
)
from htf.surgery import collapse, factorize, overparameterize, truncate
from htf.tensors import HTTensor, load, random_ht, save
from htf.tree import DimensionTree

__all__ = [
    "DimensionTree",
    "HTCompletion",
    "HTTensor",
    "HierarchicalTucker",
    "collapse",
    "cross_approximation",
    "datasets",
    "dynamics",
    "factorize",
    "hierarchical_tucker",
    "ht_als",
    "ht_completion",
    "ht_completion_masked",
    "jobs",
    "load",
    "nn",
    "optimize_tree",
    "overparameterize",
    "probes",
    "random_ht",
    "ranks",
    "regularizers",
    "save",
    "surgery",
    "tensors",
    "training",
    "truncate",
]
