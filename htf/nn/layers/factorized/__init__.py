"""Linear layers, convolutions and embeddings whose weights are factorized: matrix, CP, Tucker, TT and HT."""

from htf.nn.layers.factorized.convolution import FactorizedConv2d
from htf.nn.layers.factorized.embedding import FactorizedEmbedding
from htf.nn.layers.factorized.kernels import (
    FactorizedConv1d,
    FactorizedConv3d,
    FactorizedConvTranspose1d,
    FactorizedConvTranspose2d,
    FactorizedConvTranspose3d,
)
from htf.nn.layers.factorized.linear import FactorizedLinear

__all__ = [
    "FactorizedConv1d",
    "FactorizedConv2d",
    "FactorizedConv3d",
    "FactorizedConvTranspose1d",
    "FactorizedConvTranspose2d",
    "FactorizedConvTranspose3d",
    "FactorizedEmbedding",
    "FactorizedLinear",
]
