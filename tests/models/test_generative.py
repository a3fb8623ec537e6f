"""Classes from whatever is known of a sample."""

import math
import pickle
from functools import lru_cache

import numpy as np
import pytest
import torch
from density_cases import chi_square, everything, linked
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import htf
from htf._files import read_tensors
from htf.models import GenerativeClassifier


def labelled(samples=400):
    x = linked(3, 6, samples)
    return x, x[:, 0] * (x[:, 1] > 0) + 10


@lru_cache(maxsize=32)
def fitted(**settings):
    settings = {"width": 5, "epochs": 5, "batch_size": 80, "device": "cpu", "dtype": torch.float64} | settings
    return GenerativeClassifier(levels=3, **settings).fit(*labelled())


@pytest.mark.parametrize("kind", [{}, {"format": "cp"}, {"format": "tt"}, {"leaf": "binomial"}])
def test_posteriors_are_those_of_the_table(kind):
    classifier, x = fitted(**kind), labelled()[0][:50]
    whole = classifier.log_joint(everything(3, 6)).exp().view(*[3] * 6, 3)
    assert abs(float(whole.sum()) - 1) < 1e-12
    missing = torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    missing[missing.all(1), 0] = False
    found = classifier.predict_proba(x, missing=missing)
    for row, gone, shares in zip(x, missing, found, strict=True):
        joint = whole[tuple(slice(None) if g else int(v) for v, g in zip(row, gone, strict=True))]
        joint = joint.reshape(-1, 3).sum(0)
        assert torch.allclose(shares, joint / joint.sum(), atol=1e-10)
    log = classifier.predict_log_proba(x, missing=missing)
    assert torch.allclose(log.exp(), found, atol=1e-12)
    assert np.array_equal(classifier.predict(x, missing=missing), classifier.classes_[found.argmax(1)])
    assert torch.allclose(classifier.log_prob(x), whole[tuple(x.T)].sum(1).log(), atol=1e-10)


def test_learns_classes_and_priors():
    x, y = labelled()
    classifier = fitted(epochs=20, width=8, batch_size=40)
    assert classifier.score(x, y) > 0.95
    assert np.allclose(classifier.priors_, np.unique(y, return_counts=True)[1] / 400)
    assert list(classifier.classes_) == [10, 11, 12]
    # Without the second value, whether the label is 10 cannot be known, but the first value tells between others.
    missing = torch.zeros(400, 6, dtype=torch.bool)
    missing[:, [0, 3]] = True
    assert classifier.score(x, y, missing=missing) < 0.9
    even = fitted(priors=(1 / 3,) * 3)
    assert np.allclose(even.priors_, 1 / 3)


def test_full_steps_never_lower_the_likelihood():
    settings = {"epochs": 20, "batch_size": 400, "lr": 1.0, "schedule": "constant", "smoothing": 0}
    losses = fitted(**settings).history_.loss[:, 0]
    assert bool((losses.diff() <= 1e-9).all())
    assert losses[-1] < losses[0] - 0.1


def test_samples_of_classes():
    classifier = fitted(epochs=20, width=8, batch_size=40)
    x = classifier.sample([11] * 300 + [12] * 300, seed=0)
    assert x.shape == (600, 6)
    assert (classifier.predict(x) == [11] * 300 + [12] * 300).mean() > 0.85


def test_samples_of_a_class_follow_its_table():
    classifier = fitted()
    whole = classifier.log_joint(everything(3, 6)).exp().view(*[3] * 6, 3)
    for k, label in enumerate(classifier.classes_):
        samples = classifier.sample([label] * 30_000, seed=k)
        assert abs(chi_square(samples, whole[..., k] / whole[..., k].sum())) < 4


def test_labels_of_any_kind_and_scikit_learn():
    x, y = labelled()
    names = np.array(["zero", "one", "two"])[y.numpy() - 10]
    classifier = clone(fitted()).fit(x.numpy(), names, validation=0.2)
    assert set(classifier.predict(x.numpy())) <= set(names)
    assert isinstance(classifier.predict_proba(x.numpy()), np.ndarray)
    assert classifier.history_["validation"]["log_likelihood"].shape == (5, 1)
    assert cross_val_score(clone(classifier).set_params(epochs=10), x.numpy(), y.numpy(), cv=2).mean() > 0.7
    given = clone(fitted()).fit(x, y, validation=labelled(100))
    assert given.history_["validation"]["log_likelihood"].shape == (5, 1)


def test_saved_and_pickled(tmp_path):
    x, y = labelled()
    classifier = clone(fitted()).fit(x, np.array(["a", "b", "c"])[y.numpy() - 10])
    classifier.save(tmp_path / "model.safetensors")
    loaded = GenerativeClassifier.from_state(*read_tensors(tmp_path / "model.safetensors", "a model"))
    assert torch.equal(loaded.predict_proba(x), classifier.predict_proba(x))
    assert list(loaded.predict(x)) == list(classifier.predict(x))
    assert torch.equal(pickle.loads(pickle.dumps(classifier)).predict_proba(x), classifier.predict_proba(x))


