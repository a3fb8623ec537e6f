"""Layers to put in the place of plain ones: over-parameterized, and with factorized weights."""

from htf.nn.layers.factorized import (
    FactorizedConv1d,
    FactorizedConv2d,
    FactorizedConv3d,
    FactorizedConvTranspose1d,
    FactorizedConvTranspose2d,
    FactorizedConvTranspose3d,
    FactorizedEmbedding,
    FactorizedLinear,
)
from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

__all__ = [
    "FactorizedConv1d",
    "FactorizedConv2d",
    "FactorizedConv3d",
    "FactorizedConvTranspose1d",
    "FactorizedConvTranspose2d",
    "FactorizedConvTranspose3d",
    "FactorizedEmbedding",
    "FactorizedLinear",
    "OverparamConv1d",
    "OverparamConv2d",
    "OverparamConv3d",
    "OverparamLinear",
]
