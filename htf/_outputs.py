"""The outputs of a model, checked, and the number per sample that a regularizer looks at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scores(out: Any, y: Tensor | None, samples: int) -> Tensor:
    """The logit of a model with one output, or the true class's logit, (samples,).

    Parameters
    ----------
    out : Tensor
        (samples,), (samples, 1) or (samples, classes).
    y : Tensor, optional
        Classes, (samples,), of an integer type; not looked at for one output.
    samples : int
        How many there must be.

    Returns
    -------
    Tensor
        In single precision at least: differences between outputs are lost in bfloat16.

    Raises
    ------
    TypeError, ValueError
        If one of the two has another shape or type.
    """
    out = check_outputs(out, samples)
    if out.ndim == 2 and out.shape[1] > 1:
        out = out.gather(1, _classes(y, samples, out.shape[1]).to(out.device)).squeeze(1)
    return precise(out.reshape(samples))


def check_outputs(out: Any, samples: int) -> Tensor:
    """What a model returned, if it is (samples,), (samples, 1) or (samples, classes) of a floating type.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    if not isinstance(out, Tensor):
        raise TypeError(f"the model returned a {type(out).__name__}; expected a tensor of outputs")
    if out.ndim not in (1, 2) or len(out) != samples or out.numel() == 0:
        raise ValueError(
            f"the model's outputs have shape {tuple(out.shape)}; "
            f"expected ({samples},), ({samples}, 1) or ({samples}, classes)"
        )
    if not out.dtype.is_floating_point:
        raise TypeError(f"the model's outputs have dtype {out.dtype}; expected a real floating type")
    return out


def precise(values: Tensor) -> Tensor:
    """Values in single precision, or in double where they are."""
    return values if values.dtype == torch.float64 else values.float()


def _classes(y: Tensor | None, samples: int, classes: int) -> Tensor:
    if y is None:
        raise ValueError(f"y is None; expected the classes, ({samples},), as the model has {classes} outputs")
    if not isinstance(y, Tensor) or y.dtype.is_floating_point:
        found = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y is a {found}; expected a tensor of classes of an integer type")
    if y.shape not in ((samples,), (samples, 1)):
        raise ValueError(f"y has shape {tuple(y.shape)}; expected ({samples},), a class for each sample")
    # A GPU, which the host would wait for, refuses such an index itself.
    if y.device.type == "cpu" and bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(f"y has classes {int(y.min())} to {int(y.max())}; expected 0 to {classes - 1}, one per output")
    return y.long().reshape(samples, 1)
