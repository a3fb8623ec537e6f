"""Factorizations as torch modules, and residual networks to compare them with."""

from htf.nn import init
from htf.nn.cp import CPNetwork
from htf.nn.ht import HTNetwork
from htf.nn.matrix import MatrixFactorization, MatrixPlan
from htf.nn.receptive import receptive_field
from htf.nn.resnet import ResNet, Stem, resnet18, small_resnet

__all__ = [
    "CPNetwork",
    "HTNetwork",
    "MatrixFactorization",
    "MatrixPlan",
    "ResNet",
    "Stem",
    "init",
    "receptive_field",
    "resnet18",
    "small_resnet",
]
