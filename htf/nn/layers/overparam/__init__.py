"""Over-parameterized layers: linear layers and convolutions that are products of several."""

from htf.nn.layers.overparam.layers import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

__all__ = ["OverparamConv1d", "OverparamConv2d", "OverparamConv3d", "OverparamLinear"]
