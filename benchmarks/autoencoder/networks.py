"""A convolutional autoencoder with a linear map, plain or a product of several, between code and decoder."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Generator, Tensor, nn

from htf.nn import FactorizedLinear, OverparamLinear

CHANNELS = (16, 32, 64)


class Autoencoder(nn.Module):
    """Images to codes and back.

    Parameters
    ----------
    image : tuple of int
        Channels, height, width.
    code : int
        Dimensions, at least 2.
    layers : int
        Square linear layers between encoder and decoder; 0 for none.  `htf.surgery.collapse` folds them into one.
    format : str
        Of `htf.nn.FactorizedLinear`, for one factorized layer in their place; "" for none.
    variational : bool
        Whether the encoder also gives the logarithm of the variance of each number of the code.
    seed : int
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        code: int,
        *,
        layers: int = 0,
        format: str = "",
        variational: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if code < 2:
            raise ValueError(f"code is {code}; expected at least 2 dimensions, of which some can be left unused")
        if layers < 0 or (layers and format):
            raise ValueError(f"layers is {layers} and format {format!r}; expected layers of at least 0, or a format")
        channels, height, width = image
        sizes = [(height, width)]
        for _ in CHANNELS:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        features = CHANNELS[-1] * math.prod(sizes[-1])
        self.code, self.variational = code, variational
        # Torch's own initialization draws from the global generator, which is put back.
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            down: list[nn.Module] = []
            for before, after in pairwise((channels, *CHANNELS)):
                down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, code * (1 + variational)))
            up: list[nn.Module] = [nn.Linear(code, features), nn.ReLU(), nn.Unflatten(1, (CHANNELS[-1], *sizes[-1]))]
            for before, after, small, large in zip(
                CHANNELS[::-1], (*CHANNELS[-2::-1], channels), sizes[:0:-1], sizes[-2::-1], strict=True
            ):
                # An odd size comes from one that is rounded up.
                extra = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
                up += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=extra), nn.ReLU()]
            self.decoder = nn.Sequential(*up[:-1])
            generator = Generator().manual_seed(seed)
            self.map: nn.Module = nn.Identity()
            if layers:
                self.map = OverparamLinear(code, code, bias=False, depth=layers, seed=generator)
            elif format:
                self.map = FactorizedLinear(code, code, format=format, rank=0.5, bias=False, seed=generator)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (n, code) of images (n, channels, height, width): those that the decoder reads."""
        return self.drawn_from(x)[0]

    def drawn_from(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means of codes and, of a variational one, the logarithms of their variances, (n, code) each."""
        found = cast(Tensor, self.encoder(x))
        mean, *log_variance = found.chunk(2, dim=1) if self.variational else (found,)
        return self.map(mean), log_variance[0] if log_variance else torch.full_like(mean, -torch.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Images of the means of codes."""
        return cast(Tensor, self.decoder(self.encode(x)))

    def extra_repr(self) -> str:
        return f"code={self.code}, variational={self.variational}"
