from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf.datasets import TWINS
from htf.datasets import load as load_anew
from htf.datasets.corruption import corrupted_labels

load = cache(load_anew)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_as_many_labels_change_as_asked_and_nothing_else(share, seed):
    data = load()
    corrupted = corrupted_labels(share)(data, seed)
    changed = int((corrupted.train_labels != data.train_labels).sum())
    # Nine of ten draws are another class; five standard deviations.
    n, rate = len(data.train_labels), 0.9 * share
    assert abs(changed - n * rate) <= 5 * (n * rate * (1 - rate)) ** 0.5 + 1e-9
    assert corrupted.classes == data.classes
    assert torch.equal(corrupted.test_labels, data.test_labels)
    assert torch.equal(corrupted.train_images, data.train_images)
    assert torch.equal(corrupted.test_images, data.test_images)


def test_corruption_is_seeded_and_grows_with_the_share():
    data = load()
    labels = [corrupted_labels(share)(data, 3).train_labels for share in (0.2, 0.2, 0.6, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], corrupted_labels(0.2)(data, 4).train_labels)
    # What is wrong at a small share is as wrong at a larger one.
    wrong = labels[0] != data.train_labels
    assert torch.equal(labels[0][wrong], labels[2][wrong])
    assert torch.equal(labels[2][wrong], labels[3][wrong])


def test_at_one_labels_are_uniform_whatever_the_proportions():
    data = load()
    few = replace(data, train_labels=torch.where(data.train_labels == 3, 3, 7))
    labels = corrupted_labels(1.0)(few, 0).train_labels
    assert sorted(set(labels.tolist())) == [3, 7]
    assert 0.4 < float((labels == 3).float().mean()) < 0.6


def test_names_say_the_share():
    assert corrupted_labels(0.25).name == "corrupted_labels_0.25"
    assert corrupted_labels(1).name == "corrupted_labels_1"
    assert not corrupted_labels(0.5).changes_images


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (1.5, ValueError, r"share is 1\.5; expected from 0 to 1"),
        (-0.1, ValueError, r"share is -0\.1; expected from 0 to 1"),
        (float("nan"), ValueError, "share is nan; expected from 0 to 1"),
        ("half", TypeError, "share is 'half'; expected a number from 0 to 1"),
        (True, TypeError, "share is True; expected a number from 0 to 1"),
    ],
)
def test_shares_that_are_none(share, error, message):
    with pytest.raises(error, match=message):
        corrupted_labels(share)


def test_gaussian_images_have_the_mean_and_variance_of_the_data():
    data = load()
    # Grey enough that little is cut off.
    soft = replace(data, train_images=data.train_images + 100, test_images=data.test_images + 100, maximum=255)
    twin = TWINS["gaussian_images"](soft, 0)
    for part in ("train", "test"):
        noise = getattr(twin, f"{part}_images").double()
        assert noise.mean() == pytest.approx(float(soft.train_images.double().mean()), abs=0.1)
        assert noise.std() == pytest.approx(float(soft.train_images.double().std()), rel=0.02)
        kurtosis = ((noise - noise.mean()) / noise.std()).pow(4).mean()
        assert kurtosis == pytest.approx(3, abs=0.1)
        # Independent pixels, unlike the data's.
        assert float(torch.corrcoef(noise.flatten(1).T).fill_diagonal_(0).abs().max()) < 0.25
    dark = TWINS["gaussian_images"](data, 0).train_images
    assert int(dark.max()) == data.maximum


def colored(data):
    """Images (n, height, width, 3) whose channels say which pixel of the grey image they are from."""
    height, width = data.image_size
    place = torch.arange(height * width, dtype=torch.uint8).view(1, height, width).expand_as(data.train_images)
    images = torch.stack([data.train_images, place, 2 * place], dim=-1)
    return replace(data, train_images=images, test_images=images[: len(data.test_labels)], maximum=255)


@pytest.mark.parametrize("name", ["shuffled_pixels", "random_pixels"])
def test_color_images_move_whole_pixels_as_grey_ones_do(name):
    data = load()
    color = colored(data)
    assert color.image_size == data.image_size
    moved = TWINS[name](color, 5).train_images
    assert torch.equal(moved[..., 0], TWINS[name](data, 5).train_images)
    assert torch.equal(moved[..., 2], 2 * moved[..., 1])
    flat = moved[..., 1].flatten(1)
    assert torch.equal(flat.sort(1).values, color.train_images[..., 1].flatten(1).sort(1).values)
    assert bool((flat[0] == flat[1]).all()) == (name == "shuffled_pixels")


def test_gaussian_color_images_have_the_mean_of_each_channel():
    data = load()
    place = torch.full_like(data.train_images, 90)
    place[::2] = 70
    images = torch.stack([place, place + 50], dim=-1)
    color = replace(data, train_images=images, test_images=images[:10], maximum=255)
    means = TWINS["gaussian_images"](color, 0).train_images.double().mean((0, 1, 2))
    assert means.tolist() == pytest.approx([80, 130], abs=0.5)
