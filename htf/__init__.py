"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from htf._version import __version__

if TYPE_CHECKING:
    from htf import (
        arrangement,
        datasets,
        dynamics,
        jobs,
        models,
        nn,
        plotting,
        probes,
        ranks,
        regularizers,
        surgery,
        tensors,
        training,
    )
    from htf import decomposition as decomposition
    from htf import engine as engine
    from htf import linalg as linalg
    from htf import patches as patches
    from htf import tree as tree
    from htf.arrangement import arrange
    from htf.decomposition import (
        HierarchicalTucker,
        HTCompletion,
        HTStream,
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

__all__ = [
    "DimensionTree",
    "HTCompletion",
    "HTStream",
    "HTTensor",
    "HierarchicalTucker",
    "__version__",
    "apply",
    "arrange",
    "arrangement",
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

# Imported when first asked for: torch, TensorLy, matplotlib and scikit-learn take seconds, which the command's help or
# a program that needs one room of the library should not wait for.
_MODULES = {
    "arrangement",
    "datasets",
    "decomposition",
    "dynamics",
    "engine",
    "jobs",
    "linalg",
    "models",
    "nn",
    "patches",
    "plotting",
    "probes",
    "ranks",
    "regularizers",
    "surgery",
    "tensors",
    "training",
    "tree",
}
_ORIGINS = {
    "tree": ("DimensionTree",),
    "tensors": ("HTTensor", "load", "random_ht", "save"),
    "decomposition": (
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
    ),
    "arrangement": ("arrange",),
    "surgery": ("collapse", "factorize", "overparameterize", "truncate"),
}
_ORIGIN = {name: module for module, names in _ORIGINS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"htf.{name}")
    if name not in _ORIGIN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"htf.{_ORIGIN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_ORIGIN})
