"""What holds for every estimator: single samples and batches of one, devices and dtypes, trees of all forms, memory."""

import os
import weakref

import numpy as np
import pytest
import torch
from models.cases import answers
from sklearn.exceptions import NotFittedError
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import htf
from htf.models import GenerativeClassifier, TensorClassifier, TensorDensity, TensorRegressor
from htf.nn import HTNetwork
from htf.nn.init import distributions
from htf.training import ExpectationMaximization

SMALL = {"width": 2, "epochs": 1, "device": "cpu"}
KINDS = {
    "classifier": lambda **settings: TensorClassifier(**{**SMALL, **settings}),
    "regressor": lambda **settings: TensorRegressor(**{**SMALL, **settings}),
    "density": lambda **settings: TensorDensity(**{"levels": 3, **SMALL, **settings}),
    "squared": lambda **settings: TensorDensity(**{"levels": 3, "squared": True, **SMALL, **settings}),
    "gaussian": lambda **settings: TensorDensity(**{"leaf": "gaussian", "components": 2, **SMALL, **settings}),
    "generative": lambda **settings: GenerativeClassifier(**{"levels": 3, **SMALL, **settings}),
}
X = np.random.default_rng(0).integers(0, 3, (40, 9))
Y = np.arange(40) % 2


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_told_by_every_estimator(kind, tmp_path):
    make = KINDS[kind]
    for settings, error, words in (
        ({"width": 0}, ValueError, "width is 0"),
        ({"width": 1.5}, TypeError, r"width is 1\.5; expected an integer"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"lr": float("nan")}, ValueError, "lr is nan"),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' cannot be used"),
        ({"device": 3.5}, TypeError, r"device is 3\.5; expected a name"),
        ({"out": 5}, TypeError, "out is 5; expected a path"),
        ({"patch": 0}, ValueError, "patch is 0"),
    ):
        with pytest.raises(error, match=words):
            make(**settings).fit(X, Y)
    with pytest.raises(NotFittedError):
        answers(make(), X)
    images, values = X[:, :8].reshape(40, 2, 4).astype(np.float64), X.astype(np.float64)
    model, of_images = make().fit(values, Y), make().fit(images, Y)
    values[3, 2] = np.nan
    for fitted, x in ((model, X[:, :8]), (of_images, images[:, :, :3]), (model, images), (of_images, X[:, :8])):
        with pytest.raises(ValueError, match=r"features|shape|Found array with dim"):
            answers(fitted, x)
    for call in (lambda: answers(model, values), lambda: make().fit(values, Y)):
        if kind == "gaussian":  # what is not known is integrated over in training
            break
        with pytest.raises(ValueError, match="NaN"):
            call()
    if hasattr(model, "predict"):
        with pytest.raises(ValueError, match=r"requires y"):
            make().fit(X, None)
    model.save(tmp_path / "model")
    other = GenerativeClassifier if kind != "generative" else TensorDensity
    with pytest.raises(ValueError, match=f"holds a {type(model).__name__}; expected a {other.__name__}"):
        other.from_state(*model.state())
    (tmp_path / "model").write_bytes(os.urandom(100))
    with pytest.raises(ValueError, match="model"):
        htf.models.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"flips": "no"}, TypeError, "flips is 'no'; expected True or False"),
        ({"shifts": 1.5}, TypeError, r"shifts is 1\.5; expected an integer"),
        ({"shifts": -1}, ValueError, "shifts is -1"),
        ({"stride": 0}, ValueError, "stride is 0"),
        ({"noise": float("inf")}, ValueError, "noise is inf"),
    ],
)
def test_bad_settings_of_estimators_of_images(settings, error, words):
    for kind in ("classifier", "regressor"):
        for x in (X, X[:, :8].reshape(40, 2, 4).astype(np.float32)):
            with pytest.raises(error, match=words):
                KINDS[kind](**settings).fit(x, Y)


def test_squared_is_a_flag():
    with pytest.raises(TypeError, match="squared is 'yes'; expected True or False"):
        TensorDensity(levels=3, squared="yes").fit(X)


