"""Manners of estimators: scikit-learn's own checks, files, what interrupts leave, and what is refused."""

import signal

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import htf
from htf import DimensionTree
from htf._files import write_tensors
from htf.models import TensorClassifier, TensorRegressor

# Batches are drawn at random, so that a sample of weight two is not two samples.
DRAWN = {"check_sample_weight_equivalence_on_dense_data"}
ESTIMATORS = [TensorClassifier(width=4, epochs=15), TensorRegressor(width=4, epochs=15)]


def checks():
    for estimator in ESTIMATORS:
        for each, check in estimator_checks_generator(estimator):
            name = check.func.__name__
            if name not in DRAWN:
                yield pytest.param(each, check, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_manners_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def images():
    data = htf.datasets.load("digits").take(300, 60)
    return data.train_images, data.train_labels, data.test_images, data.test_labels


@pytest.fixture(scope="module")
def fitted(images):
    return TensorClassifier(width=8, epochs=8).fit(*images[:2])


def table(samples=80, features=3):
    X = np.random.RandomState(0).randn(samples, features)
    return X, np.where(X[:, 0] * X[:, 1] > 0, "same", "other")


def test_a_product_of_features_is_learned_in_a_pipeline_and_a_search():
    X, y = table(200)
    pipeline = make_pipeline(StandardScaler(), TensorClassifier(width=4, epochs=15))
    assert pipeline.fit(X, y).score(X, y) > 0.9
    search = GridSearchCV(TensorClassifier(epochs=5), {"width": [1, 4]}, cv=2).fit(X, y)
    assert set(search.best_params_) == {"width"}
    assert clone(search.best_estimator_).width == search.best_params_["width"]


@pytest.mark.parametrize("format", ["ht", "cp", "tt"])
def test_formats(images, format):
    model = TensorClassifier(format=format, width=8, epochs=8).fit(*images[:2])
    assert model.score(*images[2:]) > 0.7
    depth = {"ht": 2, "cp": 1, "tt": 15}[format]
    assert len(list(model.network.tree)) - 1 == depth


def test_a_tree_of_ones_own_over_overlapping_patches(images):
    model = TensorClassifier(patch=4, stride=2, tree=DimensionTree.balanced(9, 3), width=6, epochs=4)
    model.fit(*images[:2])
    assert model.network.dims == (17,) * 9
    assert model.predict_proba(images[2]).sum(1) == pytest.approx(np.ones(60))


def test_the_class_told_is_that_of_the_multilinear_form(images, fitted):
    vectors = fitted.module_.encoder(images[2].unsqueeze(1), torch.float64)
    tensor = fitted.to_tensor()
    outputs = htf.nn.HTNetwork.from_tensor(tensor).double()(vectors)
    np.testing.assert_array_equal(fitted.classes_[outputs.argmax(1).numpy()], fitted.predict(images[2]))


def test_arrays_and_tensors_bytes_and_floats_are_alike(images):
    X, y, *_ = images
    a = TensorClassifier(width=4, epochs=2).fit(X, y).predict_proba(X)
    b = TensorClassifier(width=4, epochs=2).fit(X.numpy(), y.numpy()).predict_proba(X.numpy())
    c = TensorClassifier(width=4, epochs=2).fit(X.float() / 255, y).predict_proba(X.float() / 255)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, c, atol=1e-4)


@pytest.mark.parametrize("how", ["safetensors", "joblib"])
def test_files(tmp_path, images, fitted, how):
    path = tmp_path / "model"
    if how == "joblib":
        joblib.dump(fitted, path)
        again = joblib.load(path)
    else:
        fitted.save(path)
        again = htf.models.load(path)
    assert again.get_params() == fitted.get_params()
    np.testing.assert_array_equal(again.predict_proba(images[2]), fitted.predict_proba(images[2]))


def test_a_regressor_from_its_file(tmp_path):
    X, _ = table()
    y = np.stack([X[:, 0] * X[:, 1], X[:, 2] + 5], 1)
    model = TensorRegressor(width=4, epochs=80, tree=DimensionTree.linear(3)).fit(X, y, validation=0.2)
    assert model.score(X, y) > 0.9
    model.save(tmp_path / "model")
    again = htf.models.load(tmp_path / "model")
    assert again.get_params()["tree"] == DimensionTree.linear(3)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    (tmp_path / "model").write_bytes((tmp_path / "model").read_bytes()[:-3])
    with pytest.raises(ValueError, match="model"):
        htf.models.load(tmp_path / "model")


def test_the_best_epoch_on_validation_data_is_kept(images):
    X, y, others, labels = images
    model = TensorClassifier(width=8, epochs=6, lr=2e-2).fit(X, y, validation=(others, labels))
    accuracies = model.history_["validation"]["accuracy"]
    assert model.score(others, labels) == pytest.approx(float(accuracies.max()))


