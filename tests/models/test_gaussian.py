"""Densities of real numbers: what sums over all choices of components, and integrals, say of them."""

import itertools
import math
import pickle
from functools import lru_cache

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris

import htf
from htf.models import GenerativeClassifier, TensorDensity
from htf.nn.networks.normal_leaves import NormalLeaves, NormalNetwork, normal_start
from htf.training import ExpectationMaximization, Training, objectives

DOUBLE = torch.float64


def two_clouds(samples=300, features=3):
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (samples, 1), generator=generator).double()
    noise = torch.randn(samples, features, dtype=DOUBLE, generator=generator)
    return noise * torch.tensor([1.0, 0.1, 5.0, 1.0][:features]) + side * torch.tensor([4.0, -1.0, 9.0, 2.0][:features])


@lru_cache(maxsize=16)
def fitted(features=3, **settings):
    settings = {"width": 2, "components": 3, "epochs": 4, "batch_size": 100, "dtype": DOUBLE} | settings
    return TensorDensity(leaf="gaussian", device="cpu", **settings).fit(two_clouds(features=features))


def mixture(density):
    """Weights of all choices of components, and their means and deviations in the units of the data."""
    tensor = density.to_tensor().to_tensor().detach()
    mean, scale = density.levels_.mean, density.levels_.scale
    leaves = density.leaves_
    at = torch.tensor(list(itertools.product(*(range(n) for n in tensor.shape))))
    modes = torch.arange(tensor.ndim)
    means = leaves.mean.detach()[modes, at] * scale + mean
    return tensor.flatten(), means, leaves.log_std.detach()[modes, at].exp() * scale


def log_terms(x, means, deviations):
    return -0.5 * ((x - means) / deviations).square() - deviations.log() - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("kind", [{}, {"format": "cp"}, {"format": "tt"}])
def test_likelihoods_and_marginals_are_those_of_the_mixture(kind):
    density, x = fitted(**kind), two_clouds()[:30]
    weights, means, deviations = mixture(density)
    terms = log_terms(x[:, None], means, deviations)
    assert torch.allclose(density.log_prob(x), (weights.log() + terms.sum(2)).logsumexp(1), atol=1e-10)
    missing = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    known = (terms * ~missing[:, None]).sum(2)
    assert torch.allclose(density.log_prob(x, missing=missing), (weights.log() + known).logsumexp(1), atol=1e-10)
    assert np.array_equal(density.log_prob(np.where(missing, np.nan, x), missing=missing.numpy()),
                          density.log_prob(x, missing=missing).numpy())  # fmt: skip


def test_densities_integrate_to_one_and_entropies_are_their_integrals():
    density = fitted(features=2)
    axes = [torch.linspace(-12, 16, 400, dtype=DOUBLE), torch.linspace(-4, 3, 400, dtype=DOUBLE)]
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    log = density.log_prob(torch.cartesian_prod(*axes))
    assert float(log.exp().sum() * cell) == pytest.approx(1, abs=1e-6)
    entropy = density.entropy(samples=4000)
    assert abs(entropy + float((log.exp() * log).sum() * cell)) < 4 * entropy.standard_error
    information = density.mutual_information([0], samples=4000)
    assert information > 0.1


def test_units_change_densities_by_their_factor():
    x = two_clouds()
    density = fitted()
    scaled = clone(density).fit(x * 1000 + 1e6)
    assert torch.allclose(scaled.log_prob(x * 1000 + 1e6), density.log_prob(x) - 3 * math.log(1000), atol=1e-6)
    one_missing = torch.tensor([[False, True, False]]).expand(300, -1)
    found = scaled.log_prob(x * 1000 + 1e6, missing=one_missing)
    assert torch.allclose(found, density.log_prob(x, missing=one_missing) - 2 * math.log(1000), atol=1e-6)
    single = clone(density).set_params(dtype=None).fit(x * 1000 + 1e6)
    assert torch.allclose(single.log_prob(x * 1000 + 1e6), scaled.log_prob(x * 1000 + 1e6), atol=1e-2)


def start(x, width=2, components=3, **options):
    leaves = NormalLeaves.of(x, components, DOUBLE)
    tree = htf.DimensionTree.balanced(x.shape[1])
    network = htf.nn.HTNetwork(tree, components, width, init=normal_start(leaves, x), seed=0, dtype=DOUBLE, **options)
    return NormalNetwork(leaves, network)


