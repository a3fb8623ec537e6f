"""Random numbers of the generated tasks: separate streams for whatever must not depend on another's size."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def stream_of(seed: int, *key: int) -> Generator:
    """The stream of a seed and a key, independent of those of other keys."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def labels_by_twos(count: int, rng: Generator) -> NDArray[np.int64]:
    """An even number of labels, a 0 and a 1 in every two: cut anywhere, they are balanced."""
    first = rng.integers(0, 2, count // 2)
    return np.stack([first, 1 - first], 1).reshape(-1)
