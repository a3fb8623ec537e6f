"""Factorizations as torch modules."""

from htf.nn import init
from htf.nn.cp import CPNetwork
from htf.nn.ht import HTNetwork
from htf.nn.matrix import MatrixFactorization, MatrixPlan

__all__ = ["CPNetwork", "HTNetwork", "MatrixFactorization", "MatrixPlan", "init"]
