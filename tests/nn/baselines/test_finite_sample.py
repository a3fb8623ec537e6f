import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf.datasets import load
from htf.nn.baselines.finite_sample import finite_sample_network


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 10**6))
def test_any_values_at_any_points_with_2n_plus_d_weights(n, d, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * scale
    y = torch.randn(n, generator=generator) * scale
    network = finite_sample_network(x, y, seed=seed)
    assert [tuple(p.shape) for p in network.parameters()] == [(d,), (n,), (n,)]
    assert sum(p.numel() for p in network.parameters()) == 2 * n + d
    torch.testing.assert_close(network(x).detach(), y.double(), rtol=0, atol=1e-7 * scale)


def test_weights_solve_the_triangular_system_of_the_lemma():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(30, 3, generator=generator).double(), torch.randn(30, generator=generator).double()
    network = finite_sample_network(x, y)
    a, b, w = (p.detach().numpy() for p in network.parameters())
    z = np.sort(x.numpy() @ a)
    targets = y.numpy()[np.argsort(x.numpy() @ a)]
    # Thresholds are interleaved with the points.
    assert b[0] < z[0]
    assert (b < z).all()
    np.testing.assert_allclose(b[1:], z[:-1], rtol=0, atol=1e-12)
    matrix = np.maximum(z[:, None] - b, 0)
    assert np.abs(np.triu(matrix, 1)).max() < 1e-12
    np.testing.assert_allclose(w, scipy.linalg.solve_triangular(np.tril(matrix), targets, lower=True), rtol=1e-6)
    # The network is what the formula says, at other points too.
    others = torch.randn(7, 3, generator=generator).double()
    expected = np.maximum((others.numpy() @ a)[:, None] - b, 0) @ w
    np.testing.assert_allclose(network(others).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_random_labels_of_two_thousand_mnist_images_to_a_hundred_percent():
    if not Path(os.environ.get("HTF_DATA", "")).joinpath("MNIST").is_dir():
        pytest.skip("HTF_DATA does not hold MNIST")
    images = load("mnist").take(2000).train_images.flatten(1)
    labels = torch.randint(10, (2000,), generator=torch.Generator().manual_seed(0))
    network = finite_sample_network(images, labels)
    assert sum(p.numel() for p in network.parameters()) == 2 * 2000 + 784
    with torch.no_grad():
        assert float((network(images) - labels).abs().max()) < 1e-6


def test_random_labels_of_the_digits():
    data = load()
    labels = torch.randint(10, (len(data.train_labels),), generator=torch.Generator().manual_seed(0))
    images = data.train_images.flatten(1)
    with torch.no_grad():
        assert float((finite_sample_network(images, labels)(images) - labels).abs().max()) < 1e-7


def test_the_best_of_the_directions_is_taken():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(200, 5, generator=generator).double(), torch.arange(200).double()
    network = finite_sample_network(x, y, seed=7)

    def steepest(direction):
        z, order = (x @ direction).sort()
        return float((y[order].diff() / z.diff()).abs().max() * (z[-1] - z[0]))

    tried = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    assert steepest(network.a.detach()) == pytest.approx(min(steepest(column) for column in tried.T))


def test_directions_are_seeded():
    x, y = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    first, again, other = (finite_sample_network(x, y, seed=seed).a for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(finite_sample_network(x, y, seed=generator).a, first)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(finite_sample_network(x, y, seed=None).a, first)


def test_equal_points_of_equal_targets_count_once():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [5.0, 5.0]])
    network = finite_sample_network(x, torch.tensor([4, 2, 4, 7]))
    assert len(network.b) == 3
    assert network(x).round().tolist() == [4, 2, 4, 7]


def test_points_too_close_may_have_equal_targets():
    x = torch.tensor([[1.0], [1.0 + 1e-15], [2.0]], dtype=torch.float64)
    network = finite_sample_network(x, torch.tensor([3.0, 3.0, 1.0]))
    assert network(x).tolist() == pytest.approx([3, 3, 1])


def test_it_is_a_module_whose_gradients_are_those_of_the_formula():
    x, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).double(), torch.arange(6.0)
    network = finite_sample_network(x, y)
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(3)).double()
    parameters = tuple(p.detach().clone().requires_grad_() for p in network.parameters())

    def formula(a, b, w):
        return sum(w[j] * torch.clamp(points @ a - b[j], min=0) for j in range(6))

    network(points).square().sum().backward()
    formula(*parameters).square().sum().backward()
    for mine, other in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert repr(network) == "FiniteSampleNetwork(in_features=3, hidden=6)"
    assert all(p.dtype == torch.float64 for p in network.parameters())


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3), ValueError, r"x has shape \(3,\); expected \(n, d\), at least \(1, 1\)"),
        (torch.zeros(0, 2), torch.zeros(0), ValueError, r"x has shape \(0, 2\)"),
        (torch.zeros(3, 0), torch.zeros(3), ValueError, r"x has shape \(3, 0\)"),
        (torch.zeros(3, 2), torch.zeros(2), ValueError, r"y has shape \(2,\); expected a value per point, \(3,\)"),
        (torch.eye(2), torch.eye(2), ValueError, r"y has shape \(2, 2\)"),
        (torch.eye(2) / 0, torch.zeros(2), ValueError, r"x\[0, 0\] is inf; expected finite values"),
        (torch.eye(2), torch.tensor([0, torch.nan]), ValueError, r"y\[1\] is nan; expected finite values"),
        (torch.eye(2) * 1j, torch.zeros(2), TypeError, r"x has dtype torch\.complex64; expected real numbers"),
        (
            torch.tensor([[1, 2], [0, 0], [1, 2], [1, 2]]),
            torch.tensor([3, 0, 3, 5]),
            ValueError,
            r"x\[0\] and x\[3\] are equal; y is 3 at one and 5 at the other",
        ),
        (
            torch.tensor([[0.0], [1.0], [1 + 1e-15]], dtype=torch.float64),
            torch.tensor([1, 2, 3]),
            ValueError,
            r"x\[(1|2)\] and x\[(1|2)\] have different targets and are too close for float64: .* best of 32 lines",
        ),
    ],
)
def test_what_cannot_be_fitted(x, y, error, message):
    with pytest.raises(error, match=message):
        finite_sample_network(x, y)


