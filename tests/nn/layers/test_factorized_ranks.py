"""Factorized layers made from trained ones, and cut to lower ranks."""

import copy

import pytest
import torch
from factorized_layer_cases import SVD_FORMATS, convolutions, dense, inputs_of, linears, warned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.factorized.choice import NAMES


@pytest.mark.parametrize("name", SVD_FORMATS)
def test_a_trained_layer_at_full_rank_is_the_same(name):
    for plain, kind in ((nn.Linear(12, 8), FactorizedLinear), (nn.Conv2d(4, 3, (3, 2), padding=1), FactorizedConv2d)):
        plain = plain.double()
        ours = kind.from_plain(plain, name, energy=1.0)
        x = inputs_of(ours)
        torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_measures_are_held(name):
    torch.manual_seed(0)
    for plain, kind in ((nn.Linear(12, 8).double(), FactorizedLinear), (nn.Conv2d(4, 3, 3).double(), FactorizedConv2d)):
        total = plain.weight.square().sum()
        ours = kind.from_plain(plain, name, energy=0.6)
        assert (ours.weight - plain.weight).square().sum() <= 0.4 * total
        for wanted in ({"size": 50}, {"rank": 0.5}):
            ours = kind.from_plain(plain, name, **wanted)
            most = wanted.get("size", plain.weight.numel() // 2)
            assert sum(f.numel() for f in ours.factors) <= most
            assert (ours.weight - plain.weight).square().sum() < total
        ours = kind.from_plain(plain, name, rank=2)
        assert max(ours.rank) == 2


def test_a_trained_layer_passes_on_all_but_its_weight():
    plain = nn.Conv2d(4, 6, 3, stride=2, padding="valid", dilation=2, padding_mode="circular", dtype=torch.bfloat16)
    plain.weight.requires_grad_(False)
    plain.eval()
    ours = FactorizedConv2d.from_plain(plain, "tucker", rank=2)
    assert not ours.training
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert [p.requires_grad for p in ours.factors] == [False] * 5
    assert ours.bias.requires_grad
    assert ours.bias is not plain.bias
    assert torch.equal(ours.bias, plain.bias)
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ):
        assert getattr(ours, name) == getattr(plain, name)
    for again in (ours.truncated(rank=1), ours.plain()):
        assert not again.training
    small = ours.truncated(rank=1)
    assert torch.equal(small.bias, plain.bias)
    assert not any(p.requires_grad for p in small.factors)
    assert all(p.requires_grad == (name[-4:] == "bias") for name, p in ours.plain().named_parameters())
    bare = FactorizedLinear.from_plain(nn.Linear(4, 6, bias=False), rank=2)
    assert bare.bias is None
    assert bare.truncated(tol=0.5).bias is None
    assert bare.plain().bias is None
    assert bare.plain_size == 24


@warned
@given(st.one_of(linears(), convolutions()), st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
def test_truncation_holds_its_tolerance_and_never_grows(layer, tol):
    small = layer.truncated(tol=tol)
    assert type(small) is type(layer)
    assert (small.weight - layer.weight).norm() <= (tol + 1e-9) * layer.weight.norm()
    assert all(r <= own for r, own in zip(small.rank, layer.rank, strict=True))
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in layer.parameters())
    x = inputs_of(layer)
    torch.testing.assert_close(small(x), dense(small, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_truncation_to_ranks_and_shares(name):
    layer = FactorizedConv2d(8, 8, 3, format=name, rank=4, seed=0)
    small = layer.truncated(rank=2)
    assert max(small.rank) == 2
    assert sum(f.numel() for f in layer.truncated(rank=0.2).factors) <= 0.2 * 8 * 8 * 9
    assert max(layer.truncated(rank=1e-6).rank) == 1
    for same in (layer.truncated(rank=10**6), layer.truncated(rank=1.0)):
        assert all(map(torch.equal, same.factors, layer.factors))
        assert same.factors[0] is not layer.factors[0]


@pytest.mark.parametrize("name", NAMES)
def test_truncation_finds_what_is_redundant(name):
    layer = FactorizedConv2d(6, 6, 3, format=name, rank=2, seed=0, dtype=torch.float64)
    large = FactorizedConv2d.from_plain(layer.plain() if name == "none" else merged(layer), name, rank=4)
    small = large.truncated(tol=1e-2)
    assert max(small.rank) <= 3
    assert (small.weight - layer.weight).norm() <= 2e-2 * layer.weight.norm()


def merged(layer):
    plain = nn.Conv2d(6, 6, 3, dtype=torch.float64)
    plain.weight.data, plain.bias.data = layer.weight.detach().clone(), layer.bias.detach().clone()
    return plain


@pytest.mark.parametrize("name", NAMES)
def test_states_load_into_a_layer_of_the_same_rank(name):
    plain = nn.Linear(20, 12)
    for layer in (
        FactorizedLinear.from_plain(plain, name, rank=0.6),
        FactorizedLinear.from_plain(plain, name, rank=0.4),
    ):
        small = layer.truncated(rank=0.3)
        shape = None if name == "matrix" else small.shape
        again = FactorizedLinear(20, 12, format=name, rank=small.rank, shape=shape)
        again.load_state_dict(small.state_dict())
        assert torch.equal(again.weight, small.weight)
        twin = copy.deepcopy(small)
        assert torch.equal(twin.weight, small.weight)
        twin.to(torch.float64)
        assert twin.weight.dtype == torch.float64
        assert twin(torch.zeros(2, 20, dtype=torch.float64)).dtype == torch.float64
