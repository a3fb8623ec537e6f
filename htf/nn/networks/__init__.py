"""Factorizations as networks: CP, hierarchical tensor and matrix factorization, and what a further one provides."""

from htf.nn.networks.base import Factorization
from htf.nn.networks.components import ComponentGroup, ComponentRates
from htf.nn.networks.cp import CPNetwork
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.matrix import MatrixFactorization
from htf.nn.networks.matrix_plan import MatrixPlan
from htf.nn.networks.normal_leaves import NormalLeaves, NormalNetwork

__all__ = [
    "CPNetwork",
    "ComponentGroup",
    "ComponentRates",
    "Factorization",
    "HTNetwork",
    "MatrixFactorization",
    "MatrixPlan",
    "NormalLeaves",
    "NormalNetwork",
]
