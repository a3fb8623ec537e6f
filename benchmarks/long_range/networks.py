"""Networks that see farther by their architecture: one global convolution, or dilated kernels."""

from __future__ import annotations

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn.utils import skip_init

from htf.nn import ResNet


class GlobalConvolution(nn.Conv2d):
    """A depthwise convolution of a large kernel, by fast Fourier transforms; it begins as zero.

    Parameters
    ----------
    channels : int
    kernel : int
        Odd; global where it is at least twice the map's height and width, less one.
    """

    def __init__(self, channels: int, kernel: int, device: torch.device | None = None) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False, device=device)

    def reset_parameters(self) -> None:
        """Start as zero."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        shape, half = x.shape[-2:], self.kernel_size[0] // 2
        # What reaches over the whole map meets nothing there.
        far = [min(half, length - 1) for length in shape]
        rows, columns = (slice(half - reach, half + reach + 1) for reach in far)
        # What goes round comes back into pixels that are cut off.
        size = [next_fast_len(length + reach, real=True) for length, reach in zip(shape, far, strict=True)]
        # Layers of networks are cross-correlations, products of transforms convolutions.
        kernels = torch.fft.rfft2(self.weight[:, 0, rows, columns].flip(-2, -1), s=size)
        whole = torch.fft.irfft2(torch.fft.rfft2(x, s=size) * kernels, s=size)
        return whole[..., far[0] : far[0] + shape[0], far[1] : far[1] + shape[1]]


class Globally(nn.Module):
    """Adds to each unit of a map what a global convolution gathers for it."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convolution = GlobalConvolution(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


def add_global_convolution(model: ResNet, kernel: int) -> None:
    """Put a global convolution behind the second stage of a network, which begins as it was."""
    stage = model.get_submodule("layer2")
    channels = [module.out_channels for module in stage.modules() if isinstance(module, nn.Conv2d)]
    model.layer2 = nn.Sequential(stage, Globally(channels[0], kernel))


def dilate(model: ResNet, dilation: int) -> None:
    """Spread the 3×3 kernels of all stages but the first over more pixels."""
    for stage in range(2, model.stages + 1):
        for module in model.get_submodule(f"layer{stage}").modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


class MaskedPatches(nn.Module):
    """A network that fills in what is masked: its features, and a linear map from each to the pixels there.

    Parameters
    ----------
    network : ResNet
    height, width : int
        Of the images.
    seed : int
        Of the linear map.
    """

    def __init__(self, network: ResNet, height: int, width: int, seed: int) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            rows = network.eval().features(torch.zeros(1, network.channels, height, width)).shape[2]
        network.train()
        self.size, self.side = (height, width), -(-height // rows)
        features = network.fc.in_features
        self.decoder = skip_init(nn.Conv2d, features, network.channels * self.side**2, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.decoder.weight.normal_(0, features**-0.5, generator=generator)
            self.decoder.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (n, channels, height, width) from images of the same shape."""
        found = nn.functional.pixel_shuffle(self.decoder(self.network.features(x)), self.side)
        return found[..., : self.size[0], : self.size[1]]
