"""Random numbers that do not depend on torch's default device.

Everything is drawn where its generator is, on the CPU without one, and then moved: a seed gives the same numbers on
every device.  Networks and layers are made on torch's default device, as torch's own modules are; data sets, samplers
and measurements stay on the CPU, and what is made within an operation goes where its inputs are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from htf._checks import check_index, natural

Seed = int | Generator | Sequence[int] | None


def randn(shape: Sequence[int], generator: Generator | None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent normal numbers, on the CPU."""
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=place(generator)).cpu()


def rand(shape: Sequence[int], generator: Generator | None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent numbers, uniform in [0, 1), on the CPU."""
    return torch.rand(tuple(shape), generator=generator, dtype=dtype, device=place(generator)).cpu()


def place(generator: Generator | None) -> torch.device:
    """Where a generator draws; torch's global one on the CPU."""
    return torch.device("cpu") if generator is None else generator.device


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Copy values drawn on the CPU to the device of another tensor, without waiting for it."""
    return values.to(like.device, non_blocking=True)


def check_random_state(random_state: Any) -> np.random.RandomState:
    """NumPy's generator for a seed, itself, or NumPy's global one for None; as ``tl.check_random_state``.

    That takes no integers of NumPy or torch, and its errors name no argument.
    """
    if random_state is None:
        return np.random.mtrand._rand
    if isinstance(random_state, np.random.RandomState):
        return random_state
    seed = check_index("random_state", random_state, "an integer, a numpy.random.RandomState or None")
    if not 0 <= seed < 2**32:
        raise ValueError(f"random_state is {seed}; expected an integer from 0 to 2**32 - 1")
    return np.random.RandomState(seed)


def seeded(seed: int, key: int) -> Generator:
    """A generator of its own for every key, such as the number of a call."""
    # Mixed into 32 bits, as torch's generator looks at the lower 32 alone.
    return Generator().manual_seed(int(np.random.SeedSequence([seed, key]).generate_state(1)[0]))


def below(count: int, generator: Generator) -> int:
    """A number from 0 to count - 1."""
    with place(generator):
        return int(torch.randint(count, (), generator=generator))


def two_of(count: int, generator: Generator) -> tuple[int, int]:
    """Two different numbers from 0 to count - 1."""
    first, second = below(count, generator), below(count - 1, generator)
    return first, second + (second >= first)


def generators(seed: Seed, runs: int) -> Iterator[Generator | None]:
    """One generator per run; a single one is drawn from run after run."""
    if isinstance(seed, Generator) or seed is None:
        return iter([seed] * runs)
    seed = seed.tolist() if hasattr(seed, "tolist") else seed  # NumPy's and torch's
    if not isinstance(seed, Iterable):
        return iter([Generator().manual_seed(natural("seed", seed))] * runs)
    seeds = list(seed)
    if len(seeds) != runs:
        raise ValueError(f"seed has {len(seeds)} values; the network has {runs} runs")
    return iter([Generator().manual_seed(natural(f"seed[{run}]", s)) for run, s in enumerate(seeds)])