def test_an_interrupt_keeps_what_was_best_and_the_folder_goes_on(tmp_path, images, monkeypatch):
    X, y, *_ = images
    settings = {"width": 8, "epochs": 6, "seed": 1}
    whole = TensorClassifier(**settings).fit(X, y, validation=0.2)
    cut = TensorClassifier(**settings, out=tmp_path / "run")
    from htf.training.objectives.classification import Classes

    measure, count = Classes.measure, [0]

    def interrupted(self, model, epoch):
        count[0] += 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return measure(self, model, epoch)

    monkeypatch.setattr(Classes, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, y, validation=0.2)
    assert cut.predict(X).shape == y.shape
    assert len(cut.history_.loss) == 3
    again = TensorClassifier(**settings, out=tmp_path / "run").fit(X, y, validation=0.2)
    np.testing.assert_array_equal(again.predict_proba(X), whole.predict_proba(X))


def test_weights_of_samples_and_classes():
    X, y = table(120)
    heavy = TensorClassifier(width=2, epochs=8, class_weight={"same": 50.0, "other": 1.0}).fit(X, y)
    light = TensorClassifier(width=2, epochs=8).fit(X, y, sample_weight=np.where(y == "same", 1.0, 50.0))
    assert (heavy.predict(X) == "same").mean() > (light.predict(X) == "same").mean() + 0.2
    assert TensorClassifier(epochs=1, class_weight="balanced").fit(X, y).predict(X).shape == (120,)


def test_partial_fit_goes_on(images):
    X, y, others, labels = images
    model = TensorClassifier(width=8)
    for part in range(24):
        model.partial_fit(X[part % 3 :: 3], y[part % 3 :: 3], classes=range(10))
    assert model.score(others, labels) > 0.7
    with pytest.raises(ValueError, match="label 11; expected one of"):
        model.partial_fit(X[:20], y[:20] * 0 + 11)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"width": 0}, ValueError, "width is 0"),
        ({"format": "mps"}, ValueError, "format is 'mps'; expected one of ht, cp, tt"),
        ({"patch": 9}, ValueError, "patch is 9; images are 8 x 8"),
        ({"tree": DimensionTree.balanced(5)}, ValueError, "tree has 5 modes; the samples have 16"),
        ({"tree": "balanced"}, ValueError, "tree is 'balanced'; expected a DimensionTree or 'arrange'"),
        ({"dropout": 1.0}, ValueError, "dropout is 1.0; expected from 0 to below 1"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5"),
        ({"lr": -1.0}, ValueError, "lr is -1.0"),
        ({"device": "cuda:77"}, (ValueError, RuntimeError), "cuda:77"),
    ],
)
def test_bad_settings(images, settings, error, message):
    with pytest.raises(error, match=message):
        TensorClassifier(**{"epochs": 1, **settings}).fit(images[0][:40], images[1][:40])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X, None), ValueError, "requires y to be passed"),
        (lambda X, y: (X, y * 0), ValueError, "y has one class, 0; expected at least 2"),
        (lambda X, y: (X, y + 0.5), ValueError, "Unknown label type"),
        (lambda X, y: (X, y[:-1]), ValueError, "X has 40 images and y 39"),
        (lambda X, y: (X.float() * torch.nan, y), ValueError, "X has pixels that are NaN or infinite"),
        (lambda X, y: (X * 1j, y), TypeError, "complex"),
        (lambda X, y: (X.numpy().astype(str), y), TypeError, "expected real numbers"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "at least one image"),
        (lambda X, y: (X[:1], y[:1]), ValueError, "one class"),
    ],
)
def test_bad_data(images, change, error, message):
    with pytest.raises(error, match=message):
        TensorClassifier(epochs=1).fit(*change(images[0][:40], images[1][:40]))


def test_what_a_fitted_estimator_refuses(tmp_path, images, fitted):
    with pytest.raises(ValueError, match=r"samples of shape \(1, 9, 9\); the estimator was fitted to \(1, 8, 8\)"):
        fitted.predict(torch.zeros(2, 9, 9, dtype=torch.uint8))
    with pytest.raises(TypeError, match="float32; the estimator was fitted to bytes, whose pixels have another scale"):
        fitted.predict(images[2].float())
    with pytest.raises(ValueError, match="sample_weight has entries that are negative"):
        TensorClassifier(epochs=1).fit(*images[:2], sample_weight=-np.ones(300))
    with pytest.raises(ValueError, match=r"validation is 1\.5; expected a share between 0 and 1"):
        TensorClassifier(epochs=1).fit(*images[:2], validation=1.5)
    with pytest.raises(ValueError, match="validation has the label 77, which y has not"):
        TensorClassifier(epochs=1).fit(*images[:2], validation=(images[2], images[3] * 0 + 77))
    new = TensorClassifier()
    for call in (
        lambda: new.network,
        new.to_tensor,
        lambda: new.save(tmp_path / "model"),
        lambda: new.predict(images[2]),
    ):
        with pytest.raises(NotFittedError):
            call()
    htf.save(htf.random_ht((3, 3), 2, random_state=0), tmp_path / "tensor")
    with pytest.raises(ValueError, match="model"):
        htf.models.load(tmp_path / "tensor")


