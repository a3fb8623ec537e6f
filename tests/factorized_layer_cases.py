"""Layers with factorized weights, drawn at random, and what they stand for."""

import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.factorized.choice import NAMES

SVD_FORMATS = [name for name in NAMES if name != "cp"]


# torch warns of what "same" does with even kernels.
warned = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@st.composite
def linears(draw):
    options = {"format": draw(st.sampled_from(NAMES)), "rank": draw(st.sampled_from([1, 0.1, 0.5, 1.0]))}
    features = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    return FactorizedLinear(
        *features, draw(st.booleans()), **options, seed=draw(st.integers(0, 9)), dtype=torch.float64
    )


@st.composite
def convolutions(draw):
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {"format": draw(st.sampled_from(NAMES)), "rank": draw(st.sampled_from([1, 0.1, 0.5, 1.0]))}
    padding = draw(st.sampled_from([0, 1, (2, 1), "same", "valid"]))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (1, 3)]))
    return FactorizedConv2d(
        draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        kernel,
        stride,
        padding,
        draw(st.sampled_from([1, 2, (2, 1)])),
        1,
        draw(st.booleans()),
        draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        **options,
        seed=draw(st.integers(0, 9)),
        dtype=torch.float64,
    )


def inputs_of(layer, batch=2, image=(7, 8)):
    shape = (layer.in_features,) if isinstance(layer, FactorizedLinear) else (layer.in_channels, *image)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense(layer, x):
    """What torch's own layer does with the weight."""
    if isinstance(layer, FactorizedLinear):
        return functional.linear(x, layer.weight, layer.bias)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    spec = nn.Conv2d(1, 1, layer.kernel_size, **{name: getattr(layer, name) for name in names}, device="meta")
    return spec._conv_forward(x, layer.weight, layer.bias)
