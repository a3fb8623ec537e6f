"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from htf import datasets, dynamics, jobs, nn, probes, ranks, regularizers, surgery, tensors, training
from htf._version import __version__
from htf.decomposition import (
    HierarchicalTucker,
    HTCompletion,
    apply,
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

if TYPE_CHECKING:
    from htf import models, plotting

__all__ = [
    "DimensionTree",
    "HTCompletion",
    "HTTensor",
    "HierarchicalTucker",
    "__version__",
    "apply",
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
    "models",
    "nn",
    "optimize_tree",
    "overparameterize",
    "plotting",
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


def __getattr__(name: str) -> Any:
    # Only on demand: matplotlib and scikit-learn come with them.
    if name in {"models", "plotting"}:
        return import_module(f"htf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
