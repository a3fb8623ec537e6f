"""An objective of the benchmarks' own: cross entropy on batches in the order of one stream of random numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from htf.training.objectives import Found, Objective


class Shuffled(Objective):
    """Mean cross entropy; each epoch has the next permutation that a generator draws.

    `htf.training.objectives.classification` draws each epoch's order by itself and splits it evenly; results of these
    benchmarks, which are published, have this order.

    Parameters
    ----------
    x, y : Tensor
        Inputs (n, ...) and labels (n,), where the model is.
    batch_size, seed : int
    skip : int
        Epochs whose permutations were used before.
    drop_last : bool
        Leave out the samples of an epoch that do not fill a batch; otherwise they are a smaller one.
    """

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int, seed: int, *, skip: int = 0, drop_last: bool = False
    ) -> None:
        self.x, self.y, self.batch_size, self.seed, self.skip = x, y, batch_size, seed, skip
        self.batches = len(x) // batch_size if drop_last else -(-len(x) // batch_size)
        self._latest: tuple[int, tuple[Tensor, ...]] = (-1, ())

    def chosen(self, epoch: int, batch: int) -> Tensor:
        """Numbers of the samples of a batch."""
        if self._latest[0] != epoch:
            generator = Generator().manual_seed(self.seed)
            for _ in range(self.skip + epoch + 1):
                order = torch.randperm(len(self.x), generator=generator)
            self._latest = epoch, order.to(self.y.device).split(self.batch_size)
        return self._latest[1][batch]

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        chosen = self.chosen(epoch, batch)
        x, y = self.x[chosen], self.y[chosen]
        out = model(x)
        return Found(cross_entropy(out, y), len(y), (x, y, out))

    def describe(self) -> dict[str, Any]:
        data = hashlib.sha256(self.x.cpu().numpy().tobytes() + self.y.cpu().numpy().tobytes()).hexdigest()
        which = {name: getattr(self, name) for name in ("batch_size", "batches", "seed", "skip")}
        return {"objective": "cross entropy", **which, "data_sha256": data}
