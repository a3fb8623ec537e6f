"""A network on a tree behind an encoder, as it is trained: with augmented images and dropped nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from htf.models._encoders import Columns, Encoder
from htf.nn import HTNetwork


class EncodedNetwork(nn.Module):
    """Outputs of an `HTNetwork` on encoded samples.

    Parameters
    ----------
    encoder : Patches or Columns
    network : HTNetwork
        Of one run.
    normalized : bool
        Whether outputs are divided by a positive number per sample, see `HTNetwork.normalized`.
    dropout : float
        In training, the share of nodes whose vectors are replaced by ones, sample by sample: what they would have
        contributed to a product is left out.
    shifts : int
        In training, images are moved by up to so many pixels along each axis, what is bared being as the border is.
    flips : bool
        In training, half of the images are mirrored, left to right.
    """

    def __init__(
        self,
        encoder: Encoder,
        network: HTNetwork,
        normalized: bool,
        dropout: float = 0.0,
        shifts: int = 0,
        flips: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.network, self.is_normalized = encoder, network, normalized
        self.dropout, self.shifts, self.flips = dropout, shifts, flips

    @property
    def input_dtype(self) -> torch.dtype:
        """Dtype of floats as it takes them: tables are rounded once they are standardized, not before."""
        return torch.float64 if isinstance(self.encoder, Columns) else self.network.dtype

    def forward(self, samples: Tensor) -> Tensor:
        """(batch, outputs) of samples as the encoder takes them."""
        if self.training and self.shifts:
            samples = shifted(samples, self.shifts)
        if self.training and self.flips:
            mirrored = torch.rand(len(samples), dtype=torch.float32, device=samples.device) < 0.5
            samples = torch.where(mirrored.view(-1, 1, 1, 1), samples.flip(-1), samples)
        vectors = self.encoder(samples, self.network.dtype)
        if self.is_normalized:
            out = self.network.normalized(vectors, self._drop if self.training and self.dropout else None)
        else:
            out = self.network(vectors)
        return out.flatten(1)

    def _drop(self, vectors: Tensor) -> Tensor:
        # In one dtype whatever torch's default is, as draws of another are others.
        dropped = torch.rand(*vectors.shape[:-1], 1, dtype=torch.float32, device=vectors.device) < self.dropout
        return torch.where(dropped, 1, vectors)

    def extra_repr(self) -> str:
        return f"normalized={self.is_normalized}, dropout={self.dropout}, shifts={self.shifts}, flips={self.flips}"


def shifted(images: Tensor, most: int) -> Tensor:
    """Images (n, channels, height, width), each moved by up to `most` pixels along each axis."""
    n, _, height, width = images.shape
    steps = torch.randint(-most, most + 1, (2, n, 1), device=images.device)
    rows = (torch.arange(height, device=images.device) + steps[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + steps[1]).clamp(0, width - 1)
    sample = torch.arange(n, device=images.device).view(n, 1, 1)
    # Advanced indices on both sides of a slice: channels come last.
    return images[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)
