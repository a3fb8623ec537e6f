import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import htf
from htf.datasets import far_parity
from htf.datasets.far_parity import labels_of

FEW = {"train": 6, "validation": 4, "test": 4}


def label(image, positions):
    """By the definition, pixel by pixel."""
    equal = [image[tuple(one)] == image[tuple(other)] for one, other in positions]
    return sum(bool(e) for e in equal) % 2


def target(shape, levels, positions):
    """The labels of all images, a tensor of order height × width."""
    images = np.array(list(itertools.product(range(levels), repeat=shape[0] * shape[1])), dtype=np.uint8)
    return labels_of(images.reshape(-1, *shape), positions).reshape((levels,) * (shape[0] * shape[1]))


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    levels=st.integers(2, 6),
    seed=st.integers(0, 100),
    data=st.data(),
)
def test_labels_and_places(height, width, levels, seed, data):
    distance, pairs = data.draw(st.integers(1, width - 1)), data.draw(st.integers(1, height))
    if levels ** (height * width) < 4096:
        return
    task = far_parity((height, width), distance, levels=levels, pairs=pairs, **FEW, seed=seed)
    positions = task.settings["positions"]
    assert len({tuple(p) for pair in positions for p in pair}) == 2 * pairs
    for (row, column), (other_row, other_column) in positions:
        assert row == other_row
        assert other_column - column == distance
        # On both sides of the middle.
        assert 0 <= column < width // 2 <= other_column < width
        areas = task.settings["areas"]
        for (top, left, tall, wide), place in zip(areas, (column, other_column), strict=True):
            assert left == place
            assert wide == 1
            assert top <= row < top + tall <= height
    for split in (task.train, task.validation, task.test):
        assert split.images.shape[1:] == (1, height, width)
        assert int(split.images.max()) <= levels - 1 == split.maximum
        expected = [label(image[0].numpy(), positions) for image in split.images]
        assert split.labels.tolist() == expected
        assert sum(expected) == len(split) // 2


@pytest.mark.parametrize(
    ("shape", "levels", "pairs", "rank"),
    [((1, 4), 3, 1, 3), ((1, 4), 4, 1, 4), ((2, 2), 3, 2, 9), ((2, 3), 3, 2, 9), ((1, 4), 2, 1, 2), ((2, 2), 2, 2, 2)],
)
def test_separation_rank_is_what_the_documentation_says(shape, levels, pairs, rank):
    settings = far_parity((8, shape[1]), shape[1] - 1, levels=levels, pairs=1, **FEW).settings
    columns = [position[1] for position in settings["positions"][0]]
    positions = [[[row, columns[0]], [row, columns[1]]] for row in range(pairs)]
    dense = target(shape, levels, positions)
    order = dense.ndim
    left = [mode for mode in range(order) if mode % shape[1] <= columns[0]]
    right = [mode for mode in range(order) if mode not in left]
    matrix = dense.transpose(*left, *right).reshape(levels ** len(left), -1)
    assert np.linalg.matrix_rank(matrix) == rank
    # Two levels are a plain parity of bits, whose signs are a product.
    assert np.linalg.matrix_rank(1.0 - 2 * matrix) == (1 if levels == 2 else rank)
    tensor = htf.hierarchical_tucker(dense.astype(float), tol=1e-10)
    assert htf.ranks.separation_rank(tensor, left) == rank


def test_separation_rank_of_pairs_that_are_not_divided():
    signs = 1.0 - 2 * target((2, 2), 3, [[[0, 0], [0, 1]], [[1, 0], [1, 1]]])
    tensor = htf.hierarchical_tucker(signs, tol=1e-10)
    assert htf.ranks.separation_rank(tensor, [0, 1]) == 1
    assert htf.ranks.separation_rank(tensor, [0]) == 3


def test_no_two_splits_share_an_image():
    task = far_parity((2, 6), 3, levels=2, train=1500, validation=256, test=256)
    sets = [{image.numpy().tobytes() for image in split.images} for split in (task.train, task.validation, task.test)]
    assert min(len(s) for s in sets) > 150
    assert len(set.union(*sets)) == sum(len(s) for s in sets)


def test_other_pixels_are_uniform_noise():
    images = far_parity(levels=4, train=4000, validation=0, test=0).train.images
    counts = torch.stack([(images == level).float().mean((0, 1)) for level in range(4)])
    # 4,000 draws of probability 1/4: standard deviation 0.7 %.
    assert float((counts - 0.25).abs().max()) < 0.035


def test_the_seed_decides_and_sizes_change_nothing_else():
    sizes = {"train": 700, "validation": 5, "test": 6}
    data, again, other = (far_parity(**sizes, seed=seed) for seed in (3, 3, 4))
    assert data.fingerprint == again.fingerprint != other.fingerprint
    fewer = far_parity(train=600, validation=9, test=0, seed=3)
    assert torch.equal(fewer.train.images, data.train.images[:600])
    assert torch.equal(fewer.validation.images[:5], data.validation.images)
    assert len(fewer.test) == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shape": 8}, TypeError, "shape is 8; expected height and width"),
        ({"shape": (8,)}, ValueError, r"shape is \(8,\); expected height and width"),
        ({"shape": (8, 1)}, ValueError, "expected a width of 2 at least"),
        ({"shape": (0, 8)}, ValueError, r"shape\[0\] is 0; expected at least 1"),
        ({"distance": 8}, ValueError, "distance is 8; in 8 columns it can be 7 at most"),
        ({"distance": 0}, ValueError, "distance is 0; expected at least 1"),
        ({"levels": 1}, ValueError, "levels is 1; expected 2 to 256"),
        ({"levels": 257}, ValueError, "levels is 257"),
        ({"pairs": 9}, ValueError, "pairs is 9; expected at most one in each of the 8 rows"),
        ({"shape": (2, 5), "levels": 2}, ValueError, "make 1024 different images; expected 4096"),
        ({"shape": (2, 6), "levels": 2, "test": 257}, ValueError, "test is 257; of 4096 .* expected 256 at most"),
        ({"train": -1}, ValueError, "train is -1; expected at least 1"),
        ({"test": True}, TypeError, "test is True; expected an integer"),
        ({"seed": -2}, ValueError, "seed is -2"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        far_parity(**{**FEW, **changes})
