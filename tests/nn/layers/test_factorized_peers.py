"""Factorized layers beside those of tensorly-torch."""

import importlib.util
import warnings

import pytest
import tensorly as tl
import torch

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear


def tltorch():
    if importlib.util.find_spec("tltorch") is None:
        pytest.skip("tensorly-torch is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Leaves TensorLy's backend to the other tests as it was.
        import htf.tltorch  # noqa: F401

        return importlib.import_module("tltorch")


def test_a_cp_layer_is_that_of_tensorly_torch():
    peer = tltorch()
    ours = FactorizedLinear(24, 12, format="cp", rank=5, shape=((3, 4), (4, 6)), seed=0)
    with tl.backend_context("pytorch"):
        theirs = peer.FactorizedLinear((4, 6), (3, 4), factorization="cp", rank=5, implementation="reconstructed")
    theirs.weight.weights.data.fill_(1)
    for mine, factor in zip(theirs.weight.factors, ours.factors, strict=True):
        mine.data.copy_(factor)
    theirs.bias.data.copy_(ours.bias)
    x = torch.randn(5, 24)
    with tl.backend_context("pytorch"):
        expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_a_tucker_convolution_is_that_of_tensorly_torch():
    peer = tltorch()
    ours = FactorizedConv2d(4, 6, 3, stride=2, padding=1, format="tucker", rank=(3, 2, 2, 2), seed=0)
    options = {"stride": 2, "padding": 1, "bias": True, "implementation": "reconstructed"}
    with tl.backend_context("pytorch"):
        theirs = peer.FactorizedConv(4, 6, (3, 3), factorization="tucker", rank=(3, 2, 2, 2), **options)
    core, *matrices = ours.factors
    theirs.weight.core.data.copy_(core)
    for mine, factor in zip(theirs.weight.factors, matrices, strict=True):
        mine.data.copy_(factor)
    theirs.bias.data.copy_(ours.bias)
    x = torch.randn(2, 4, 9, 8)
    with tl.backend_context("pytorch"):
        expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)
