"""Squared tensors as densities: what brute force says of them."""

import copy
import math

import numpy as np
import pytest
import torch
from density_cases import check_conditionals, chi_square, everything, fitted, linked, summed, table

import htf
from htf.models import TensorDensity
from htf.nn.networks.gramians import gramians, log_norm

TREES = [{}, {"format": "cp"}, {"format": "tt"}, {"tree": htf.DimensionTree.interleaved(6)}]


@pytest.mark.parametrize("kind", TREES)
def test_probabilities(kind):
    density = fitted(3, 6, squared=True, **kind)
    whole = density.log_prob(everything(3, 6)).exp().view([3] * 6)
    assert abs(float(whole.sum()) - 1) < 1e-12
    assert float((whole - table(density, 3, 6)).abs().max()) < 1e-12
    single = fitted(3, 6, torch.float32, squared=True, **kind)
    assert abs(float(single.log_prob(everything(3, 6)).exp().sum()) - 1) < 1e-6


@pytest.mark.parametrize(("levels", "order"), [(2, 12), (3, 8)])
@pytest.mark.parametrize("kind", TREES[:3])
def test_probabilities_sum_to_one_in_single_precision(levels, order, kind):
    density = fitted(levels, order, torch.float32, epochs=2, squared=True, **kind)
    assert abs(float(density.log_prob(everything(levels, order)).exp().sum()) - 1) < 1e-6


@pytest.mark.parametrize("kind", TREES)
def test_conditionals_are_those_of_the_table(kind):
    density, x = fitted(3, 6, squared=True, **kind), linked(3, 6)[:40]
    check_conditionals(density, table(density, 3, 6), x)


@pytest.mark.parametrize("kind", TREES)
def test_marginals(kind):
    density, x = fitted(3, 6, squared=True, **kind), linked(3, 6)[:40]
    missing = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    missing[0], missing[1] = True, False
    whole = table(density, 3, 6)
    expected = [math.log(summed(whole, *pair).sum()) for pair in zip(x, missing, strict=True)]
    assert np.abs(density.log_prob(x, missing=missing).numpy() - expected).max() < 1e-10


@pytest.mark.parametrize(("levels", "order"), [(2, 5), (3, 6), (5, 3)])
def test_samples(levels, order):
    density = fitted(levels, order, squared=True)
    whole = table(density, levels, order)
    assert abs(chi_square(density.sample(100_000, seed=0), whole)) < 4


@pytest.mark.parametrize("kind", TREES)
def test_conditional_samples(kind):
    density, x = fitted(3, 6, squared=True, **kind), linked(3, 6)[3]
    missing = torch.tensor([True, False, False, True, True, False])
    samples = density.sample(50_000, given=x, missing=missing, seed=0)
    assert torch.equal(samples[:, ~missing], x[~missing].expand(50_000, -1))
    conditional = summed(table(density, 3, 6), x, missing)
    assert abs(chi_square(samples[:, missing], conditional / conditional.sum())) < 4


def test_information():
    density = fitted(3, 6, squared=True)
    whole = table(density, 3, 6)
    entropy = -(whole * whole.log()).nan_to_num().sum()
    a, b = whole.sum((1, 2, 3, 5)), whole.sum((0, 4))
    information = -(a * a.log()).sum() - (b * b.log()).sum() - entropy
    assert density.entropy() == pytest.approx(float(entropy), abs=1e-10)
    assert density.mutual_information([0, 4]) == pytest.approx(float(information), abs=1e-10)


def test_signs_are_learned():
    # Of an odd number of ones, where neither values nor pairs of them tell anything.
    x = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]).repeat(10, 1)
    settings = {"epochs": 150, "lr": 0.05, "schedule": "one_cycle", "device": "cpu"}
    density = TensorDensity(levels=2, width=4, squared=True, batch_size=40, **settings).fit(x)
    assert density.score(x) > -math.log(4) - 0.1
    assert any(bool((weight < 0).any()) for weight in density.network.weights)


def test_most_probable_is_refused():
    density = fitted(3, 6, squared=True)
    with pytest.raises(ValueError, match="squared is True"):
        density.most_probable(linked(3, 6)[:1], missing=torch.ones(1, 6, dtype=torch.bool))


def test_impossible_samples():
    density = copy.deepcopy(fitted(2, 4, squared=True))
    with torch.no_grad():
        density.network.weights[0][0, 0, 1] = 0
    log = density.log_prob(torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]))
    assert log[0] == -math.inf
    assert math.isfinite(log[1])
    missing = torch.tensor([[False, True, True, True]])
    assert density.log_prob(torch.tensor([[1, 0, 0, 0]]), missing=missing)[0] == -math.inf
    with pytest.raises(ValueError, match="probability 0"):
        density.sample(2, given=torch.tensor([[1, 0, 0, 0]]), missing=missing)


@pytest.mark.parametrize("tree", [htf.DimensionTree.balanced(5), htf.DimensionTree.linear(4)])
def test_norm_and_its_gradient(tree):
    net = htf.nn.HTNetwork(tree, 3, 4, seed=0, init=htf.nn.init.gaussian(std=0.7), dtype=torch.float64)
    found = log_norm(net)
    dense = net.to_tensor().to_tensor().square().sum().log()
    assert found.item() == pytest.approx(dense.item(), abs=1e-12)
    for one, other in zip(
        torch.autograd.grad(found, list(net.parameters())),
        torch.autograd.grad(dense, list(net.parameters())),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_norm_beyond_all_floats():
    net = htf.nn.HTNetwork(htf.DimensionTree.grid(28, 28), 256, 2, seed=0)
    # Outputs of about 1, of which there are 256^784.
    assert log_norm(net).item() == pytest.approx(784 * math.log(256), rel=0.01)
    below, logs = gramians(net._layout, [weight.detach() for weight in net.weights])
    assert below[-1].shape == (1, 1, 1, 1)
    assert float(below[-1].log() + logs[-1]) == pytest.approx(log_norm(net).item(), rel=1e-6)