def test_a_full_step_is_the_one_of_the_explicit_mixture():
    x = two_clouds(80)
    model = start(x)
    weights = model.network.to_tensor().to_tensor().detach()
    mean, std = model.leaves.mean.detach().clone(), model.leaves.log_std.detach().exp()
    at = torch.tensor(list(itertools.product(range(3), repeat=3)))
    modes = torch.arange(3)
    log = weights.flatten().log() + log_terms(x[:, None], mean[modes, at], std[modes, at]).sum(2)
    shares = log.softmax(1)  # (samples, choices)
    optimizer = ExpectationMaximization(model, lr=1.0)
    (-model(x).mean()).backward()
    optimizer.step()
    for mode in range(3):
        for component in range(3):
            share = shares[:, at[:, mode] == component].sum(1)
            expected = (share * x[:, mode]).sum() / share.sum()
            variance = (share * (x[:, mode] - expected).square()).sum() / share.sum()
            assert float(model.leaves.mean[mode, component].detach()) == pytest.approx(float(expected), abs=1e-10)
            assert float(model.leaves.log_std[mode, component].detach().exp() ** 2) == pytest.approx(
                float(variance), rel=1e-9
            )


def test_full_steps_never_lower_the_likelihood():
    settings = {"epochs": 20, "batch_size": 300, "lr": 1.0, "schedule": "constant", "smoothing": 0}
    density = fitted(**settings)
    losses = density.history_.loss[:, 0]
    assert bool((losses.diff() <= 1e-9).all())
    assert losses[-1] < losses[0] - 0.2
    # Better than one normal distribution, which cannot have two clouds.
    x = two_clouds()
    one = 0.5 * float(torch.logdet(torch.cov(x.T))) + 1.5 * (math.log(2 * math.pi) + 1)
    assert density.score(x) > -one + 0.3


def test_gradients_of_means_and_deviations_and_a_fit_by_them():
    x = two_clouds(20)
    model = start(x)
    leaves = model.leaves

    def of(mean, log_std):
        return torch.func.functional_call(model, {"leaves.mean": mean, "leaves.log_std": log_std}, (x,))

    inputs = [leaves.mean.detach().requires_grad_(), leaves.log_std.detach().requires_grad_()]
    assert torch.autograd.gradcheck(of, inputs)
    model.network.requires_grad_(False)
    history = Training(model, objectives.likelihood(x, batch_size=20), optimizer="adam", lr=0.03).run(epochs=30)
    assert history.loss[-1] < history.loss[0] - 0.05


def test_values_that_are_not_known_in_training_are_integrated_over():
    x = two_clouds()
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    scaled = (x - x.mean(0)) / x.std(0)
    model = start(scaled)
    holes = scaled.masked_fill(gone, math.nan)
    before = float(model(scaled).detach().mean())
    objective = objectives.likelihood(holes, batch_size=100)
    Training(model, objective, optimizer="expectation_maximization", lr=0.5).run(epochs=8)
    assert float(model(scaled).detach().mean()) > before + 0.1


def test_a_value_far_from_all_means_has_a_finite_likelihood():
    density = fitted(dtype=torch.float32)
    far = torch.tensor([[1e4, 0.0, 0.0]])
    assert math.isfinite(float(density.log_prob(far)))
    assert float(density.log_prob(far)) < -1e5


def test_samples_have_the_moments_of_the_mixture():
    density = fitted()
    weights, means, deviations = mixture(density)
    samples = density.sample(40_000, seed=0)
    mean = weights @ means
    variance = weights @ (deviations.square() + means.square()) - mean.square()
    assert bool(((samples.mean(0) - mean).abs() < 4 * (variance / 40_000).sqrt()).all())
    assert bool(((samples.var(0) / variance - 1).abs() < 0.05).all())
    assert torch.allclose(density.component_means(density.network.tree.root)[0], mean, atol=1e-10)


