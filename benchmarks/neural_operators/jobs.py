"""One training of a tensorized Fourier neural operator."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tensorly as tl
import torch
from torch import Generator, Tensor, nn

from htf.jobs import FolderJob, Progress

from .darcy import darcy

DENSE = "dense"
FACTORIZATIONS = ("ht", "cp", "tucker", "tt", DENSE)
_SEED = 0  # of the data
Part = tuple[Tensor, Tensor]


@lru_cache(maxsize=1)
def parts(grid: int, train: int, validation: int, test: int) -> dict[str, Part]:
    """Inputs and targets of "train", "validation" and "test"; targets in units of the training targets' spread."""
    x, y = darcy(train + validation + test, grid, _SEED)
    y = y / y[:train].std()
    ends = {"train": (0, train), "validation": (train, train + validation), "test": (train + validation, len(x))}
    return {name: (x[start:stop], y[start:stop]) for name, (start, stop) in ends.items()}


@dataclass(frozen=True)
class Job(FolderJob):
    """A network of neuraloperator, trained on Darcy flow.

    Attributes
    ----------
    factorization : str
        Of the spectral weights; "dense" stands for none.
    lr : float
        At the start; it falls to zero as a cosine.
    seed : int
        Of the network's start and its batches.
    part : str
        Of which the error is measured: "validation", or at the end "test".
    numbers : int
        Real numbers in all parameters, about; dense networks have what they have.
    grid, train, validation, test, modes, width, layers, epochs : int
        Of the data, of the network and of its training.
    """

    kind = "benchmark of neural operators"

    factorization: str
    lr: float
    seed: int
    part: str
    numbers: int
    grid: int
    train: int
    validation: int
    test: int
    modes: int
    width: int
    layers: int
    epochs: int

    @property
    def label(self) -> str:
        return f"{self.factorization}_lr{self.lr:g}_seed{self.seed}_{self.part}"

    def compute(self, folder: Path | None, report: Progress) -> dict[str, Any]:
        """Train, and measure the error relative to the norm of the solution, averaged over fields."""
        data = parts(self.grid, self.train, self.validation, self.test)
        began = time.process_time()
        # neuraloperator computes with the backend that is set.
        with warnings.catch_warnings(), tl.backend_context("pytorch", local_threadsafe=True):
            warnings.simplefilter("ignore")
            model = self.network()
            self._train(model, *data["train"], report)
            with torch.no_grad():
                error = float(relative_error(model, *data[self.part]))
        return {
            "parameters": real_numbers(model),
            "error": error,
            "cpu_seconds": round(time.process_time() - began, 1),
            "threads": torch.get_num_threads(),
        }

    def network(self) -> nn.Module:
        """The network of the rank with which the parameters are nearest to `numbers`."""
        if self.factorization == DENSE:
            return self._of_share(1.0)
        # The numbers rise with the share, in steps.
        low, high = 0.0, 1.0
        for _ in range(10):
            middle = (low + high) / 2
            low, high = (middle, high) if real_numbers(self._of_share(middle)) <= self.numbers else (low, middle)
        return min(map(self._of_share, (low, high)), key=lambda network: abs(real_numbers(network) - self.numbers))

    def _of_share(self, share: float) -> nn.Module:
        import htf.tltorch

        with htf.tltorch._backend_kept():
            from neuralop.models.fno import TFNO  # type: ignore[import-not-found,unused-ignore]

        dense = self.factorization == DENSE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network: nn.Module = TFNO(
                n_modes=(self.modes, self.modes),
                in_channels=1,
                out_channels=1,
                hidden_channels=self.width,
                n_layers=self.layers,
                factorization=None if dense else self.factorization,
                implementation="reconstructed" if dense else "factorized",
                rank=share,
            )
        return network

    def _train(self, model: nn.Module, x: Tensor, y: Tensor, report: Progress) -> None:
        generator = Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(model.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        for epoch in range(self.epochs):
            for batch in torch.randperm(len(x), generator=generator).split(20):
                optimizer.zero_grad()
                relative_error(model, x[batch], y[batch]).backward()
                optimizer.step()
            schedule.step()
            report((epoch + 1) / self.epochs)


def relative_error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean over fields of the distance from the solution relative to its norm."""
    distances = torch.cat([model(given) for given in x.split(50)]) - y
    return (distances.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()


def real_numbers(model: nn.Module) -> int:
    """Real numbers in all parameters; a complex one counts as two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
