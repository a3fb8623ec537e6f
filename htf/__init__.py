"""Tensor factorizations as networks: CP and hierarchical tensor modelling on TensorLy and PyTorch."""

from htf import nn
from htf.tree import DimensionTree

__version__ = "0.1.0"

__all__ = ["DimensionTree", "nn"]
