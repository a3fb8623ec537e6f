"""Factorizations as networks: CP, hierarchical tensor and matrix factorization."""

from htf.nn.networks.cp import CPNetwork
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.matrix import MatrixFactorization, MatrixPlan

__all__ = ["CPNetwork", "HTNetwork", "MatrixFactorization", "MatrixPlan"]