@pytest.mark.parametrize("kind", ["TensorDensity", "GenerativeClassifier"])
def test_models_of_probabilities_from_their_files(tmp_path, images, kind):
    X, y, others, _ = images
    model = getattr(htf.models, kind)(levels=17, width=2, epochs=1, device="cpu").fit(X, y)
    model.save(tmp_path / "model")
    again = htf.models.load(tmp_path / "model")
    assert type(again).__name__ == kind
    assert torch.equal(again.log_prob(others), model.log_prob(others))


def test_files_of_estimators_that_nested_their_trees_are_read(tmp_path):
    X, y = table(60)
    tree = DimensionTree.from_nested(((0, 2), 1))
    model = TensorClassifier(width=3, epochs=2, tree=tree).fit(X, y)
    tensors, about = model.state()
    classes = {"classes": model.classes_.tolist(), "dtype": model.classes_.dtype.str}
    written_by_0_2 = {
        "model": "TensorClassifier",
        "parameters": model.get_params() | {"out": None, "tree": [[0, 2], 1]},
        "encoder": about["encoder"],
        "tree": [[0, 2], 1],
        "width": 3,
        "fitted": {"n_features_in_": 3, "shape": [3], "in_bytes": False} | classes,
    }
    write_tensors(tmp_path / "model", tensors, written_by_0_2, "a model")
    again = htf.models.load(tmp_path / "model")
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("kind", ["TensorClassifier", "TensorRegressor", "TensorDensity", "GenerativeClassifier"])
def test_every_estimator_has_one_manner_of_settings_splits_and_weights(kind):
    X, y = np.tile(np.arange(3), (40, 3)) % 3, np.arange(40) % 2

    def fit(settings, **given):
        device = {"levels": 3, "device": "cpu"} if kind in ("TensorDensity", "GenerativeClassifier") else {}
        return getattr(htf.models, kind)(**{"width": 2, "epochs": 1, **device, **settings}).fit(X, y, **given)

    for settings, error, words in (
        ({"format": "mps"}, ValueError, "format is 'mps'; expected one of ht, cp, tt"),
        ({"tree": "ht"}, ValueError, "tree is 'ht'; expected a DimensionTree"),
        ({"tree": DimensionTree.balanced(5)}, ValueError, "tree has 5 modes; the samples have 9"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"patience": 0}, ValueError, "patience is 0"),
    ):
        with pytest.raises(error, match=words):
            fit(settings)
    for weights, words in (
        (-np.ones(40), "sample_weight has entries that are negative, NaN or infinite"),
        (np.full(40, np.nan), "sample_weight has entries that are negative, NaN or infinite"),
        (np.zeros(40), "sample_weight is zero for all samples"),
        (np.ones(3), r"sample_weight has shape \(3,\); expected \(40,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            fit({}, sample_weight=weights)
    for validation, error, words in (
        (True, TypeError, "validation is True; expected a share"),
        (0.0, ValueError, r"validation is 0\.0; expected a share between 0 and 1"),
        (0.999, ValueError, "none would be left to train on"),
    ):
        with pytest.raises(error, match=words):
            fit({}, validation=validation)
    model = fit({}, validation=np.float32(0.25), sample_weight=np.ones(40))
    assert model.network.outputs == model.to_tensor().outputs


@pytest.mark.parametrize("kind", ["table", "images"])
def test_a_tree_is_found_on_the_training_split(tmp_path, images, kind):
    X, y, others, _ = images
    if kind == "table":
        X, others = (each.flatten(1).double().numpy() for each in (X, others))
    model = TensorClassifier(tree="arrange", patch=None if kind == "table" else 2, width=6, epochs=2, seed=3)
    model.fit(X, y, validation=0.5)
    kept = model._split(0.5, len(X))[0]

    def features(samples):
        return samples if kind == "table" else model.module_.encoder(samples.unsqueeze(1), torch.float64)

    found = htf.arrange(features(X[kept.numpy() if kind == "table" else kept]), method="correlation", seed=3).tree
    assert model.network.tree == found
    assert model.network.tree != htf.arrange(features(X), method="correlation", seed=3).tree
    model.save(tmp_path / "model")
    again = htf.models.load(tmp_path / "model")
    assert again.get_params()["tree"] == "arrange"
    np.testing.assert_array_equal(again.predict_proba(others), model.predict_proba(others))


def test_a_regressor_finds_a_tree_on_all_samples_but_other_ones():
    rng = np.random.RandomState(0)
    X = rng.randn(120, 6).cumsum(1)[:, [3, 0, 5, 1, 4, 2]]
    y = X[:, 1] * X[:, 3]
    model = TensorRegressor(tree="arrange", width=4, epochs=2).fit(X, y, validation=(X[:20], y[:20]))
    assert model.network.tree == htf.arrange(X, method="correlation").tree
    with pytest.raises(ValueError, match="features has 3 features; expected at least 4"):
        TensorRegressor(tree="arrange", epochs=1).fit(X[:, :3], y)
    with pytest.raises(ValueError, match="tree is 'best'; expected a DimensionTree or 'arrange'"):
        TensorRegressor(tree="best", epochs=1).fit(X, y)
