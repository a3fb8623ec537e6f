"""Densities are what brute force says: sums, marginals, conditionals, samples, completions, information."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from density_cases import check_conditionals, chi_square, everything, fitted, linked, summed, table
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import htf
from htf._files import read_tensors
from htf.models import TensorDensity

KINDS = [
    {},
    {"leaf": "binomial"},
    {"format": "cp"},
    {"format": "tt"},
    {"tree": htf.DimensionTree.interleaved(6)},
]


@pytest.mark.parametrize(("levels", "order"), [(2, 12), (3, 8)])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_probabilities_sum_to_one_in_single_precision(levels, order, kind):
    density = fitted(levels, order, torch.float32, epochs=2, **kind)
    total = density.log_prob(everything(levels, order)).exp().sum()
    assert abs(float(total) - 1) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_entries_of_the_tensor(kind):
    density = fitted(3, 6, **kind)
    found = density.log_prob(everything(3, 6)).exp().view([3] * 6)
    whole = density.to_tensor().to_tensor()
    assert float((found - whole).abs().max()) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_are_sums(kind):
    density, x = fitted(3, 6, **kind), linked(3, 6)[:40]
    missing = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    missing[0], missing[1] = True, False
    whole = table(density, 3, 6)
    expected = [math.log(summed(whole, *pair).sum()) for pair in zip(x, missing, strict=True)]
    assert np.abs(density.log_prob(x, missing=missing).numpy() - expected).max() < 1e-10
    assert float(density.log_prob(x, missing=missing)[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_conditionals_are_those_of_the_table(kind):
    density = fitted(3, 6, **kind)
    check_conditionals(density, table(density, 3, 6), linked(3, 6)[:40])


def test_values_where_something_is_missing_are_not_read():
    density = fitted(3, 6)
    x, missing = linked(3, 6)[:5].double().numpy(), np.zeros((5, 6), bool)
    missing[:, [1, 4]] = True
    expected = density.log_prob(x, missing=missing)
    for strange in (np.nan, 99.0, -1.0, 0.5, np.inf):
        other = x.copy()
        other[:, [1, 4]] = strange
        assert np.array_equal(density.log_prob(other, missing=missing), expected)


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize(("levels", "order"), [(2, 5), (3, 6), (5, 3)])
def test_samples_follow_the_density(levels, order, kind):
    density = fitted(levels, order, **kind)
    samples = density.sample(100_000, seed=0)
    assert abs(chi_square(samples, table(density, levels, order))) < 4


def test_samples_do_not_follow_another_density():
    # What the test above could not see, if its statistic were blind.
    density, other = fitted(3, 6), fitted(3, 6, epochs=1)
    assert chi_square(density.sample(100_000, seed=0), table(other, 3, 6)) > 20


@pytest.mark.parametrize("kind", KINDS[:4])
def test_conditional_samples_follow_the_conditional_density(kind):
    density, x = fitted(3, 6, **kind), linked(3, 6)[3]
    missing = torch.tensor([True, False, False, True, True, False])
    samples = density.sample(100_000, given=x, missing=missing, seed=0)
    assert samples.shape == (100_000, 6)
    assert torch.equal(samples[:, ~missing], x[~missing].expand(100_000, -1))
    conditional = summed(table(density, 3, 6), x, missing)
    assert abs(chi_square(samples[:, missing], conditional / conditional.sum())) < 4


def test_samples_of_several_given():
    density, x = fitted(3, 6), linked(3, 6)[:4]
    missing = torch.zeros(4, 6, dtype=torch.bool)
    missing[:, 2] = True
    samples = density.sample(5, given=x, missing=missing, seed=0)
    assert samples.shape == (4, 5, 6)
    assert torch.equal(samples[:, 3][~missing], x[~missing])


@pytest.mark.parametrize("kind", KINDS)
def test_most_probable_completion_is_the_best_together_with_components(kind):
    density = fitted(2, 6, width=2, **kind)
    net, x = density.network, torch.tensor([[0, 1, 1, 0, 1, 0]])
    missing = torch.tensor([[True, False, True, True, False, False]])
    best, values = -1.0, None
    tree = net.tree
    for hidden in itertools.product(range(2), repeat=len(tree.inner_nodes)):
        chosen = dict(zip(tree.inner_nodes, hidden, strict=True))
        for free in itertools.product(range(2), repeat=3):
            row = x[0].clone()
            row[missing[0]] = torch.tensor(free)
            chance = 1.0
            for node in range(tree.n_nodes):
                parent = tree.parent(node)
                column = 0 if parent is None else chosen[parent]
                chance *= float(net.matrix(node)[int(row[node]) if node < 6 else chosen[node], column])
            if chance > best:
                best, values = chance, row
    assert torch.equal(density.most_probable(x, missing=missing)[0], values)


def test_most_probable_completion_at_width_one():
    density = fitted(3, 6, width=1, leaf="categorical")
    x, missing = linked(3, 6)[:20], torch.zeros(20, 6, dtype=torch.bool)
    missing[:, [0, 5]] = True
    found = density.most_probable(x, missing=missing)
    whole = table(density, 3, 6)
    for row, filled in zip(x, found, strict=True):
        conditional = summed(whole, row, missing[0])
        assert float(conditional[int(filled[0]), int(filled[5])]) == float(conditional.max())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_entropy_and_mutual_information(kind):
    density = fitted(3, 6, **kind)
    whole = table(density, 3, 6)
    entropy = -(whole * whole.log()).sum()
    assert density.entropy() == pytest.approx(float(entropy), abs=1e-10)
    assert density.entropy().standard_error == 0
    a, b = whole.sum((1, 2, 3, 5)), whole.sum((0, 4))
    information = -(a * a.log()).sum() - (b * b.log()).sum() - entropy
    assert density.mutual_information([0, 4]) == pytest.approx(float(information), abs=1e-10)
    assert density.mutual_information([1, 2, 3, 5]) == pytest.approx(float(information), abs=1e-10)


def test_estimated_information_is_within_its_error():
    density = fitted(2, 8)
    estimates = {"entropy": density.entropy(), "information": density.mutual_information(range(4))}
    import htf.models.density as module

    kept, module.SUMMED = module.SUMMED, 1
    try:
        for name, exact in estimates.items():
            ask = density.entropy if name == "entropy" else lambda **k: density.mutual_information(range(4), **k)
            found = ask(samples=4000, seed=1)
            assert found.standard_error > 0
            assert abs(found - exact) < 4 * found.standard_error
            assert "±" in repr(found)
    finally:
        module.SUMMED = kept


def test_full_steps_never_lower_the_likelihood():
    x = linked(3, 8)
    for leaf in ("categorical", "binomial"):
        settings = {"width": 5, "epochs": 25, "batch_size": 400, "lr": 1.0, "schedule": "constant", "smoothing": 0}
        density = fitted(3, 8, leaf=leaf, **settings)
        losses = density.history_.loss[:, 0]
        assert bool((losses.diff() <= 1e-9).all())
        assert losses[-1] < losses[0] - 0.1
        assert density.score(x) >= -float(losses[-1]) - 1e-9


def test_columns_stay_distributions():
    density = fitted(4, 6, torch.float32, epochs=15)
    for weight in density.network.weights:
        assert bool((weight >= 0).all())
        assert float((weight.sum(-2) - 1).abs().max()) < 1e-6


def test_what_was_never_seen_is_impossible_without_smoothing():
    x = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).repeat(20, 1)
    settings = {"width": 3, "epochs": 3, "lr": 1.0, "schedule": "constant", "smoothing": 0, "device": "cpu"}
    density = TensorDensity(levels=3, batch_size=60, **settings).fit(x)
    log = density.log_prob(torch.tensor([[2, 0, 1, 1], [0, 0, 1, 1]]))
    assert log[0] == -math.inf
    assert log[1] > -5
    missing = torch.tensor([[False, True, True, True]])
    assert density.log_prob(torch.tensor([[2, 0, 0, 0]]), missing=missing)[0] == -math.inf
    for ask in (density.most_probable, lambda x, missing: density.sample(2, given=x, missing=missing)):
        with pytest.raises(ValueError, match="probability 0"):
            ask(torch.tensor([[2, 0, 0, 0]]), missing=missing)
    assert math.isfinite(density.entropy())


def test_images_of_bytes_and_their_trees():
    images = torch.randint(0, 256, (30, 6, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    density = TensorDensity(levels=256, width=3, epochs=1, device="cpu").fit(images)
    assert density.network.tree == htf.DimensionTree.grid(6, 4)
    assert density.n_features_in_ == 24
    sample = density.sample(2, seed=0)
    assert sample.dtype == torch.uint8
    assert sample.shape == (2, 6, 4)
    assert density.bits_per_dim(images) == pytest.approx(-density.score(images) / 24 / math.log(2))
    single = density.sample(3, given=images[0], missing=torch.ones(6, 4, dtype=torch.bool), seed=0)
    assert single.shape == (3, 6, 4)
    patches = TensorDensity(levels=256, width=3, patch=3, epochs=1, device="cpu").fit(images)
    assert patches.network.tree == htf.DimensionTree.grid(6, 4, window=[3, 2])


def test_levels_of_bytes_and_real_numbers():
    images = torch.randint(0, 256, (30, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    settings = {"levels": 4, "width": 2, "epochs": 1, "device": "cpu"}
    of_bytes, of_reals = (TensorDensity(**settings).fit(x) for x in (images, images.double() / 255))
    assert torch.equal(of_bytes.levels_.encode(images), (images // 64).short())
    assert torch.equal(of_reals.levels_.encode(images / 255), (images / 255 * 4).floor().clamp(max=3).short())
    for density in (of_bytes, of_reals):
        levels = torch.arange(4)
        assert torch.equal(density.levels_.encode(density.levels_.decode(levels)).long(), levels)
    table = TensorDensity(**settings).fit(np.random.default_rng(0).normal(size=(30, 5)))
    assert isinstance(table.sample(2, seed=0), np.ndarray)
    with pytest.warns(UserWarning, match="x holds values from 99 to 99; this model was fitted on values from"):
        assert np.isfinite(table.log_prob(np.full((1, 5), 99.0))).all()


def test_validation_keeps_the_best_epoch():
    x = linked(3, 6)
    density = fitted(3, 6)
    by_share = clone(density).set_params(epochs=6).fit(x, validation=0.25)
    assert by_share.history_["validation"]["log_likelihood"].shape == (6, 1)
    others = linked(3, 6, seed=5)
    given = clone(density).set_params(epochs=6, lr=1.0, schedule="constant", smoothing=0.01, width=12)
    given.fit(x, validation=others)
    recorded = given.history_["validation"]["log_likelihood"]
    assert given.score(others) == pytest.approx(float(recorded.max()), abs=1e-9)


def test_sample_weights_count_as_copies():
    x = linked(3, 4, samples=60)
    weights = torch.arange(60) % 3
    settings = {"epochs": 5, "batch_size": 1000, "lr": 1.0, "schedule": "constant", "smoothing": 0.0, "seed": 0}
    base = TensorDensity(levels=3, width=2, device="cpu", dtype=torch.float64, **settings)
    weighted = clone(base).fit(x, sample_weight=weights)
    start = torch.cat([x, x[weights == 2]])
    copied = clone(base).fit(x, sample_weight=weights.double() * 7)
    assert np.allclose(weighted.log_prob(x), copied.log_prob(x), atol=1e-12)
    plain = clone(base).fit(x)
    assert not np.allclose(weighted.log_prob(x), plain.log_prob(x), atol=1e-3)
    assert len(start) == 80


def test_same_seed_same_density_and_a_training_that_goes_on(tmp_path):
    x = linked(3, 6)
    first, second = fitted(3, 6), clone(fitted(3, 6)).fit(x)
    assert torch.equal(first.log_prob(x), second.log_prob(x))
    assert not torch.equal(first.log_prob(x), fitted(3, 6, seed=1).log_prob(x))
    in_folder = fitted(3, 6, out=tmp_path / "run")
    again = clone(in_folder).fit(x)
    assert torch.equal(in_folder.log_prob(x), again.log_prob(x))


def test_saved_and_pickled(tmp_path):
    x = linked(3, 6)
    for kind in ({}, {"squared": True}, {"tree": htf.DimensionTree.interleaved(6)}):
        density = fitted(3, 6, torch.float32, **kind)
        density.save(tmp_path / "density.safetensors")
        loaded = TensorDensity.from_state(*read_tensors(tmp_path / "density.safetensors", "a model"))
        assert torch.equal(loaded.log_prob(x), density.log_prob(x))
        assert torch.equal(loaded.sample(4, seed=0), density.sample(4, seed=0))
        assert loaded.get_params() == density.get_params()
        assert torch.equal(pickle.loads(pickle.dumps(density)).log_prob(x), density.log_prob(x))
    with pytest.raises(ValueError, match="holds a TensorDensity; expected a GenerativeClassifier"):
        htf.models.GenerativeClassifier.from_state(*density.state())


@pytest.mark.parametrize("ask", ["log_prob", "score", "bits_per_dim", "score_samples"])
def test_not_fitted(ask):
    with pytest.raises(NotFittedError):
        getattr(TensorDensity(), ask)(linked(3, 6))
    for other in ("sample", "entropy", "to_tensor", "state"):
        with pytest.raises(NotFittedError):
            getattr(TensorDensity(), other)()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"width": 0}, ValueError, "width is 0"),
        ({"levels": 1}, ValueError, "levels is 1"),
        ({"levels": 2.5}, TypeError, "levels is 2.5"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"patch": 0}, ValueError, "patch is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"lr": 0}, ValueError, "lr is 0"),
        ({"lr": 1.5}, ValueError, "lr is 1.5; expected above 0 and at most 1"),
        ({"smoothing": -1}, ValueError, "smoothing is -1"),
        ({"leaf": "poisson"}, ValueError, "leaf is 'poisson'"),
        ({"format": "mps"}, ValueError, "format is 'mps'"),
        ({"tree": "ht"}, ValueError, "tree is 'ht'; expected a DimensionTree"),
        ({"tree": htf.DimensionTree.balanced(5)}, ValueError, "tree has 5 modes; the samples have 6"),
        ({"squared": True, "leaf": "binomial"}, ValueError, "squared is True"),
        ({"device": "cuda:99"}, ValueError, "cannot be used"),
        ({"dtype": torch.int64}, TypeError, "dtype is torch.int64"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        TensorDensity(**({"levels": 3, "width": 2, "epochs": 1, "device": "cpu"} | settings)).fit(linked(3, 6))


NAN = np.full((3, 6), np.nan)


@pytest.mark.parametrize(
    ("x", "fit", "error", "words"),
    [
        (linked(3, 6) + 1, {}, ValueError, "x holds 3; expected levels from 0 to 2"),
        (linked(3, 6) - 1, {}, ValueError, "x holds -1"),
        (NAN, {}, ValueError, "NaN in sample 0"),
        (np.full((3, 6), np.inf), {}, ValueError, "infinity in sample 0"),
        (linked(3, 6)[:0], {}, ValueError, "0 sample"),
        (linked(3, 6)[:, :1], {}, ValueError, "at least 2"),
        (linked(3, 6)[0], {}, ValueError, "expected \\(samples, height, width\\) or"),
        (linked(3, 16).view(-1, 2, 2, 4), {}, ValueError, "expected \\(samples, height, width\\) or"),
        (np.array([["a", "b"]]), {}, ValueError, "expected numbers"),
        (linked(3, 6), {"sample_weight": -np.ones(400)}, ValueError, "sample_weight has entries that are negative"),
        (linked(3, 6), {"sample_weight": np.zeros(400)}, ValueError, "sample_weight is zero for all"),
        (linked(3, 6), {"sample_weight": np.ones(3)}, ValueError, "sample_weight has shape \\(3,\\)"),
        (linked(3, 6), {"validation": 1.5}, ValueError, "validation is 1.5"),
        (linked(3, 6)[:1], {"validation": 0.5}, ValueError, "none would be left"),
        (linked(3, 6), {"validation": linked(3, 5)}, ValueError, "5 features"),
        (linked(3, 6), {"validation": linked(4, 6)}, ValueError, "x holds 3"),
    ],
)
def test_bad_samples(x, fit, error, words):
    with pytest.raises(error, match=words):
        TensorDensity(levels=3, width=2, epochs=1, device="cpu").fit(x, **fit)


def test_bad_questions():
    density, x = fitted(3, 6, epochs=1), linked(3, 6)[:3]
    mask = torch.zeros(3, 6, dtype=torch.bool)
    cases = [
        (lambda: density.log_prob(linked(3, 5)), ValueError, "5 features.*6 features"),
        (lambda: density.log_prob(linked(3, 6).view(-1, 2, 3)), ValueError, "samples of shape \\(2, 3\\)"),
        (lambda: density.log_prob(x + 1), ValueError, "x holds 3"),
        (lambda: density.log_prob(x + 0.5), ValueError, "x holds real numbers"),
        (lambda: density.log_prob(NAN), ValueError, "NaN in sample 0; .* missing=mask"),
        (lambda: density.log_prob(NAN, missing=mask), ValueError, "NaN"),
        (lambda: density.log_prob(x, missing=mask[:, :3]), ValueError, "missing has shape \\(3, 3\\)"),
        (lambda: density.log_prob(x, missing=mask.long()), TypeError, "missing has dtype"),
        (lambda: density.most_probable(x, missing=None), ValueError, "missing is None"),
        (lambda: density.sample(2, given=x), ValueError, "given comes alone"),
        (lambda: density.sample(2, missing=mask), ValueError, "missing comes alone"),
        (lambda: density.sample(0), ValueError, "n is 0"),
        (lambda: density.sample(1, seed=-1), ValueError, "seed is -1"),
        (lambda: density.mutual_information([]), ValueError, "none of 6"),
        (lambda: density.mutual_information(range(6)), ValueError, "all of 6"),
        (lambda: density.mutual_information([6]), IndexError, "modes holds 6"),
    ]
    for ask, error, words in cases:
        with pytest.raises(error, match=words):
            ask()


@pytest.mark.parametrize("squared", [False, True])
def test_interrupted_fits_can_be_asked(monkeypatch, squared):
    from htf.training import Training

    advance = Training.advance

    def interrupted(training):
        if training.step == 7:
            raise KeyboardInterrupt
        advance(training)

    monkeypatch.setattr(Training, "advance", interrupted)
    density = TensorDensity(levels=3, width=2, batch_size=100, epochs=5, squared=squared, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        density.fit(linked(3, 6), validation=0.1)
    assert float(density.log_prob(everything(3, 6)).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", [{}, {"squared": True, "lr": 0.02}, {"leaf": "gaussian", "components": 3}])
def test_partial_fit_goes_on(kind):
    x, others = linked(3, 6), linked(3, 6, seed=5)
    density = TensorDensity(levels=3, width=4, batch_size=50, device="cpu", dtype=torch.float64, **kind)
    scores = [density.partial_fit(x[part % 4 :: 4]).score(others) for part in range(12)]
    assert scores[-1] > scores[0] + 0.05
    again = clone(density).fit(x).partial_fit(x)
    assert again.score(others) > scores[0]
    with pytest.raises(ValueError, match="expecting 6 features"):
        density.partial_fit(x[:, :5])


def test_a_full_partial_step_is_the_one_of_fit():
    x = linked(3, 6)
    settings = {"epochs": 1, "lr": 1.0, "schedule": "constant", "batch_size": 400}
    density = fitted(3, 6, **settings)
    assert torch.equal(clone(density).partial_fit(x).log_prob(x), density.log_prob(x))
    two = clone(density).set_params(smoothing=0).partial_fit(x).partial_fit(x)
    assert torch.equal(two.log_prob(x), clone(two).set_params(epochs=2).fit(x).log_prob(x))


def test_images_of_few_bits_fill_the_levels():
    images = torch.randint(0, 17, (30, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    density = TensorDensity(levels=8, width=2, epochs=1, device="cpu").fit(images)
    assert torch.equal(density.levels_.encode(images), (images // 4).short())
    assert int(density.levels_.encode(torch.tensor([200], dtype=torch.uint8))) == 7
    levels = torch.arange(8)
    assert torch.equal(density.levels_.encode(density.levels_.decode(levels)).long(), levels)
