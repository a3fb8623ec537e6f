"""Linear layers and convolutions whose weights are factorized: matrix, CP, Tucker, TT and HT."""

from htf.nn.layers.factorized.convolution import FactorizedConv2d
from htf.nn.layers.factorized.linear import FactorizedLinear

__all__ = ["FactorizedConv2d", "FactorizedLinear"]
