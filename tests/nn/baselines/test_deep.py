"""Batched deep networks against networks one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from htf.nn.baselines.deep import ACTIVATIONS, DeepNetwork

TORCH = {"linear": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}


def alone(net, run):
    """One run as torch's own modules."""
    layers = []
    for layer, weight in enumerate(net.weights):
        linear = nn.Linear(weight.shape[2], weight.shape[1], bias=len(net.biases) > 0, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[run])
            if len(net.biases):
                linear.bias.copy_(net.biases[layer][run])
        layers += [linear, TORCH[net.activation]()]
    return nn.Sequential(*layers[:-1])


@settings(max_examples=25, deadline=None)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    depth=st.integers(1, 5),
    width=st.integers(1, 6),
    runs=st.integers(1, 3),
    bias=st.booleans(),
    own=st.booleans(),
)
def test_outputs_features_and_gradients_are_those_of_each_net_alone(activation, depth, width, runs, bias, own):
    net = DeepNetwork(4, 3, depth, width, activation=activation, runs=runs, bias=bias, seed=0, dtype=torch.float64)
    with torch.no_grad():
        for b in net.biases:
            b.normal_(generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    x = torch.randn(*((runs,) if own else ()), 5, 4, generator=g, dtype=torch.float64)
    out, features = net(x), net.features(x)
    assert out.shape == (runs, 5, 3)
    assert features.shape == (runs, 5, width if depth > 1 else 4)
    out.square().sum().backward()
    for run in range(runs):
        single = alone(net, run)
        mine = x[run] if own else x
        expected = single(mine)
        torch.testing.assert_close(out[run], expected)
        torch.testing.assert_close(features[run], single[:-1](mine))
        expected.square().sum().backward()
        for layer, linear in enumerate(single[::2]):
            torch.testing.assert_close(net.weights[layer].grad[run], linear.weight.grad)
            if bias:
                torch.testing.assert_close(net.biases[layer].grad[run], linear.bias.grad)


@pytest.mark.parametrize("init", ["normal", "uniform", "orthogonal"])
def test_a_run_starts_as_it_would_alone(init):
    both = DeepNetwork(4, 3, 3, 5, runs=2, init=init, seed=[7, 8])
    single = DeepNetwork(4, 3, 3, 5, init=init, seed=8)
    other = DeepNetwork(4, 3, 3, 5, init=init, seed=9)
    for many, one, different in zip(both.weights, single.weights, other.weights, strict=True):
        assert torch.equal(many[1], one[0])
        assert not torch.equal(many[1], different[0])
    both.reset_parameters(init, [8, 7])
    assert torch.equal(both.weights[0][0], single.weights[0][0])


def test_runs_of_one_seed_or_generator_differ():
    net = DeepNetwork(4, 3, 2, 5, runs=2, seed=0)
    assert not torch.equal(net.weights[0][0], net.weights[0][1])
    again = DeepNetwork(4, 3, 2, 5, runs=2, seed=torch.Generator().manual_seed(0))
    assert torch.equal(net.weights[1], again.weights[1])


def test_no_seed_is_torchs_own_generator():
    state = torch.get_rng_state()
    first = DeepNetwork(4, 3, 2, 5)
    torch.set_rng_state(state)
    assert torch.equal(first.weights[0], DeepNetwork(4, 3, 2, 5).weights[0])


@pytest.mark.parametrize("init", ["normal", "uniform", "orthogonal"])
@pytest.mark.parametrize(("activation", "gain"), [("linear", 1.0), ("relu", 2.0), ("tanh", 1.0)])
def test_variance_of_entries(init, activation, gain):
    net = DeepNetwork(30, 60, 3, 40, activation=activation, runs=40, init=init, seed=0)
    for parameter, expected in zip(net.weights, (gain / 30, gain / 40, 1 / 40), strict=True):
        weight = parameter.detach()
        assert float(weight.var()) == pytest.approx(expected, rel=0.05)
        assert abs(float(weight.mean())) < 5 * (expected / weight.numel()) ** 0.5
    if init == "uniform":
        assert float(net.weights[0].detach().abs().max()) <= (3 * gain / 30) ** 0.5


@pytest.mark.parametrize(("inputs", "width"), [(6, 6), (3, 6), (6, 3)])
def test_orthogonal_layers(inputs, width):
    net = DeepNetwork(inputs, 2, 2, width, init="orthogonal", runs=2, seed=0, dtype=torch.float64)
    weight = net.weights[0].detach() * min(inputs / width, 1) ** 0.5
    product = weight.mT @ weight if width >= inputs else weight @ weight.mT
    torch.testing.assert_close(product, torch.eye(min(inputs, width), dtype=torch.float64).expand(2, -1, -1))


def test_end_matrices_are_the_linear_maps():
    net = DeepNetwork(4, 3, 4, 5, runs=3, seed=0, dtype=torch.float64)
    torch.testing.assert_close(net.end_matrices().mT, net(torch.eye(4, dtype=torch.float64)))
    assert net.end_matrices().requires_grad
    with pytest.raises(ValueError, match="the network is relu; only linear ones"):
        DeepNetwork(4, 3, 2, 5, activation="relu").end_matrices()
    with pytest.raises(ValueError, match="the network is linear with biases"):
        DeepNetwork(4, 3, 2, 5, bias=True).end_matrices()


def test_an_elementwise_optimizer_trains_each_net_as_alone():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    both = DeepNetwork(4, 2, 3, 5, activation="relu", runs=2, seed=[1, 2])
    single = DeepNetwork(4, 2, 3, 5, activation="relu", seed=2)
    for net in (both, single):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            (net(x) - 1).square().mean((1, 2)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(both(x)[1:], single(x))


@pytest.mark.parametrize("chosen", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_some_of_the_runs(chosen):
    net = DeepNetwork(4, 3, 3, 5, activation="tanh", runs=3, bias=True, seed=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    some = net.select(chosen)
    x = torch.ones(2, 4)
    assert torch.equal(some(x), net(x)[chosen])
    assert some.runs == 2
    assert all(parameter.requires_grad for parameter in some.parameters())
    with torch.no_grad():
        for parameter in some.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match=r"runs has shape \(3,\) and chooses 0"):
        net.select(torch.zeros(3, dtype=torch.bool))


def test_saved_and_loaded():
    net = DeepNetwork(4, 3, 2, 5, runs=2, seed=0, bias=True)
    other = DeepNetwork(4, 3, 2, 5, runs=2, seed=1, bias=True)
    other.load_state_dict(net.state_dict())
    x = torch.ones(1, 4)
    assert torch.equal(net(x), other(x))
    assert "depth=2, width=5, activation='linear', runs=2" in repr(net)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": 0}, ValueError, "inputs is 0; expected at least 1"),
        ({"outputs": 1.5}, TypeError, "outputs is 1.5; expected an integer"),
        ({"depth": 0}, ValueError, "depth is 0; expected at least 1"),
        ({"width": -1}, ValueError, "width is -1; expected at least 1"),
        ({"runs": 0}, ValueError, "runs is 0; expected at least 1"),
        ({"activation": "sine"}, ValueError, "activation is 'sine'; expected one of linear, relu, tanh"),
        ({"init": "zeros"}, ValueError, "init is 'zeros'; expected one of normal, uniform, orthogonal"),
        ({"seed": [1, 2]}, ValueError, "seed has 2 values; the network has 1 runs"),
        ({"dtype": torch.int64}, TypeError, "dtype is torch.int64; expected a real floating type"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        DeepNetwork(**{"inputs": 4, "outputs": 3, "depth": 2, "width": 5, **change})


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1.0], TypeError, "x is a list; expected a tensor"),
        (torch.ones(2, 4, dtype=torch.float64), TypeError, "x has dtype torch.float64; the network has torch.float32"),
        (torch.ones(2, 3), ValueError, r"x has shape \(2, 3\); expected \(n, 4\) or \(2, n, 4\)"),
        (torch.ones(3, 2, 4), ValueError, r"x has shape \(3, 2, 4\)"),
        (torch.ones(4), ValueError, r"x has shape \(4,\)"),
    ],
)
def test_bad_inputs(x, error, message):
    with pytest.raises(error, match=message):
        DeepNetwork(4, 3, 2, 5, runs=2)(x)
