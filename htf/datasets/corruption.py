"""Labels of which a part is wrong."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator

from htf._random import place
from htf.datasets._arguments import is_number
from htf.datasets.images import ImageData
from htf.datasets.twins import Twin


def corrupted_labels(share: float) -> Twin:
    """The data with some train labels replaced by random ones.

    Parameters
    ----------
    share : float
        Probability, for each train label independently, that a class drawn uniformly takes its place, which may be
        the same one.  At 1 all labels are random, and class proportions are not those of the data (those of the twin
        "random_labels" are).

    Returns
    -------
    Twin
        Test labels stay what they are: test accuracy says what is learnt in spite of the corruption.

    Raises
    ------
    TypeError, ValueError
        If share is no number from 0 to 1.

    See Also
    --------
    htf.datasets.Twin : what it returns.
    htf.datasets.TWINS : other randomizations.

    References
    ----------
    .. [1] C. Zhang, S. Bengio, M. Hardt, B. Recht, O. Vinyals, "Understanding deep learning requires rethinking
       generalization", ICLR 2017, section 2.1.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.load("digits")
    >>> corrupted = htf.datasets.corrupted_labels(0.25)(data, seed=0)
    >>> round(float((corrupted.train_labels == data.train_labels).float().mean()), 1)
    0.8
    """
    if not is_number(share):
        raise TypeError(f"share is {share!r}; expected a number from 0 to 1")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected from 0 to 1")

    def transform(data: ImageData, generator: Generator) -> ImageData:
        labels = data.train_labels
        classes = torch.tensor(data.classes, device=labels.device)
        drawn = classes[torch.randint(len(classes), labels.shape, generator=generator, device=place(generator))]
        hit = torch.rand(labels.shape, generator=generator, dtype=torch.float32, device=place(generator)) < share
        return replace(data, train_labels=torch.where(hit, drawn, labels))

    return Twin(f"corrupted_labels_{float(share):g}", False, transform)