def test_completions_follow_what_is_known():
    density, x = fitted(), two_clouds()[5]
    weights, means, deviations = mixture(density)
    missing = torch.tensor([False, True, True])
    log = weights.log() + log_terms(x, means, deviations)[:, 0]
    posterior = log.softmax(0)
    drawn = density.sample(20_000, given=x, missing=missing, seed=0)
    assert bool((drawn[:, 0] == x[0]).all())
    spread = (posterior @ (deviations.square() + means.square()) - (posterior @ means).square()).sqrt()
    assert bool(((drawn.mean(0) - posterior @ means).abs()[1:] < 4 * spread[1:] / 20_000**0.5).all())


def test_the_most_probable_completion_is_the_best_with_all_components():
    density, x = fitted(width=2, components=2), two_clouds()[:6]
    missing = torch.tensor([False, True, True]).expand(6, -1)
    net, tree, leaves = density.network, density.network.tree, density.leaves_
    scaled = density.levels_.encode(x)
    for row, filled in zip(scaled, density.most_probable(x, missing=missing), strict=True):
        best = (-math.inf, None)
        for hidden in itertools.product(range(2), repeat=len(tree.inner_nodes)):
            chosen = dict(zip(tree.inner_nodes, hidden, strict=True))
            for below in itertools.product(range(2), repeat=3):
                chance, values = 0.0, []
                for node in range(tree.n_nodes):
                    parent = tree.parent(node)
                    column = 0 if parent is None else chosen[parent]
                    chance += math.log(float(net.matrix(node)[below[node] if node < 3 else chosen[node], column]))
                for mode in range(3):
                    mean, std = (float(t[mode, below[mode]]) for t in (leaves.mean, leaves.log_std.exp()))
                    value = mean if missing[0, mode] else float(row[mode])
                    chance += -0.5 * ((value - mean) / std) ** 2 - math.log(std)
                    values.append(value)
                if chance > best[0]:
                    best = chance, values
        expected = density.levels_.decode(torch.tensor([best[1]], dtype=DOUBLE))[0]
        assert torch.allclose(filled, expected, atol=1e-10)


def test_saved_and_pickled(tmp_path):
    density, x = fitted(dtype=torch.float32), two_clouds()
    density.save(tmp_path / "density.safetensors")
    for again in (htf.models.load(tmp_path / "density.safetensors"), pickle.loads(pickle.dumps(density))):
        assert torch.equal(again.log_prob(x), density.log_prob(x))
        assert again.get_params() == density.get_params()
        assert torch.equal(again.sample(3, seed=0), density.sample(3, seed=0))


def test_classes_of_real_numbers_with_some_missing():
    x, y = load_iris(return_X_y=True)
    classifier = GenerativeClassifier(leaf="gaussian", width=6, components=4, epochs=15, device="cpu").fit(x, y)
    assert classifier.score(x, y) > 0.93
    missing = np.zeros(x.shape, dtype=bool)
    missing[:, 1] = True
    assert classifier.score(np.where(missing, np.nan, x), y, missing=missing) > 0.93


def test_features_that_never_change_or_repeat():
    x = torch.cat([two_clouds(60)[:, :2], torch.full((60, 1), 3.0), torch.arange(60)[:, None] % 2], 1)
    density = TensorDensity(leaf="gaussian", width=2, components=3, epochs=3, device="cpu").fit(x)
    assert bool(density.log_prob(x).isfinite().all())
    assert bool(density.sample(5, seed=0).isfinite().all())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"squared": True}, "squared is True"),
        ({"components": 0}, "components is 0"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TensorDensity(leaf="gaussian", width=2, epochs=1, device="cpu", **settings).fit(two_clouds(20))


def test_bad_leaves_and_networks():
    leaves = NormalLeaves.of(two_clouds(20), 2, DOUBLE)
    tree = htf.DimensionTree.balanced(3)
    for network, words in (
        (htf.nn.HTNetwork(tree, 3, 2), r"leaves have shape \(3, 2\) and the network has dims \(3, 3, 3\)"),
        (htf.nn.HTNetwork(tree, 2, 2, runs=2), "2 runs"),
        (htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 2, 2, shared=True), "shared=True"),
    ):
        with pytest.raises(ValueError, match=words):
            NormalNetwork(leaves, network)
    with pytest.raises(ValueError, match="deviations above 0"):
        NormalLeaves(torch.zeros(2, 2), torch.zeros(2, 2))
    for samples in (torch.full((3, 2), math.nan), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            NormalLeaves.of(samples, 2)
