"""Small networks whose connections are local: convolutions on a line, residual ones on a grid, attention in windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from htf.nn.baselines.resnet import ResNet, Stem


def line_network(features: int, classes: int, width: int = 32) -> nn.Module:
    """A 1-D CNN: windows of 5 features, halved three times."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, features))]
    channels = 1
    for block in range(3):
        layers += [nn.Conv1d(channels, width << block, 5, padding=2), nn.BatchNorm1d(width << block), nn.ReLU()]
        layers += [nn.MaxPool1d(2, ceil_mode=True)]
        channels = width << block
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(4 * channels, classes))


def grid_network(side: int, classes: int, seed: int, width: int = 16) -> nn.Module:
    """A residual CNN on images of one channel, of `htf.nn.small_resnet`'s form at the width 16."""
    stem, *strides = (1, 1, 2, 2, 1) if side < 16 else (1, 2, 2, 2, 1)
    channels = (width, 2 * width, 4 * width, 4 * width)
    first = Stem(width, kernel=3, stride=stem, pool=False)
    return ResNet(channels, (1, 1, 1, 1), 1, classes, stem=first, strides=strides, seed=seed)


class LocalAttention(nn.Module):
    """Attention within windows of a line, and between their means; as a transformer's layer each."""

    def __init__(self, features: int, classes: int, width: int = 32, window: int = 16) -> None:
        super().__init__()
        self.window, count = window, -(-features // window)
        self.read = nn.Linear(1, width)
        self.place = nn.Parameter(0.1 * torch.randn(count * window, width))
        self.near, self.far = (
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.out = nn.Linear(count * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, classes) of (batch, features)."""
        x = nn.functional.pad(x, (0, -x.shape[1] % self.window)).unsqueeze(2)
        windows = (self.read(x) + self.place).unflatten(1, (-1, self.window))
        near = self.near(windows.flatten(0, 1)).mean(1).unflatten(0, windows.shape[:2])
        return self.out(self.far(near).flatten(1))
