"""Layers with factorized weights: values, gradients, routes, starts."""

import pytest
import torch
from factorized_layer_cases import convolutions, dense, inputs_of, linears, warned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.factorized._routes import conv_route
from htf.nn.layers.factorized.choice import NAMES

ROUTES = {"reconstructed", "factor by factor"}


def routed(layer, route, monkeypatch):
    """The same layer, made to take a route."""
    monkeypatch.setattr("htf.nn.layers.factorized.linear.linear_route", lambda *_: route)
    number = {"reconstructed": None, "factor by factor": 0, "last": -1}[route]
    monkeypatch.setattr("htf.nn.layers.factorized.convolution.conv_route", lambda *_: number)


def check_route(layer, route):
    x = inputs_of(layer).requires_grad_()
    variables = [x, *layer.parameters()]
    weights = torch.randn(dense(layer, x).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((dense(layer, x) * weights).sum(), variables)
    with pytest.MonkeyPatch.context() as patch:
        routed(layer, route, patch)
        y = layer(x)
        torch.testing.assert_close(y, dense(layer, x), rtol=0, atol=1e-10)
        found = torch.autograd.grad((y * weights).sum(), variables)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@given(linears(), st.sampled_from(sorted(ROUTES)))
@settings(deadline=None, max_examples=40)
def test_linear_layers_are_their_weight_in_value_and_gradient(layer, route):
    assert layer.weight.shape == (layer.out_features, layer.in_features)
    check_route(layer, route)


@warned
@given(convolutions(), st.sampled_from([*sorted(ROUTES), "last"]))
@settings(deadline=None, max_examples=40)
def test_convolutions_are_their_kernel_in_value_and_gradient(layer, route):
    assert layer.weight.shape == (layer.out_channels, layer.in_channels, *layer.kernel_size)
    check_route(layer, route)


@warned
@given(st.one_of(linears(), convolutions()))
@settings(deadline=None, max_examples=40)
def test_plain_layers_have_the_same_outputs_and_no_more_numbers(layer):
    plain, x = layer.plain(), inputs_of(layer)
    torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.float().plain()(x.float()), layer(x.float()), rtol=0, atol=1e-5)
    parts = list(plain) if isinstance(plain, nn.Sequential) else [plain]
    assert {type(part) for part in parts} <= {nn.Linear, nn.Conv2d}
    size = sum(p.numel() for p in plain.parameters())
    assert size <= layer.plain_size
    assert len(parts) == 1 or size < layer.plain_size


@pytest.mark.parametrize(("name", "parts"), [("matrix", 2), ("cp", 4), ("tucker", 3), ("tt", 4), ("ht", 3)])
def test_small_convolutions_one_after_the_other(name, parts):
    layer = FactorizedConv2d(16, 12, 3, 2, 1, format=name, rank=2, seed=0)
    plain = layer.plain()
    assert len(plain) == parts
    assert [part.bias is None for part in plain] == [True] * (parts - 1) + [False]
    if name != "matrix":
        assert plain[0].kernel_size == plain[-1].kernel_size == (1, 1)
    if name == "cp":
        assert [part.groups for part in plain] == [1, 2, 2, 1]


@pytest.mark.parametrize("shape", [(3, 12), (12,), (2, 3, 12), (0, 12)])
@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_of_a_linear_layer(name, shape):
    layer = FactorizedLinear(12, 6, format=name, rank=0.2, seed=0)
    assert layer(torch.ones(shape)).shape == (*shape[:-1], 6)


def test_one_image_without_a_batch():
    layer = FactorizedConv2d(3, 4, 3, padding=1, padding_mode="reflect", format="cp", rank=2, seed=0)
    x = torch.randn(3, 6, 7)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


def test_the_cheaper_contraction_is_taken():
    # With rank 8: 2·(8·8 + 8·8)·n operations by factors, 2·8·8·8 + 2·8·8·n by the weight; equal at n = 8.
    layer = FactorizedLinear(8, 8, format="matrix", rank=8)
    assert layer.applies is None
    for batch, expected in ((7, "factor by factor"), (8, "reconstructed"), (9, "reconstructed")):
        layer(torch.zeros(batch, 8))
        assert layer.applies == expected


def test_the_cheaper_convolution_is_taken():
    # Per position of the output: by factors 3×3 to 7 channels and 1×1 to 8, 2·(9·4·7 + 7·8) = 616 operations, by the
    # kernel 2·9·4·8 = 576, and 2·9·4·7·8 = 4032 for the kernel itself; equal at 100.8 positions.
    layer = FactorizedConv2d(4, 8, 3, format="matrix", rank=7)
    for positions, expected in ((100, "factor by factor"), (101, "reconstructed")):
        layer(torch.zeros(1, 4, 3, positions + 2))
        assert layer.applies == expected
    # With padding there are as many positions as pixels.
    layer = FactorizedConv2d(4, 8, 3, padding=1, format="matrix", rank=7)
    layer(torch.zeros(1, 4, 3, 33))
    assert layer.applies == "factor by factor"
    layer(torch.zeros(1, 4, 3, 34))
    assert layer.applies == "reconstructed"
    # Of the two chains of a train, the one with its middle split: from the two together 9·6·6 numbers a position.
    layer = FactorizedConv2d(6, 6, 3, padding=1, format="tt", rank=(1, 6, 6, 6, 1))
    assert [len(chain) for chain in layer._layout.chains] == [3, 4]
    assert conv_route(layer._layout, layer.rank, layer._geometry, 1, (2, 2)) == 1


