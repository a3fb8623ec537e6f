"""Outputs of a classifier against labels: loss, hits, and both over a whole data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from htf._modes import evaluated
from htf.training._samples import Samples


def class_loss(out: Tensor, y: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of one logit, (n,) or (n, 1), for labels 0 and 1, or of a logit per class, (n, classes).

    Parameters
    ----------
    out, y : Tensor
    weights : Tensor, (n,), optional
        Factors of the samples' losses.
    label_smoothing : float
        Share of the targets that is spread evenly over the classes.
    """
    reduction = "mean" if weights is None else "none"
    if _single(out):
        targets = y.to(out.dtype)
        if label_smoothing:
            targets = targets * (1 - label_smoothing) + label_smoothing / 2
        losses = binary_cross_entropy_with_logits(out.reshape(-1), targets, reduction=reduction)
    else:
        losses = cross_entropy(out, y, reduction=reduction, label_smoothing=label_smoothing)
    return losses if weights is None else (losses * weights).mean()


def hits(out: Tensor, y: Tensor) -> Tensor:
    """How many labels the outputs say, a scalar tensor."""
    return _right(out, y).sum()


def _right(out: Tensor, y: Tensor) -> Tensor:
    said = out.reshape(-1) > 0 if _single(out) else out.argmax(1)
    return said == y


def _right_and_unusual(out: Tensor, y: Tensor) -> Tensor:
    """How many labels finite outputs say, and how many samples have others, (2,)."""
    finite = out.reshape(len(out), -1).isfinite().all(1)
    return torch.stack([(_right(out, y) & finite).sum(), (~finite).sum()])


def _single(out: Tensor) -> bool:
    return out.ndim == 1 or out.shape[1] == 1


def check_outputs(out: Tensor, samples: int, classes: int) -> None:
    """Whether a model's outputs can tell so many classes apart."""
    if not isinstance(out, Tensor):
        raise TypeError(f"model gives a {type(out).__name__}; expected a tensor of outputs")
    if out.shape[:1] != (samples,) or out.ndim > 2:
        raise ValueError(
            f"model gives outputs of shape {tuple(out.shape)} for {samples} images; "
            f"expected ({samples}, 1), or ({samples}, classes)"
        )
    outputs = 2 if _single(out) else out.shape[1]
    if classes > outputs:
        raise ValueError(f"model tells {outputs} classes apart; the labels are 0 to {classes - 1}")


@torch.no_grad()
def count_hits(model: nn.Module, samples: Samples, size: int, share: tuple[int, int], device: torch.device) -> Tensor:
    """How many labels a model says in evaluation mode, and for how many samples its outputs are not finite, (2,)."""
    with evaluated(model):
        found = [_right_and_unusual(model(x), y) for x, y in samples.batches(size, share)]
    return torch.stack(found).sum(0) if found else torch.zeros(2, dtype=torch.int64, device=device)


def use_channels_last(model: nn.Module) -> bool:
    """Store the kernels of 2-D convolutions with channels last; whether there are any."""
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    for kernel in kernels:
        kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    return bool(kernels)
