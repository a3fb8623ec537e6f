"""Which entries are observed, and which are for testing."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from htf._checks import positive
from htf._random import place

# Index tuples that are drawn at most; more are a slip in a fraction of a large tensor.
_LARGEST_SAMPLE = 2**27
# Entries of the largest tensor of which all that is not observed is for testing; of a larger one a sample is.
_LARGEST_TESTED_WHOLE = 2**20
_TEST_SAMPLE = 2**14
# Entries of the largest tensor that is written out beside its factors: 128 MB in doubles.
LARGEST_TARGET = 2**24


def split_sizes(shape: tuple[int, ...], observed: int | float, test: int | None) -> tuple[int, int]:
    """Entries to observe and to test on."""
    total = prod(shape)
    if isinstance(observed, float):
        if not 0 < observed <= 1:
            raise ValueError(f"observed is {observed}; expected a number of entries, or a fraction between 0 and 1")
        numerator, denominator = observed.as_integer_ratio()
        count = (numerator * total + denominator // 2) // denominator
        if not count:
            raise ValueError(f"observed is {observed}, none of the tensor's {total} entries")
    else:
        count = positive("observed", observed)
    if count > total:
        raise ValueError(f"observed is {count}; the tensor has {total} entries")
    others = total - count
    if test is None:
        if not others:
            raise ValueError(f"observed is {observed}, all entries: none is left for testing; test=0 asks for none")
        tested = others if total <= _LARGEST_TESTED_WHOLE else min(_TEST_SAMPLE, others)
    else:
        tested = 0 if not isinstance(test, bool) and test == 0 else positive("test", test)
        if tested > others:
            raise ValueError(f"test is {tested}; {others} entries are not observed")
    if count + tested > _LARGEST_SAMPLE:
        raise ValueError(
            f"observed is {observed}, {float(count):.1e} of {float(total):.1e} entries; "
            f"with those for testing expected at most {_LARGEST_SAMPLE}"
        )
    return count, tested


def draw_entries(shape: tuple[int, ...], count: int, generator: Generator) -> Tensor:
    """Distinct index tuples, (count, order), uniformly."""
    total = prod(shape)
    if total <= LARGEST_TARGET or 4 * count >= total:
        flat = torch.randperm(total, generator=generator, device=place(generator))[:count]
        columns = []
        for dim in reversed(shape):
            columns.append(flat % dim)
            flat = flat // dim
        return torch.stack(columns[::-1], 1)
    rows = np.empty((0, len(shape)), dtype=np.int64)
    while len(rows) < count:
        missing = count - len(rows)
        drawn = [
            torch.randint(dim, (missing + missing // 2 + 8,), generator=generator, device=place(generator))
            for dim in shape
        ]
        rows = np.concatenate([rows, torch.stack(drawn, 1).numpy()])
        # The first draw of each, in the order of drawing: sorted, small indices would be preferred.
        rows = rows[np.sort(np.unique(entry_numbers(rows, shape), return_index=True)[1])]
    return torch.from_numpy(rows[:count].copy())


def entry_numbers(indices: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """One number per row, the same for the same index tuples."""
    if prod(shape) < 2**63:
        flat = np.zeros(len(indices), dtype=np.int64)
        for mode, dim in enumerate(shape):
            flat = flat * dim + indices[:, mode]
        return flat
    return np.unique(indices, axis=0, return_inverse=True)[1].reshape(-1)