@pytest.mark.parametrize("batch", [1, 300])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_lowers_outputs_on_every_route(name, batch):
    linear, conv = FactorizedLinear(12, 8, format=name, rank=2, seed=0), FactorizedConv2d(6, 4, 3, format=name, rank=2)
    for layer, x in ((linear, torch.randn(batch, 12)), (conv, torch.randn(batch, 6, 3, 3))):
        weight = layer.weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.weight, weight)
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        torch.testing.assert_close(y.float(), dense(layer, x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear.double()(torch.zeros(batch, 12, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_one_graph(name):
    layers = FactorizedLinear(12, 8, format=name, rank=2, seed=0), FactorizedConv2d(4, 6, 3, format=name, rank=2)
    for layer, sample in zip(layers, ((12,), (4, 5, 5)), strict=True):
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
        for batch in (2, 5):
            x = torch.randn(batch, *sample)
            torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zeros_can_be_trained(name):
    for plain, kind in ((nn.Linear(12, 8), FactorizedLinear), (nn.Conv2d(4, 6, 3), FactorizedConv2d)):
        nn.init.zeros_(plain.weight)
        layer = kind.from_plain(plain, name, rank=2)
        assert not layer.weight.any()
        layer(inputs_of(layer).float()).square().sum().backward()
        assert layer.factors[0].grad.any()


def test_many_modes_do_not_take_long_to_plan():
    layer = FactorizedLinear(1024, 1024, rank=2, shape=((2,) * 10, (2,) * 10), seed=0, dtype=torch.float64)
    x = torch.randn(2, 1024, dtype=torch.float64)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=0, atol=1e-10)


def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match="on the meta device; expected one with values"):
        FactorizedLinear.from_plain(nn.Linear(4, 4, device="meta"), rank=2)


def test_shares_of_other_packages_count():
    layer = FactorizedLinear(12, 8, format="matrix", rank=6)
    assert layer.truncated(rank=torch.tensor(0.5)).rank == layer.truncated(rank=0.5).rank


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_numbers_that_are_not_real_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"dtype is {dtype}; expected real floating point"):
        FactorizedLinear(4, 4, rank=2, dtype=dtype)
    if dtype.is_complex:
        with pytest.raises(TypeError, match=r"dtype is torch.complex64; expected real"):
            FactorizedConv2d.from_plain(nn.Conv2d(2, 2, 3, dtype=dtype), rank=2)


def test_seeds():
    def weight(**options):
        return FactorizedLinear(12, 8, format="tt", rank=2, **options)

    first = weight(seed=3)
    assert torch.equal(first.weight, weight(seed=3).weight)
    assert torch.equal(first.bias, weight(seed=torch.Generator().manual_seed(3)).bias)
    assert not torch.equal(first.weight, weight(seed=4).weight)
    torch.testing.assert_close(weight(seed=3, dtype=torch.float64).weight.float(), first.weight)
    state = torch.get_rng_state()
    weight(seed=3)
    FactorizedLinear.from_plain(plain := nn.Linear(4, 4), rank=1)
    assert plain.bias.abs().max() <= 0.5
    torch.set_rng_state(state)
    unseeded = weight()
    torch.set_rng_state(state)
    assert torch.equal(unseeded.weight, weight().weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_start_has_the_variance_of_torchs_layers(name):
    layer = FactorizedConv2d(8, 16, 3, format=name, rank=5)
    generator, squares, biases = torch.Generator().manual_seed(0), [], []
    for _ in range(150):
        layer.reset_parameters(generator)
        squares.append(layer.weight.detach().square().mean())
        biases.append(layer.bias.detach().clone())
    squares = torch.stack(squares)
    assert abs(squares.mean() - 1 / (3 * 72)) < 4 * squares.std() / 150**0.5
    assert squares.std() / 150**0.5 < 0.1 / (3 * 72)
    biases = torch.cat(biases)
    assert biases.abs().max() <= 72**-0.5
    assert abs(biases.var() * 3 * 72 - 1) < 0.1


def test_a_layer_learns():
    torch.manual_seed(0)
    layer, target = (
        FactorizedLinear(12, 8, format="ht", rank=3, seed=0),
        FactorizedLinear(12, 8, format="ht", rank=2, seed=1),
    )
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    x = torch.randn(64, 12)
    y, losses = target(x).detach(), []
    for _ in range(100):
        loss = functional.mse_loss(layer(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
