import numpy as np
import pytest
import torch
from scipy import ndimage

from htf.datasets import crossed_dots, far_parity, pathfinder


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_two_of_the_four_are_the_split_itself(split):
    data = pathfinder(3, 48, train=270, validation=4, test=4, seed=3)
    images, (x, y) = crossed_dots(data, split), getattr(data, split).tensors()
    assert len(images) == len(x)
    assert torch.equal(images[torch.arange(len(x)), 0, 1 - y], x)


def test_dots_are_on_the_ends_of_either_curve():
    data = pathfinder(3, 200, train=2, validation=12, test=0)
    images = crossed_dots(data, samples=8)
    assert images.shape == (8, 2, 2, 1, 200, 200)
    for one in images[:, :, :, 0]:
        by_second, by_first = (one[0, 0] != one[0, 1]).numpy(), (one[0, 0] != one[1, 0]).numpy()
        # Each dot has two places, and what one dot changes is not what the other does.
        assert ndimage.label(by_second, np.ones((3, 3)))[1] == 2
        assert ndimage.label(by_first, np.ones((3, 3)))[1] == 2
        assert not (by_first & by_second).any()
        assert torch.equal(torch.maximum(one[0, 0], one[1, 1]), torch.maximum(one[0, 1], one[1, 0]))


def test_what_is_not_pathfinder_or_has_no_images():
    data = pathfinder(3, 48, train=2, validation=0, test=0)
    with pytest.raises(ValueError, match="split is 'validation', which has no images"):
        crossed_dots(data)
    with pytest.raises(ValueError, match="split is 'all'; expected train, validation, test"):
        crossed_dots(data, "all")
    with pytest.raises(ValueError, match="samples"):
        crossed_dots(data, "train", 0)
    with pytest.raises(TypeError, match="data is a Split; expected what pathfinder gives"):
        crossed_dots(data.train)
    with pytest.raises(ValueError, match="data is far_parity; expected pathfinder"):
        crossed_dots(far_parity(train=2, validation=0, test=0))
