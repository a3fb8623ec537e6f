"""Images that are moved at random while a model is trained."""

import numpy as np
import torch

from htf.models._network import shifted


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
