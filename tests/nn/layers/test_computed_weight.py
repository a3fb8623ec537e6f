"""The weight of a layer that computes it: nothing that is written to it is lost without a word."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune, vector_to_parameters

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.overparam import OverparamConv2d, OverparamLinear

LAYERS = {
    "deep": lambda **options: OverparamLinear(6, 5, depth=3, seed=0, **options),
    "deep convolution": lambda **options: OverparamConv2d(3, 4, 3, depth=2, seed=0, **options),
    "factorized": lambda **options: FactorizedLinear(12, 8, rank=2, seed=0, **options),
    "factorized convolution": lambda **options: FactorizedConv2d(3, 4, 3, format="tt", rank=2, seed=0, **options),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


def augmented(layer):
    w = layer.weight
    w += 1


def assigned_to_an_entry(layer):
    layer.weight[0] = 1.0


def assigned_to_data(layer):
    layer.weight.data = torch.zeros_like(layer.weight)


def assigned_to_entries_of_data(layer):
    layer.weight.data[0] = 1.0


def frozen(layer):
    layer.weight.requires_grad = False


WRITING = {
    "data": assigned_to_data,
    "entries of data": assigned_to_entries_of_data,
    "entry": assigned_to_an_entry,
    "augmented": augmented,
    "requires_grad": frozen,
    "requires_grad_": lambda layer: layer.weight.requires_grad_(False),
    "data.zero_": lambda layer: layer.weight.data.zero_(),
    "copy_": lambda layer: layer.weight.copy_(torch.zeros_like(layer.weight)),
    "mul_": lambda layer: layer.weight.mul_(2),
    "detach": lambda layer: layer.weight.detach().mul_(2),
    "view": lambda layer: layer.weight[0].mul_(2),
    "view of a view": lambda layer: layer.weight.detach()[0].unsqueeze(0).fill_(2),
    "init.normal_": lambda layer: nn.init.normal_(layer.weight),
    "init.zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "init.kaiming_uniform_": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "init.xavier_normal_": lambda layer: nn.init.xavier_normal_(layer.weight),
    "out": lambda layer: torch.mul(layer.weight.detach().clone(), 2, out=layer.weight.detach()),
    "relu": lambda layer: nn.functional.relu(layer.weight, inplace=True),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight.detach()], 2.0),
    "vector_to_parameters": lambda layer: vector_to_parameters(torch.zeros(layer.weight.numel()), [layer.weight]),
}


@pytest.mark.parametrize("how", WRITING)
def test_writing_to_it_is_refused_and_the_right_call_named(layer, how):
    before = copy.deepcopy(layer.state_dict())
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"computed from its factors .* call layer.set_weight\(weight\)"),
    ):
        WRITING[how](layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("make", [nn.Parameter, lambda weight: weight], ids=["parameter", "tensor"])
def test_so_is_assigning_it(layer, make):
    with pytest.raises(AttributeError, match=r"weight cannot be assigned: .* call layer.set_weight\(weight\)"):
        layer.weight = make(torch.zeros(layer.weight.shape))
    with pytest.raises(AttributeError, match="weight_orig cannot be registered"):
        prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match="does not have a parameter"):
        parametrize.register_parametrization(layer, "weight", nn.Identity())


def test_reading_it_gives_plain_tensors_with_gradients(layer):
    weight = layer.weight
    for result in (weight + 0, weight.clone(), weight.double(), weight.flatten(1) @ weight.flatten(1).T):
        assert type(result) is torch.Tensor
    weight.square().sum().backward()
    assert all(factor.grad is not None and factor.grad.any() for factor in layer.factors)
    # A copy, or what is written from it, is anyone's own.
    torch.zeros_like(weight).copy_(weight)
    weight.detach().clone().mul_(2)
    torch.testing.assert_close(weight, nn.Parameter(weight.detach().clone()))
    file = io.BytesIO()
    torch.save({"weight": weight.detach()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["weight"]
    assert type(loaded) is torch.Tensor
    torch.testing.assert_close(copy.deepcopy(layer).weight, weight)


def test_one_factor_is_a_parameter_like_any_other():
    layer = OverparamLinear(3, 2, depth=1, seed=0)
    with torch.no_grad():
        layer.weight.fill_(2)
    assert bool((layer.factors[0] == 2).all())


def test_the_bias_that_batch_normalization_shifts_is_computed_too():
    layer = OverparamLinear(3, 2, batch_norm=True, seed=0)
    with torch.no_grad(), pytest.raises(RuntimeError, match="the effective bias of OverparamLinear is computed"):
        layer.effective_bias.zero_()


def draw(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"residual": 1, "width": 6}], ids=str)
def test_set_weight_of_deep_layers(options):
    layer = OverparamLinear(6, 6, depth=2, seed=0, **options)
    if layer.batch_norm:
        layer(draw((20, 6)) + 1)  # statistics that are not those of the start
        torch.nn.init.normal_(layer.norms[0].bias)
    layer.eval()
    factors, bias, weight = list(layer.factors), layer.effective_bias.detach().clone(), draw((6, 6))
    assert layer.set_weight(weight) < 1e-5
    torch.testing.assert_close(layer.weight, weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.effective_bias, bias, rtol=1e-4, atol=1e-5)
    assert all(ours is theirs for ours, theirs in zip(layer.factors, factors, strict=True))
    torch.testing.assert_close(
        layer(draw((3, 6))), nn.functional.linear(draw((3, 6)), weight, bias), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("format", ["ht", "tt", "tucker", "cp", "matrix"])
def test_set_weight_of_factorized_layers(format):
    layer = FactorizedLinear(36, 24, format=format, rank=3, seed=0)
    other = FactorizedLinear(36, 24, format=format, rank=2, seed=5)
    ranks = layer.rank
    tol = 1e-3 if format == "cp" else 1e-5
    assert layer.set_weight(other.weight) < tol
    torch.testing.assert_close(layer.weight, other.weight.detach(), rtol=0, atol=10 * tol)
    assert layer.rank == ranks
    # Ranks that the weight does not need are not dead: of two neighbours, gradients reach one at least.
    (layer.weight - draw((24, 36), seed=2)).square().sum().backward()
    reached = [bool((factor.grad != 0).flatten(0, -2).any(0).all()) for factor in layer.factors if factor.shape[-1] > 1]
    assert any(reached)
    # More than the ranks can hold: the distance is told.
    weight = draw((24, 36))
    error = layer.set_weight(weight)
    assert error == pytest.approx(float((layer.weight.detach() - weight).norm() / weight.norm()), rel=1e-4)
    assert 0.05 < error < 1


def test_set_weight_refuses_what_is_none(layer):
    shape = tuple(layer.weight.shape)
    with pytest.raises(TypeError, match="weight is a list; expected a tensor"):
        layer.set_weight([1.0])
    with pytest.raises(TypeError, match=r"weight has dtype torch\.complex64; expected real numbers"):
        layer.set_weight(torch.zeros(shape, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"weight has shape \(1, 1\); expected"):
        layer.set_weight(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="not finite"):
        layer.set_weight(torch.full(shape, torch.nan))
    with pytest.raises(ValueError, match="meta device"):
        layer.set_weight(torch.empty(shape, device="meta"))


def test_a_rank_that_the_widths_cannot_hold_is_refused():
    layer = OverparamLinear(6, 5, width=2, seed=0)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="width is 2; expected at least 5, the rank of the weight"):
        layer.set_weight(draw((5, 6)))
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("convolution", [True, False])
def test_the_state_of_a_plain_layer_in_a_factorized_one(strict, convolution):
    plain = nn.Conv2d(3, 4, 3) if convolution else nn.Linear(12, 8)
    layer = LAYERS["factorized convolution" if convolution else "factorized"]()
    model, state = nn.Sequential(layer), nn.Sequential(plain).state_dict()
    kind = type(layer).__name__
    with pytest.raises(RuntimeError, match=f"0.weight is that of a plain layer, which a {kind} .*{kind}.from_plain"):
        model.load_state_dict(state, strict=strict)


def test_the_state_of_a_plain_layer_in_a_deep_one():
    plain = nn.Linear(6, 5)
    layer = LAYERS["deep"]()
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer.weight, plain.weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: it is \(4, 6\); expected \(5, 6\)"):
        layer.load_state_dict(nn.Linear(6, 4, bias=False).state_dict(), strict=False)
