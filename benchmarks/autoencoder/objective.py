"""The objective of autoencoders: squared errors of images, and a penalty on their codes."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from htf._modes import evaluated
from htf.ranks import effective_rank
from htf.training.digests import digest
from htf.training.objectives import Found, Objective, Place
from htf.training.objectives.base import Order

from .networks import Autoencoder

PENALTIES = ("none", "nuclear", "l1", "variational")


class Reconstruction(Objective):
    """Mean squared error of pixels, in batches drawn anew each epoch, plus a weighted penalty on the codes.

    After each epoch "validation/error", relative to the variance of the images, and "validation/effective_rank" of the
    codes are measured.

    Parameters
    ----------
    train, validation : Tensor
        Images (n, channels, height, width).
    penalty : {"none", "nuclear", "l1", "variational"}
        The mean over the code's dimensions of the singular values of a batch of centred codes divided by the root of
        its size, of absolute values, or of Kullback–Leibler divergences from the standard normal distribution [1]_.
    weight : float
        Of the penalty.
    batch_size : int

    References
    ----------
    .. [1] D. P. Kingma, M. Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.
    """

    def __init__(self, train: Tensor, validation: Tensor, penalty: str, weight: float, batch_size: int) -> None:
        if penalty not in PENALTIES:
            raise ValueError(f"penalty is {penalty!r}; expected one of {', '.join(PENALTIES)}")
        self.train, self.validation, self.penalty, self.weight = train, validation, penalty, weight
        self.batches = math.ceil(len(train) / batch_size)

    def prepare(self, model: nn.Module, place: Place) -> None:
        super().prepare(model, place)
        self._order = Order(len(self.train), self.batches, place.seed, place.processes)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        model = cast(Autoencoder, model)
        x = self.train[self._order.indices(epoch, batch)]
        code, log_variance = model.drawn_from(x)
        # From the global generator, which the training seeds for each step.
        read = code + (log_variance / 2).exp() * torch.randn_like(code) if model.variational else code
        loss = (model.decoder(read) - x).square().mean()
        if self.penalty != "none":
            loss = loss + self.weight * self._penalty(code, log_variance)
        return Found(loss, len(x))

    def _penalty(self, code: Tensor, log_variance: Tensor) -> Tensor:
        if self.penalty == "nuclear":
            return torch.linalg.svdvals((code - code.mean(0)) / math.sqrt(len(code))).sum() / code.shape[1]
        if self.penalty == "l1":
            return code.abs().mean()
        return (code.square() + log_variance.exp() - log_variance - 1).mean() / 2

    @torch.no_grad()
    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        model = cast(Autoencoder, model)
        return {
            "validation/error": torch.tensor(relative_error(model, self.validation), dtype=torch.float64),
            "validation/effective_rank": effective_rank(spectrum(codes(model, self.validation))),
        }

    def describe(self) -> dict[str, Any]:
        about = {"objective": "reconstruction", "penalty": self.penalty, "weight": self.weight}
        return {**about, "batches": self.batches, "data": digest((self.train, self.validation))}


@torch.no_grad()
def codes(model: Autoencoder, x: Tensor) -> Tensor:
    """Codes (n, code) in evaluation mode."""
    with evaluated(model):
        return torch.cat([model.encode(part) for part in x.split(500)])


@torch.no_grad()
def relative_error(model: Autoencoder, x: Tensor) -> float:
    """Squared error of images relative to that of their mean."""
    with evaluated(model):
        wrong = sum(float((model(part) - part).square().sum()) for part in x.split(500))
    return wrong / float((x - x.mean(0)).square().sum())


def spectrum(code: Tensor) -> Tensor:
    """Standard deviations of codes along their principal directions, float64, the largest first."""
    centred = code.double() - code.double().mean(0)
    return torch.linalg.svdvals(centred) / math.sqrt(len(code))
