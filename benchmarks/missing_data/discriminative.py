"""A tree of probabilities trained to tell classes apart, with pixels missing at random that are summed over."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

import htf
from htf.nn import HTNetwork
from htf.nn.init import distributions
from htf.training import Training, objectives

from .masks import independent

SMALLEST = 1e-6  # of probabilities at the start, whose logarithms are trained


class Marginalized:
    """The network of `htf.models.GenerativeClassifier`, by cross entropy and Adam on log-probabilities.

    In training each image lacks a share of its pixels that is drawn from 0 to `most`.

    Parameters
    ----------
    levels, width, epochs, batch_size, seed : int
    lr, most : float
    """

    def __init__(
        self,
        levels: int = 8,
        width: int = 32,
        epochs: int = 5,
        batch_size: int = 128,
        lr: float = 0.02,
        most: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.levels, self.width, self.epochs, self.batch_size = levels, width, epochs, batch_size
        self.lr, self.most, self.seed = lr, most, seed

    def fit(self, images: Tensor, labels: Tensor) -> Self:
        """Train on images of bytes and labels."""
        x, (height, width) = self._levels_of(images), images.shape[1:]
        tree = htf.DimensionTree.grid(height, width)
        outputs = int(labels.max()) + 1
        start = HTNetwork(
            tree, self.levels, self.width, outputs=outputs, init=distributions(x), seed=self.seed, dtype=torch.float32
        )
        self.network = _Posterior(start, self.levels, outputs)

        def loss(model: nn.Module, generator: Generator) -> Tensor:
            chosen = torch.randint(len(x), (self.batch_size,), generator=generator)
            rates = self.most * torch.rand(self.batch_size, 1, 1, generator=generator)
            missing = independent(self.batch_size, height, width, rates, generator).flatten(1)
            return cross_entropy(model(torch.where(missing, self.levels, x[chosen])), labels[chosen])

        batches = max(1, len(x) // self.batch_size)
        Training(
            self.network,
            objectives.function(loss, data=(x, labels), batches=batches),
            optimizer="adam",
            lr=self.lr,
            schedule="cosine",
            seed=self.seed,
        ).run(epochs=self.epochs)
        return self

    @torch.no_grad()
    def predict(self, images: Tensor, missing: Tensor) -> Tensor:
        """Classes of images of bytes."""
        return self.scores(images, missing).argmax(1)

    @torch.no_grad()
    def scores(self, images: Tensor, missing: Tensor) -> Tensor:
        """Logarithms of the probabilities of what is known in each class, (n, classes)."""
        x = torch.where(missing.flatten(1), self.levels, self._levels_of(images))
        return torch.cat([self.network(part) for part in x.split(250)])

    @property
    def n_parameters(self) -> int:
        """Of the network, columns of probabilities counted in full."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def _levels_of(self, images: Tensor) -> Tensor:
        return (images.long() * self.levels // 256).flatten(1)


class _Posterior(nn.Module):
    """Logarithms of the probabilities of what is known in each class; level `levels` stands for what is missing."""

    def __init__(self, start: HTNetwork, levels: int, outputs: int) -> None:
        super().__init__()
        self.logits = nn.ParameterList(weight.detach().clamp(min=SMALLEST).log() for weight in start.weights)
        # Holds the tree alone; the matrices are put into it at each call.  In a tuple it is no submodule.
        width = start._run_layouts[0].widths[0]
        self._of = (
            _Logarithms(HTNetwork(start.tree, levels + 1, width, outputs=outputs, seed=0).requires_grad_(False)),
        )
        self._leaves = [block.level == 0 for block in start._layout.blocks]

    def forward(self, x: Tensor) -> Tensor:
        weights: dict[str, Any] = {}
        for number, (logits, leaf) in enumerate(zip(self.logits, self._leaves, strict=True)):
            matrix = logits.softmax(-2)
            ones = torch.ones_like(matrix[..., :1, :])
            weights[f"network.weights.{number}"] = torch.cat([matrix, ones], -2) if leaf else matrix
        found: Tensor = torch.func.functional_call(self._of[0], weights, (x,))
        return found


class _Logarithms(nn.Module):
    def __init__(self, network: HTNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.log_abs(x)[1].flatten(1)
