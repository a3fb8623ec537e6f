"""Pathfinder's scenes with dots on the ends of either curve, crossed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from htf._checks import positive
from htf.datasets._pathfinder_curves import Scenes
from htf.datasets._pathfinder_drawing import draw_images
from htf.datasets._pathfinder_spacing import Style
from htf.datasets.long_range import LongRangeData
from htf.datasets.pathfinder import blocks_of

_SPLITS = {"train": 0, "validation": 1, "test": 2}


def crossed_dots(data: LongRangeData, split: str = "validation", samples: int = 512) -> Tensor:
    """The scenes of a Pathfinder split with their dots on all four pairs of ends.

    Of a scene, image (i, j) has one dot on the first end of curve i and one on the last end of curve j.  They are on
    the same curve where i = j, and neither dot alone says whether they are: outputs of a network that solves the task
    are made by the two dots together.

    Parameters
    ----------
    data : LongRangeData
        Of `pathfinder`.
    split : str
        train, validation or test.
    samples : int
        Scenes, the first ones of the split; fewer if it has not as many.

    Returns
    -------
    Tensor, (scenes, 2, 2, 1, size, size)
        In [0, 1], of torch's default dtype.  That of curve 0 and of curve 0 or 1 is an image of the split, by its
        label.

    Raises
    ------
    TypeError, ValueError
        If the data is of another task, the split is not one of the three or has no images, or `samples` is below 1.

    See Also
    --------
    htf.datasets.pathfinder : the data.
    htf.ranks.separation_profile : interactions of patches of any images.

    Notes
    -----
    Scenes are drawn again from the data's settings, as fast as the split itself.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.pathfinder(path_length=3, size=48, train=2, validation=4, test=2)
    >>> htf.datasets.crossed_dots(data).shape
    torch.Size([4, 2, 2, 1, 48, 48])
    """
    if not isinstance(data, LongRangeData):
        raise TypeError(f"data is a {type(data).__name__}; expected what pathfinder gives, with all of its splits")
    if data.name != "pathfinder":
        raise ValueError(f"data is {data.name}; expected pathfinder, whose scenes have dots")
    if split not in _SPLITS:
        raise ValueError(f"split is {split!r}; expected {', '.join(_SPLITS)}")
    count = min(positive("samples", samples), len(getattr(data, split)))
    if count == 0:
        raise ValueError(f"split is {split!r}, which has no images")
    style = Style(**{field.name: data.settings[field.name] for field in fields(Style)})
    found = []
    alike = data.settings.get("angles") == "alike"
    for _, scenes in blocks_of(count, style, data.settings["seed"], _SPLITS[split], alike):
        pairs = [_marked(scenes, i, j) for i in (0, 1) for j in (0, 1)]
        found.append(torch.stack([torch.from_numpy(draw_images(pair, style)) for pair in pairs], 1))
    return torch.cat(found).view(count, 2, 2, 1, style.size, style.size).to(torch.get_default_dtype()) / 255


def _marked(scenes: Scenes, i: int, j: int) -> Scenes:
    """The same curves with dots on the first end of curve i and the last end of curve j."""
    curves = (scenes.first, scenes.second)
    labels = np.full(len(scenes), int(i == j))
    return Scenes(curves[i], curves[1 - i], labels, scenes.distractors)
