"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

# Set before the imports below: results record it.
__version__ = "0.1.0"

from htf import datasets, nn, probes, training
from htf.tensors import HTTensor, random_ht
from htf.tree import DimensionTree

__all__ = ["DimensionTree", "HTTensor", "datasets", "nn", "probes", "random_ht", "training"]
