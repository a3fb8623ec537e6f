"""Linear layers and convolutions whose weights are factorized: matrix, CP, Tucker, TT and HT."""

from htf.nn.factorized.layers import FactorizedConv2d, FactorizedLinear

__all__ = ["FactorizedConv2d", "FactorizedLinear"]
