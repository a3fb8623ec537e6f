"""Convolutional networks to compare with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from htf.training import Training, objectives


class ConvNet:
    """Two convolutions with pooling and a linear layer, by AdamW and a one-cycle schedule.

    Parameters
    ----------
    width : int
        Channels of the first convolution; the second has twice as many.
    epochs, batch_size, seed : int
    lr, weight_decay : float
    change : callable, optional
        Of images (n, channels, height, width) in training, such as one that leaves pixels out.
    """

    def __init__(
        self,
        width: int = 32,
        epochs: int = 10,
        batch_size: int = 128,
        lr: float = 4e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.width, self.epochs, self.batch_size, self.seed = width, epochs, batch_size, seed
        self.lr, self.weight_decay, self.change = lr, weight_decay, change

    def fit(self, images: Tensor, labels: Tensor) -> Self:
        """Train on images of bytes, (n, height, width) or (n, height, width, channels), and labels."""
        x = channels_first(images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = _Changed(network(x.shape[1], self.width, int(labels.max()) + 1, tuple(x.shape[2:])))
        self.network.change = self.change
        training = Training(
            self.network,
            objectives.classification((x, labels), batch_size=min(self.batch_size, max(2, len(x) // 16))),
            optimizer=partial(torch.optim.AdamW, weight_decay=self.weight_decay),
            lr=self.lr,
            schedule="one_cycle",
            seed=self.seed,
        )
        training.run(epochs=self.epochs)
        self.network.eval()
        return self

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """Classes of images with pixels from 0 to 1."""
        return torch.cat([self.network(part).argmax(1) for part in channels_first(pixels).split(500)])

    @property
    def n_parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())


class _Changed(nn.Module):
    """A network whose images are changed in training."""

    change: Callable[[Tensor], Tensor] | None = None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x if self.change is None or not self.training else self.change(x))
        return out


def channels_first(images: Tensor) -> Tensor:
    """Images (n, channels, height, width) of those without channels, or with channels last."""
    return images[:, None] if images.ndim == 3 else images.movedim(-1, 1).contiguous()


def network(channels: int, width: int, classes: int, size: tuple[int, ...]) -> nn.Sequential:
    """The layers."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * width * (size[0] // 4) * (size[1] // 4), classes)),
    )
