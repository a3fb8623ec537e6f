"""Layers to put in the place of plain ones: over-parameterized, and with factorized weights."""

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

__all__ = [
    "FactorizedConv2d",
    "FactorizedLinear",
    "OverparamConv1d",
    "OverparamConv2d",
    "OverparamConv3d",
    "OverparamLinear",
]
