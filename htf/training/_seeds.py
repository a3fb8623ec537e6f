"""Random numbers of a training that depend on where it is alone, so that it can go on as if nothing had happened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def order_of_epoch(samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the samples."""
    return torch.randperm(samples, generator=Generator().manual_seed(_mixed(seed, epoch)), device="cpu")


@contextmanager
def random_of_step(seed: int, step: int, process: int, device: torch.device) -> Iterator[None]:
    """Seed what dropout and the like draw from, torch's global generators, and put them back after."""
    number = _mixed(seed, step, process)
    cuda = []
    if device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(number)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(number)
        yield


def seed_of_step(seed: int, step: int) -> int:
    """A seed for what is drawn in a step, apart from those of the global generators."""
    return _mixed(seed, step, "drawn")


def _mixed(*numbers: int | str) -> int:
    """A seed from several, without simple relations between those of neighbours."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])
