"""Factorizations as torch modules, layers whose weights are factorized, and networks to compare them with."""

from htf.nn import init
from htf.nn.baselines import (
    DeepNetwork,
    FiniteSampleNetwork,
    ResNet,
    Stem,
    finite_sample_network,
    receptive_field,
    resnet18,
    small_resnet,
)
from htf.nn.layers import (
    FactorizedConv2d,
    FactorizedLinear,
    OverparamConv1d,
    OverparamConv2d,
    OverparamConv3d,
    OverparamLinear,
)
from htf.nn.networks import (
    ComponentGroup,
    ComponentRates,
    CPNetwork,
    Factorization,
    HTNetwork,
    MatrixFactorization,
    MatrixPlan,
    NormalLeaves,
    NormalNetwork,
)

__all__ = [
    "CPNetwork",
    "ComponentGroup",
    "ComponentRates",
    "DeepNetwork",
    "Factorization",
    "FactorizedConv2d",
    "FactorizedLinear",
    "FiniteSampleNetwork",
    "HTNetwork",
    "MatrixFactorization",
    "MatrixPlan",
    "NormalLeaves",
    "NormalNetwork",
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
