import math
from functools import partial

import pytest
import torch

from htf.datasets import TWINS, affine, complementary, encoding_moments, fourier, load, one_hot, quantize, trigonometric


def test_quantize_rounds_to_levels():
    images = torch.tensor([[[0, 127], [128, 255]]], dtype=torch.uint8)
    assert quantize(images).tolist() == [[0, 0, 1, 1]]
    assert quantize(images, 3).tolist() == [[0, 1, 1, 2]]
    assert quantize(images, 256).tolist() == [[0, 127, 128, 255]]


def test_encodings():
    images = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(affine(images), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    torch.testing.assert_close(trigonometric(images), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), atol=1e-6, rtol=0)
    assert one_hot(torch.tensor([[0, 2]]), 3).tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_bad_encodings():
    with pytest.raises(ValueError, match="levels is 1"):
        quantize(torch.zeros(1, 2, 2, dtype=torch.uint8), 1)
    with pytest.raises(TypeError, match=r"images has dtype torch\.float32"):
        quantize(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="images range from 17 to 17; expected 0 to maximum, 16"):
        quantize(torch.full((1, 2, 2), 17, dtype=torch.uint8), maximum=16)
    with pytest.raises(IndexError, match="indices reach 2; levels is 2"):
        one_hot(torch.tensor([[0, 2]]), 2)


@pytest.mark.parametrize("name", TWINS)
def test_twins_are_seeded_and_keep_sizes_and_proportions(name):
    data = load()
    twin, again, other = (TWINS[name](data, seed) for seed in (1, 1, 2))
    for part in ("train", "test"):
        labels, images = (getattr(twin, f"{part}_{what}") for what in ("labels", "images"))
        assert images.shape == getattr(data, f"{part}_images").shape
        assert torch.equal(labels.sort().values, getattr(data, f"{part}_labels").sort().values)
        assert torch.equal(labels, getattr(again, f"{part}_labels"))
        assert torch.equal(images, getattr(again, f"{part}_images"))
    same = torch.equal(twin.train_labels, other.train_labels) and torch.equal(twin.train_images, other.train_images)
    assert same == (name == "original")
    assert TWINS[name].changes_images == (not torch.equal(twin.train_images, data.train_images))


def test_random_labels_are_not_the_labels():
    data = load()
    agreement = (TWINS["random_labels"](data, 0).train_labels == data.train_labels).float().mean()
    assert 0.05 < float(agreement) < 0.15


def test_shuffled_pixels_use_one_permutation_and_random_pixels_one_an_image():
    data = load()
    before = data.train_images.flatten(1)
    shuffled = TWINS["shuffled_pixels"](data, 0).train_images.flatten(1)
    means = before.float().mean(0).sort().values
    torch.testing.assert_close(shuffled.float().mean(0).sort().values, means)
    scattered = TWINS["random_pixels"](data, 0).train_images.flatten(1)
    assert torch.equal(scattered.sort(1).values, before.sort(1).values)
    assert float(scattered.float().mean(0).std()) < 0.1 * float(means.std())


def test_random_images_use_all_greys_evenly():
    images = TWINS["random_images"](load(), 0).train_images
    counts = torch.bincount(images.flatten().long(), minlength=17).float()
    assert len(counts) == 17
    assert float((counts / counts.mean() - 1).abs().max()) < 0.1


def test_complementary_is_one_hot_on_binary_pixels_and_sums_to_one():
    images = torch.tensor([[[0, 255], [51, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.2], [0.0, 1.0]]])
    torch.testing.assert_close(complementary(images), expected)
    with pytest.raises(ValueError, match="images range from 17 to 17; expected 0 to maximum, 16"):
        complementary(torch.full((1, 2, 2), 17, dtype=torch.uint8), maximum=16)


@pytest.mark.parametrize(
    ("encoder", "levels", "mean", "second"),
    [
        (affine, None, [1, 1 / 2], [[1, 1 / 2], [1 / 2, 1 / 3]]),
        (complementary, None, [1 / 2, 1 / 2], [[1 / 3, 1 / 6], [1 / 6, 1 / 3]]),
        (trigonometric, None, [2 / math.pi] * 2, [[1 / 2, 1 / math.pi], [1 / math.pi, 1 / 2]]),
        (one_hot, 4, [1 / 4] * 4, torch.eye(4) / 4),
    ],
)
def test_moments_of_evenly_spread_pixels(encoder, levels, mean, second):
    found = encoding_moments(encoder, levels=levels)
    torch.testing.assert_close(found.mean, torch.as_tensor(mean).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.second, torch.as_tensor(second).double(), rtol=0, atol=1e-6)


def test_moments_of_images_are_their_averages():
    data = load()
    vectors = trigonometric(data.train_images, data.maximum).double()
    found = encoding_moments(trigonometric, data.train_images, maximum=data.maximum)
    torch.testing.assert_close(found.mean, vectors.mean(0))
    torch.testing.assert_close(found.second[5], vectors[:, 5].T @ vectors[:, 5] / len(vectors))
    indices = quantize(data.train_images, 3, data.maximum)
    levels = encoding_moments(one_hot, indices, levels=3)
    shares = torch.bincount(indices[:, 20].long(), minlength=3).double() / len(indices)
    torch.testing.assert_close(levels.mean[20], shares)
    with pytest.raises(ValueError, match="one_hot needs the number of levels"):
        encoding_moments(one_hot)


def test_fourier_is_orthonormal_and_its_moments_are_the_identity():
    x = torch.linspace(0, 1, 9).view(1, 3, 3)
    waves = [2**0.5 * (math.pi * k * x.flatten()).cos() for k in (1, 2)]
    expected = torch.stack([torch.ones(9), *waves], 1)
    torch.testing.assert_close(fourier(x, 1), expected[None])
    moments = encoding_moments(partial(fourier, terms=6))
    torch.testing.assert_close(moments.second, torch.eye(6).to(moments.second), atol=1e-6, rtol=0)
    torch.testing.assert_close(moments.mean, torch.eye(6)[0].to(moments.mean), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="terms is 0"):
        fourier(x, 1, terms=0)
    with pytest.raises(ValueError, match="images range from"):
        fourier(x * 2, 1)
