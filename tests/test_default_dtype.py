"""With torch's default dtype set to float64, images, models, regularizers and trainings agree."""

import pytest
import torch

import htf
from htf import DimensionTree, datasets, nn, ranks, regularizers, training
from htf.nn.init import scale_preserving

SMALL = {"train": 16, "validation": 8, "test": 16, "seed": 0}
TASKS = {
    "pathfinder": lambda: datasets.pathfinder(path_length=3, size=32, **SMALL),
    "far_parity": lambda: datasets.far_parity(**SMALL),
    "is_same_class": lambda: datasets.is_same_class("digits", distance=8, train=16, test=16, seed=0),
}
REGULARIZERS = {
    "none": lambda: None,
    "InputGradientChange": lambda: regularizers.InputGradientChange(regularizers.random_patches(size=2), seed=0),
    "Interaction": lambda: regularizers.Interaction(regularizers.random_patches(size=2), seed=0),
    "GradientFieldChange": lambda: regularizers.GradientFieldChange(size=2, distance=4, seed=0),
}
DATA = datasets.load("digits")
TWINS = {name: twin(DATA, 0).train_images for name, twin in datasets.TWINS.items()}
FLIPPED = datasets.corrupted_labels(0.5)(DATA, 0).train_labels


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("task", TASKS)
def test_images_meet_models(task):
    data, model = TASKS[task](), nn.small_resnet()
    x, y = data.train[:8]
    assert x.dtype == torch.float64 == data.train.tensors()[0].dtype
    for name, make in REGULARIZERS.items():
        out = model(x).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(out, y.to(out.dtype))
        if (regularizer := make()) is not None:
            loss = loss + regularizer(model, x, y, out)
        loss.backward()
        assert loss.dtype == torch.float64, name
    profile = ranks.separation_profile(model, data.test, distances=[0, 4])
    assert all(0 <= share <= 1 for share in profile.shares)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_classify(name):
    model = nn.small_resnet()
    settings = training.ClassifySettings(epochs=1, batch_size=8)
    result = training.classify(model, TASKS["is_same_class"](), settings=settings, regularizer=REGULARIZERS[name]())
    assert result.epochs == 1
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("encoder", [datasets.affine, datasets.trigonometric, datasets.complementary])
def test_encoded_images_meet_networks(encoder):
    x = encoder(DATA.train_images, DATA.maximum)
    for network in (
        nn.CPNetwork([2] * 64, 3, outputs=10, init=scale_preserving(inputs=x), seed=0),
        nn.HTNetwork(DimensionTree.grid(8, 8), 2, 3, init=scale_preserving(inputs=x), seed=0),
    ):
        assert network(x).dtype == torch.float64


def test_discrete_images_meet_networks():
    indices = datasets.quantize(DATA.train_images, 2, DATA.maximum)
    targets = datasets.one_vs_all(DATA.train_labels, 6).unsqueeze(1)
    network = nn.HTNetwork(DimensionTree.grid(8, 8), 2, 3, seed=0)
    training.center_outputs(network, network.plan(indices), targets)
    torch.testing.assert_close(network(indices).mean(0), targets.mean(0))
    assert targets.dtype == network(datasets.one_hot(indices, 2)).dtype == torch.float64


def test_layers_and_surgery():
    x = DATA.train_images[:16].unsqueeze(1) / DATA.maximum
    model = nn.small_resnet(outputs=10, strides=(2, 1, 2, 1, 1))
    deep = htf.overparameterize(model, depth=3, seed=0)
    small = htf.factorize(model, format="ht", rank=0.3)
    for each in (model, deep, small, htf.collapse(deep)):
        assert each(x).dtype == torch.float64
    for layer in (nn.OverparamLinear(64, 5, seed=0), nn.FactorizedLinear(64, 8, rank=0.5, seed=0)):
        assert layer(x.flatten(1)).dtype == torch.float64


def test_seeds_mean_the_same():
    for name, images in TWINS.items():
        assert torch.equal(datasets.TWINS[name](DATA, 0).train_images, images), name
    assert torch.equal(datasets.corrupted_labels(0.5)(DATA, 0).train_labels, FLIPPED)


def test_crossed_dots():
    assert datasets.crossed_dots(TASKS["pathfinder"](), "train", 2).dtype == torch.float64
