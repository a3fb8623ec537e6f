"""Over-parameterized layers: what they compute, and what gradients reach their factors."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overparam_cases import layers, plain_twin, shaken
from torch import nn
from torch.nn.functional import conv2d, linear

from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

# torch warns of what "same" does with even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

FEW = settings(deadline=None, max_examples=40)
SOME = settings(deadline=None, max_examples=25)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@FEW
@given(layers())
def test_the_effective_weight_computes_what_the_chain_does(case):
    layer, x = case
    shaken(layer).eval()
    close(layer(x), layer.chain(x))
    assert layer.weight.shape == plain_twin(layer).weight.shape
    assert layer.chain(x).shape == plain_twin(layer)(x).shape


@FEW
@given(layers(batch_norm=False), st.booleans())
def test_gradients_of_the_effective_weight_are_those_of_the_chain(case, training):
    layer, x = case
    layer.train(training)
    x.requires_grad_()
    target = torch.cos(torch.arange(layer(x).numel(), dtype=x.dtype)).view_as(layer(x))
    wanted = [x, *layer.parameters()]
    own = torch.autograd.grad((layer(x) * target).sum(), wanted)
    chain = torch.autograd.grad((layer.chain(x) * target).sum(), wanted)
    for a, b in zip(own, chain, strict=True):
        close(a, b, 1e-9)


@SOME
@given(layers(batch_norm=True))
def test_gradients_through_folded_batch_normalization(case):
    layer, x = case
    shaken(layer).eval()
    wanted = list(layer.parameters())
    own = torch.autograd.grad(layer(x).square().sum(), wanted)
    chain = torch.autograd.grad(layer.chain(x).square().sum(), wanted)
    for a, b in zip(own, chain, strict=True):
        close(a, b, 1e-8)


@SOME
@given(layers(dtype=torch.float32))
def test_plain_changes_nothing_after_some_training(case):
    layer, x = case
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=0.9)
    trains = not layer.batch_norm or layer.chain(torch.cat([x] * 2)).numel() > 1
    for _ in range(4 if trains else 0):
        optimizer.zero_grad()
        layer(torch.cat([x, x.flip(0) * 2])).square().mean().backward()
        optimizer.step()
    layer.eval()
    plain = layer.plain()
    bound = 1e-5 * max(1, float(layer(x).detach().abs().max()))
    assert (plain(x) - layer(x)).abs().max() < bound
    kinds = {type(module) for module in plain.modules()} - {nn.Sequential}
    assert kinds <= {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d}
    assert sum(p.numel() for p in plain.parameters() if p.ndim > 1) <= layer.weight.numel()


def test_a_product_of_matrices_by_hand():
    layer = OverparamLinear(3, 2, depth=3, width=(4, 5), residual=(), seed=0, dtype=torch.float64)
    first, second, third = layer.factors
    x = torch.randn(7, 3, dtype=torch.float64)
    close(layer.weight, third @ second @ first)
    close(layer(x), x @ first.T @ second.T @ third.T + layer.bias)


def test_residual_connections_by_hand():
    layer = OverparamLinear(3, 3, False, depth=4, residual=(2, -1), seed=0, dtype=torch.float64)
    a, b, c, d = layer.factors
    eye = torch.eye(3, dtype=torch.float64)
    close(layer.weight, (d @ c + eye) @ (b @ a + eye) + eye)
    crossing = OverparamLinear(3, 3, False, depth=3, residual=(2, 1), seed=0, dtype=torch.float64)
    a, b, c = crossing.factors
    close(crossing.weight, (c + eye) @ ((b + eye) @ (a + eye) + eye))
    crossing = OverparamLinear(3, 3, False, depth=6, residual=(2, 3), seed=0, dtype=torch.float64)
    states = [eye]
    for m, factor in enumerate(crossing.factors, 1):
        states.append(factor @ states[-1] + sum(states[m - n] for n in (2, 3) if m % n == 0))
    close(crossing.weight, states[-1])


def test_a_strided_convolution_of_several_kernels_by_hand():
    layer = OverparamConv2d(
        2, 4, 5, stride=2, padding=1, dilation=2, groups=2, depth=3, width=6, kernel_sizes=(3, 3, 1), seed=0
    )
    x = torch.randn(2, 2, 14, 15)
    first, second, third = layer.factors
    y = conv2d(x, first, padding=1, dilation=2, groups=2)
    y = conv2d(conv2d(y, second, stride=2, dilation=2, groups=2), third, layer.bias, groups=2)
    close(layer(x), y, 1e-4)
    assert layer.widths == (6, 6)


def test_a_strided_residual_block_takes_every_other_pixel():
    layer = OverparamConv2d(3, 3, 3, stride=2, padding=1, bias=False, residual=-1, seed=0)
    with torch.no_grad():
        for factor in layer.factors:
            factor.zero_()
    x = torch.randn(2, 3, 8, 8)
    close(layer(x), x[:, :, ::2, ::2])
    close(layer.chain(x), x[:, :, ::2, ::2])


def test_states_are_those_between_the_factors():
    layer = OverparamConv1d(2, 3, 3, padding=1, depth=3, width=5, seed=0)
    states = layer.states(torch.randn(4, 2, 9))
    assert [tuple(s.shape) for s in states] == [(4, 2, 11), (4, 5, 9), (4, 5, 9), (4, 3, 9)]


def test_inputs_without_a_batch():
    x = torch.randn(3, 8, 8)
    for batch_norm in (False, True):
        layer = shaken(OverparamConv2d(3, 4, 3, residual=(), batch_norm=batch_norm, seed=0)).eval()
        close(layer(x), layer(x[None])[0], 1e-5)
        close(layer.chain(x), layer(x), 1e-5)


def test_batch_normalization_trains_the_chain_and_is_folded_in_evaluation():
    layer, x = OverparamLinear(4, 3, depth=2, batch_norm=True, seed=0, dtype=torch.float64), torch.randn(50, 4).double()
    first, second = (norm.requires_grad_() for norm in copy.deepcopy(layer.norms))
    expected = second(linear(first(linear(x, layer.factors[0])), layer.factors[1])) + layer.bias
    close(layer(x), expected)
    close(layer.norms[0].running_mean, first.running_mean)
    layer.eval()
    close(layer(x), linear(x, layer.weight, layer.effective_bias))
    assert layer.training_path == "chain"
    assert "training_path=chain" in repr(layer)
    assert OverparamLinear(4, 3).training_path == "effective weight"
    assert "training_path=effective weight" in repr(OverparamConv3d(1, 1, 1))


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda seed: OverparamLinear(60, 40, depth=1, seed=seed), 60),
        (lambda seed: OverparamLinear(60, 40, depth=3, width=(50, 30), seed=seed), 60),
        (lambda seed: OverparamConv2d(16, 24, 3, depth=4, seed=seed), 144),
        (lambda seed: OverparamConv2d(16, 24, 3, depth=2, groups=4, width=48, seed=seed), 36),
        (lambda seed: OverparamConv2d(12, 12, 5, depth=3, kernel_sizes=(3, 1, 3), seed=seed), 300),
    ],
)
def test_entries_of_the_product_have_the_variance_of_the_plain_layer(make, fan_in):
    made = [make(seed) for seed in range(40)]
    variance = torch.stack([layer.weight.detach() for layer in made]).square().mean()
    assert float(variance) * 3 * fan_in == pytest.approx(1, abs=0.1)
    bias = torch.cat([layer.bias.detach() for layer in made])
    assert float(bias.square().mean()) * 3 * fan_in == pytest.approx(1, abs=0.15)
    assert float(bias.abs().max()) <= fan_in**-0.5
    norms = torch.stack([torch.stack([f.detach().square().sum() for f in layer.factors]) for layer in made]).mean(0)
    torch.testing.assert_close(norms / norms.mean(), torch.ones_like(norms), rtol=0.1, atol=0)


def test_seeds():
    first, second = (OverparamConv2d(3, 4, 3, batch_norm=True, seed=7) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.weight, OverparamConv2d(3, 4, 3, seed=8).weight)
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(OverparamConv2d(3, 4, 3, seed=generator).factors[0], first.factors[0])
    assert not torch.equal(OverparamConv2d(3, 4, 3, seed=generator).factors[0], first.factors[0])
    before = torch.get_rng_state()
    OverparamLinear(3, 2, seed=0).truncated(rank=1)
    assert torch.equal(torch.get_rng_state(), before)
    OverparamLinear(3, 2)
    assert not torch.equal(torch.get_rng_state(), before)
    double = OverparamLinear(3, 2, seed=7, dtype=torch.float64)
    assert torch.equal(double.factors[0].float(), OverparamLinear(3, 2, seed=7).factors[0])
    again = OverparamLinear(3, 2, seed=1)
    again.reset_parameters(7)
    assert torch.equal(again.weight, OverparamLinear(3, 2, seed=7).weight)


def test_drops_in_for_the_plain_layer():
    layer = OverparamConv2d(4, 6, (3, 1), 2, "valid", groups=2, padding_mode="reflect", depth=3)
    for name, value in vars(nn.Conv2d(4, 6, (3, 1), 2, "valid", groups=2, padding_mode="reflect")).items():
        if not name.startswith("_") and name not in ("transposed", "output_padding"):
            assert getattr(layer, name) == value, name
    assert layer.widths == (6, 6)
    assert layer.plain_size == 6 * 2 * 3 + 6
    assert OverparamConv2d(4, 16, 3, depth=3, kernel_sizes=(1, 3, 1)).widths == (4, 16)


def test_copies_conversions_and_functional_calls():
    layer = OverparamConv2d(3, 4, 3, depth=3, residual=(), seed=0)
    x = torch.randn(2, 3, 6, 6)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), layer(x))
        assert copied.factors[0].data_ptr() != layer.factors[0].data_ptr()
    state = {name: value.detach() * 2 for name, value in layer.state_dict().items()}
    moved = torch.func.functional_call(layer, state, (x,))
    bias = layer.bias.view(-1, 1, 1)
    close(moved, 8 * (layer(x) - bias) + 2 * bias, 1e-4)
    for dtype, tol in ((torch.float64, 1e-6), (torch.bfloat16, 0.1)):
        converted = copy.deepcopy(layer).to(dtype)
        assert converted.weight.dtype == converted.plain().weight.dtype == dtype
        close(converted(x.to(dtype)).float(), layer(x), tol)
    meta = OverparamLinear(3, 4, device="meta")
    assert meta.weight.shape == (4, 3)
    assert meta.weight.is_meta


@pytest.mark.parametrize("batch_norm", [False, True])
def test_autocast_composes_in_the_dtype_of_the_factors(batch_norm):
    layer, x = OverparamLinear(8, 8, depth=4, batch_norm=batch_norm, seed=0), torch.randn(5, 8)
    layer.eval()
    weight, bias = layer.weight, layer.effective_bias
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, weight)
        assert torch.equal(layer.effective_bias, bias)
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("residual", [(), (1, -1)])
def test_compiles_to_one_graph(residual):
    layer = OverparamConv2d(4, 4, 3, padding=1, depth=3, residual=residual, seed=0)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(2, 4, 6, 6)
    close(compiled(x), layer(x), 1e-6)