def test_seeds_that_are_none():
    with pytest.raises(TypeError, match="y is a list; expected a tensor"):
        finite_sample_network(torch.eye(2), [0, 1])
    with pytest.raises(TypeError, match=r"seed is 1\.5; expected an integer"):
        finite_sample_network(torch.eye(2), torch.zeros(2), seed=1.5)


OTHERS = ["leaky_relu", "elu", "tanh", "sigmoid"]


@pytest.mark.parametrize("activation", OTHERS)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 10**6))
def test_other_activations_take_any_values_with_as_many_weights(activation, n, d, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * scale
    y = torch.randn(n, generator=generator) * scale
    network = finite_sample_network(x, y, activation=activation, seed=seed)
    assert sum(p.numel() for p in network.parameters()) == 2 * n + d
    torch.testing.assert_close(network(x).detach(), y.double(), rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("activation", ["relu", *OTHERS])
def test_networks_are_those_of_torch_s_activations(activation):
    generator = torch.Generator().manual_seed(5)
    x, others = torch.randn(12, 3, generator=generator).double(), torch.randn(7, 3, generator=generator).double()
    network = finite_sample_network(x, torch.arange(12), activation=activation)
    a, b, w = (p.detach() for p in network.parameters())
    hidden = getattr(torch.nn.functional, activation)((others @ a)[:, None] - b)
    torch.testing.assert_close(network.hidden(others).detach(), hidden)
    torch.testing.assert_close(network(others).detach(), hidden @ w)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_steep_steps_are_conditioned_like_a_sum(activation):
    """A triangle of ones has a condition number of about 4n / pi, whatever the gaps are."""
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(6)).double()
    network = finite_sample_network(x, torch.arange(300) % 10, activation=activation)
    with torch.no_grad():
        assert float(torch.linalg.cond(network.hidden(x))) < 4 * 300
        assert float(torch.linalg.cond(finite_sample_network(x, torch.arange(300) % 10).hidden(x))) > 1e6


def test_an_activation_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="activation is 'softplus'; expected 'relu', 'leaky_relu'"):
        finite_sample_network(torch.eye(3), torch.arange(3), activation="softplus")