@pytest.mark.parametrize("kind", KINDS)
def test_single_samples_and_batches_of_one(kind):
    model = KINDS[kind]().fit(X, Y)
    whole = answers(model, X)
    for k in (0, 7):
        np.testing.assert_allclose(answers(model, X[k : k + 1]), whole[k : k + 1], rtol=1e-5, atol=1e-7)
    if kind == "classifier":
        with pytest.raises(ValueError, match="at least 2"):
            KINDS[kind](batch_size=1).fit(X, Y)
    else:
        assert np.isfinite(answers(KINDS[kind](batch_size=1).fit(X, Y), X)).all()
    # Batches that do not divide the samples.
    assert np.isfinite(answers(KINDS[kind](batch_size=13).fit(X, Y), X)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_samples_defaults_and_devices_make_no_difference(kind):
    expected = answers(KINDS[kind]().fit(X, Y), X)

    def agrees(x, y=Y, **settings):
        found = answers(KINDS[kind](**settings).fit(x, y), x)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    for dtype in (np.float32, np.float64, np.int32, np.uint8):
        if dtype is np.uint8 and kind not in ("classifier", "regressor", "gaussian"):
            continue  # bytes have levels of their own
        agrees(X.astype(dtype))
    agrees(np.asfortranarray(X))
    agrees(torch.from_numpy(X), torch.from_numpy(Y))
    agrees(torch.from_numpy(X).float().requires_grad_(), torch.from_numpy(Y))
    for device in ("auto", torch.device("cpu")):
        agrees(X, device=device)
    torch.set_default_dtype(torch.float64)
    try:
        agrees(X)
    finally:
        torch.set_default_dtype(torch.float32)
    # Whatever was made on the default device in the middle of a fit would have no values.
    with torch.device("meta"):
        agrees(X)


@pytest.mark.parametrize("kind", ["density", "squared", "gaussian", "generative"])
def test_dtypes_of_probabilities(kind):
    # Values that repeat may lie halfway between means, where rounding decides.
    x = np.random.default_rng(0).normal(size=X.shape) if kind == "gaussian" else X
    single, double = (KINDS[kind](dtype=dtype).fit(x, Y) for dtype in (torch.float32, torch.float64))
    for model, dtype in ((single, torch.float32), (double, torch.float64)):
        assert {weight.dtype for weight in model.network.parameters()} == {dtype}
        assert answers(model, x).dtype == np.float64
    np.testing.assert_allclose(answers(single, x), answers(double, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [{"format": "cp", "width": 256}, {"format": "tt", "width": 2}])
def test_wide_shallow_and_narrow_deep_trees_learn(shape):
    # Each other feature repeats the one before, and the class is the value of the first.
    bits = np.random.default_rng(0).integers(0, 2, (200, 12)).repeat(2, 1)
    settings = shape | {"epochs": 5, "device": "cpu"}
    density = TensorDensity(levels=2, batch_size=50, **settings).fit(bits)
    assert len(list(density.network.tree)) - 1 == (1 if shape["format"] == "cp" else 23)
    # Of bits that do not depend on each other: 1 bit a feature.
    assert density.bits_per_dim(bits) < 0.98
    classifier = TensorClassifier(dropout=0.0, lr=0.02, batch_size=25, **settings).fit(bits, bits[:, 0])
    assert classifier.score(bits, bits[:, 0]) > 0.9


class Live(TorchDispatchMode):
    """Bytes of all storages that operations make, at most at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.known:
                    self.known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.freed, key, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def freed(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("kind", ["wide", "deep", "images"])
def test_memory_of_a_training_step_is_that_of_its_activations(kind):
    tree, width, batch = {
        "wide": (htf.DimensionTree.balanced(32, 32), 512, 128),
        "deep": (htf.DimensionTree.linear(40), 16, 256),
        "images": (htf.DimensionTree.grid(16, 16), 32, 256),
    }[kind]
    x = torch.randint(0, 8, (batch, tree.order), generator=torch.Generator().manual_seed(0))
    network = HTNetwork(tree, 8, width, init=distributions(x), seed=0, dtype=torch.float32)
    plan, optimizer = network.plan(x), ExpectationMaximization(network, lr=0.3)
    for _ in range(2):
        with Live() as live:
            (-network.log_abs(plan)[1].mean()).backward()
            optimizer.step()
    # A vector for each leaf and sample, the product and its image for each inner node, gradients of the matrices; and
    # the gradients of the factors of one level at a time.
    vectors = tree.order + 2 * len(tree.inner_nodes)
    level = max(sum(len(tree.children(node)) for node in nodes) for nodes in tree)
    needed = 4 * (batch * width * (vectors + level) + network.n_parameters())
    assert 0.2 * needed < live.most < 1.5 * needed