def test_what_is_impossible_in_every_class_gets_the_priors():
    x = torch.tensor([[0, 0, 1], [1, 1, 0]]).repeat(20, 1)
    y = torch.tensor([0, 1]).repeat(20)
    settings = {"width": 2, "epochs": 3, "lr": 1.0, "schedule": "constant", "smoothing": 0, "device": "cpu"}
    classifier = GenerativeClassifier(levels=3, batch_size=40, leaf="categorical", **settings).fit(x, y)
    assert torch.allclose(classifier.predict_proba(torch.tensor([[2, 2, 2]])), torch.tensor([[0.5, 0.5]]).double())
    assert classifier.log_prob(torch.tensor([[2, 2, 2]]))[0] == -math.inf


def test_bad_labels():
    x, y = labelled()
    fit = GenerativeClassifier(levels=3, width=2, epochs=1, device="cpu").fit
    cases = [
        ((x, None), ValueError, "requires y"),
        ((x, torch.zeros(400, dtype=torch.long)), ValueError, "one class"),
        ((x, y + 0.5), ValueError, "Unknown label type"),
        ((x, torch.full((400,), math.nan)), ValueError, "Unknown label type"),
        ((x, y[:5]), ValueError, "y has shape \\(5,\\)"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error, match=words):
            fit(*arguments)
    with pytest.raises(ValueError, match="none of the fitted classes"):
        fit(x, y, validation=(x, y + 1))
    with pytest.raises(TypeError, match="expected a share"):
        fit(x, y, validation=x)
    for priors in ([0.5, 0.5], [0.5, 0.2, 0.2], [-1, 1, 1]):
        with pytest.raises(ValueError, match="priors"):
            GenerativeClassifier(levels=3, width=2, priors=priors, device="cpu").fit(x, y)


def test_bad_questions():
    classifier, x = fitted(epochs=1), labelled()[0][:3]
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1] = True
    for ask in (classifier.predict, classifier.predict_proba, classifier.predict_log_proba):
        with pytest.raises(ValueError, match="missing marks all of sample 1"):
            ask(x, missing=mask)
        with pytest.raises(ValueError, match="missing has shape"):
            ask(x, missing=mask[:2])
        with pytest.raises(ValueError, match="x holds 3"):
            ask(x + 1)
    assert float(classifier.log_prob(x, missing=mask)[1]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="none of the fitted classes"):
        classifier.sample([3])
    for name in ("predict", "predict_proba", "log_prob", "log_joint", "sample"):
        with pytest.raises(NotFittedError):
            getattr(GenerativeClassifier(), name)(x)


def test_the_epoch_that_tells_most_labels_is_kept():
    x, y = labelled()
    others = labelled(150)
    classifier = clone(fitted()).set_params(epochs=8, width=8, batch_size=40).fit(x, y, validation=others)
    accuracies = classifier.history_["validation"]["accuracy"][:, 0]
    assert classifier.score(*others) == pytest.approx(float(accuracies.max()))
    priors = clone(classifier).set_params(priors=(0.98, 0.01, 0.01)).fit(x, y, validation=others)
    found = priors.history_["validation"]["accuracy"][:, 0]
    assert priors.score(*others) == pytest.approx(float(found.max()))


def test_partial_fit_goes_on():
    x, y = labelled()
    classifier = GenerativeClassifier(levels=3, width=8, batch_size=40, device="cpu")
    with pytest.raises(ValueError, match="classes is None at the first call"):
        classifier.partial_fit(x, y)
    for part in range(24):
        classifier.partial_fit(x[part % 3 :: 3], y[part % 3 :: 3], classes=[10, 11, 12, 13])
    assert classifier.score(x, y) > 0.9
    shares = np.array([float((y == label).double().mean()) for label in (10, 11, 12, 13)])
    assert np.allclose(classifier.priors_, shares)
    with pytest.raises(ValueError, match="none of the fitted classes"):
        classifier.partial_fit(x, y + 5)


def test_the_defaults_tell_digits():
    digits = htf.datasets.load("digits")
    x, y = digits.train_images, digits.train_labels
    classifier = GenerativeClassifier(width=16, epochs=8, device="cpu").fit(x[:800], y[:800])
    assert classifier.score(digits.test_images, digits.test_labels) > 0.88


def test_a_classifier_from_its_file_goes_on(tmp_path):
    x, y = labelled()
    classifier = GenerativeClassifier(levels=3, width=4, batch_size=40, device="cpu").fit(x[:200], y[:200])
    classifier.save(tmp_path / "model")
    again = htf.models.load(tmp_path / "model")
    for each in (classifier, again):
        each.partial_fit(x[200:], y[200:])
    assert torch.equal(again.log_joint(x), classifier.log_joint(x))
    assert np.array_equal(again.priors_, classifier.priors_)
