"""The networks of the randomization benchmark: perceptrons, a small convolutional network and a residual one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from htf.nn.baselines import small_resnet


class Shift(nn.Module):
    """In training mode, moves each image by up to so many pixels in either direction; black comes in."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to the same shape."""
        if not self.training or self.pixels == 0:
            return x
        n, channels, height, width = x.shape
        padded = pad(x, [self.pixels] * 4)
        # From torch's global generator, which the training seeds for each step, as for dropout.
        top, left = torch.randint(2 * self.pixels + 1, (2, n, 1), device=x.device)
        rows, columns = (start + torch.arange(size, device=x.device) for start, size in ((top, height), (left, width)))
        image = torch.arange(n, device=x.device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=x.device).view(1, channels, 1, 1)
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Whiten(nn.Module):
    """Each image with mean 0 and variance 1, as in the paper: whatever its pixels are, inputs are of one scale."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to the same shape."""
        deviation, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
        return (x - mean) / deviation.clamp_min(x[0].numel() ** -0.5)


def _mlp(image: tuple[int, int, int], classes: int, dropout: float, *, hidden: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    before = math.prod(image)
    for _ in range(hidden):
        layers += [nn.Linear(before, 512), nn.ReLU(), nn.Dropout(dropout)]
        before = 512
    return [*layers, nn.Linear(before, classes)]


def _cnn(image: tuple[int, int, int], classes: int, dropout: float) -> list[nn.Module]:
    channels, height, width = image
    features = 64 * math.ceil(height / 4) * math.ceil(width / 4)
    return [
        nn.Conv2d(channels, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, classes),
    ]


NETWORKS: dict[str, Callable[..., list[nn.Module]]] = {
    "mlp_1x512": lambda *given: _mlp(*given, hidden=1),
    "mlp_3x512": lambda *given: _mlp(*given, hidden=3),
    "cnn": _cnn,
    # With batch normalization, as the paper's larger networks.
    "resnet": lambda image, classes, dropout: [small_resnet(image[0], classes, dropout=dropout)],
}


def make_network(
    name: str, image: tuple[int, int, int], classes: int, *, seed: int, dropout: float = 0.0, shift: int = 0
) -> nn.Sequential:
    """A network with weights drawn as He et al. 2015 say (fan in) and zero biases.

    Parameters
    ----------
    name : str
        From `NETWORKS`.
    image : tuple of int
        Channels, height, width.
    classes, seed : int
    dropout : float
        Probability, after each fully connected hidden layer, or before the last layer of "resnet".
    shift : int
        Pixels by which training images are moved at most.
    """
    # Torch's own initialization draws from the global generator: it is put back, and its numbers are replaced.
    with torch.random.fork_rng([]):
        network = nn.Sequential(Shift(shift), Whiten(), *NETWORKS[name](image, classes, dropout))
    generator = Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _start(layer, generator)
    return network


@torch.no_grad()
def _start(layer: Any, generator: Generator) -> None:
    layer.weight.normal_(0, math.sqrt(2 / layer.weight[0].numel()), generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()
