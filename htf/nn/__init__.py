"""Factorizations as torch modules, layers whose weights are factorized, and networks to compare them with."""

from htf.nn import init
from htf.nn.cp import CPNetwork
from htf.nn.deep import DeepNetwork
from htf.nn.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.finite_sample import FiniteSampleNetwork, finite_sample_network
from htf.nn.ht import HTNetwork
from htf.nn.matrix import MatrixFactorization, MatrixPlan
from htf.nn.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear
from htf.nn.receptive import receptive_field
from htf.nn.resnet import ResNet, Stem, resnet18, small_resnet

__all__ = [
    "CPNetwork",
    "DeepNetwork",
    "FactorizedConv2d",
    "FactorizedLinear",
    "FiniteSampleNetwork",
    "HTNetwork",
    "MatrixFactorization",
    "MatrixPlan",
    "OverparamConv1d",
    "OverparamConv2d",
    "OverparamConv3d",
    "OverparamLinear",
    "ResNet",
    "Stem",
    "finite_sample_network",
    "init",
    "receptive_field",
    "resnet18",
    "small_resnet",
]
