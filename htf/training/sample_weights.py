"""Weights of samples, as users give them and as losses are multiplied by them."""

from __future__ import annotations

from torch import Tensor


def check_weights(weights: Tensor, samples: int, name: str = "sample_weight") -> Tensor:
    """Weights (samples,), finite, none below zero and some above, or an error that names the argument."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} is a {type(weights).__name__}; expected a tensor (samples,)")
    if tuple(weights.shape) != (samples,):
        raise ValueError(f"{name} has shape {tuple(weights.shape)}; expected ({samples},), one for each sample")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()):
        raise ValueError(f"{name} has entries that are negative, NaN or infinite; expected at least 0")
    if not bool((weights > 0).any()):
        raise ValueError(f"{name} is zero for all samples; expected some above")
    return weights


def factors(weights: Tensor, samples: int, name: str = "sample_weight") -> Tensor:
    """Factors of the losses, whose mean is 1, from weights that `check_weights` takes."""
    weights = check_weights(weights, samples, name)
    weights = weights if weights.is_floating_point() else weights.double()
    return weights / weights.double().mean().to(weights.dtype)
