"""Images that are moved and mirrored at random while a model is trained."""

import numpy as np
import pytest
import torch

from htf.models import TensorClassifier, TensorRegressor
from htf.models._network import EncodedNetwork, shifted


def test_images_are_moved_by_whole_pixels_and_borders_repeated():
    torch.manual_seed(0)
    images = torch.rand(200, 2, 5, 7)
    found = set()
    for image, moved in zip(images, shifted(images, 2), strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(padded[:, row : row + 5, column : column + 7], moved.numpy())
        ]
        assert len(places) == 1
        found |= set(places)
    # All 25 steps of up to two pixels along each axis occur.
    assert len(found) == 25


def read(model, images):
    """What the encoder of a network is given."""
    seen = []

    class Encoder:
        def __call__(self, samples, dtype):
            seen.append(samples)
            return torch.zeros(len(samples), 2, 2)

    network = model.module_.network
    stub = EncodedNetwork(Encoder(), network, False, flips=model.flips, shifts=model.shifts)
    stub.network = torch.nn.Identity()
    stub.network.dtype = torch.float32
    stub.train(model.module_.training)(images)
    return seen[0]


@pytest.mark.parametrize("kind", [TensorClassifier, TensorRegressor])
def test_half_of_the_images_are_mirrored_in_training_alone(kind):
    images, y = torch.rand(400, 2, 4, 5), torch.arange(400) % 2
    model = kind(flips=True, width=2, epochs=1, patch=2).fit(images[:40], y[:40])
    assert model.module_.flips
    assert torch.equal(read(model, images), images)  # after a fit, nothing is changed
    model.module_.train()
    torch.manual_seed(0)
    found = read(model, images)
    kept = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    # 400 fair draws are within 4 standard deviations of their mean.
    assert 160 < int(mirrored.sum()) < 240
    torch.testing.assert_close(model.predict(images), model.predict(images), rtol=0, atol=0)


def test_a_model_of_mirrored_images_tells_mirrored_images():
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(80, 4, 6)), np.arange(80) % 2
    images[:, :, 0] += 3 * y[:, None]  # on the left alone
    settings = {"width": 4, "epochs": 8, "patch": 2, "dropout": 0.0, "lr": 0.02}
    plain, flipped = (TensorClassifier(flips=flips, **settings).fit(images, y) for flips in (False, True))
    assert flipped.score(images[:, :, ::-1], y) > 0.9
    assert plain.score(images[:, :, ::-1], y) < 0.8


def test_what_is_drawn_is_of_the_seed():
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(64, 4, 6)), np.arange(64) % 2
    before = torch.get_rng_state()
    settings = {"flips": True, "shifts": 1, "width": 2, "epochs": 2, "patch": 2}
    first, same, other = (
        TensorClassifier(**settings, seed=seed).fit(images, y).predict_proba(images) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), before)
