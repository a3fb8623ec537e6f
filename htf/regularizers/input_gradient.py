"""Regularization by how the gradient at one patch changes with another: Razin, Maman & Cohen 2022."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from htf._checks import above_zero, positive
from htf._outputs import precise, scores
from htf._random import beside, place
from htf.patches.sampling import Patch, PatchSampler
from htf.regularizers._base import Model, PatchRegularizer, learnable_scores, running_statistics_kept, warn_of_no_effect
from htf.regularizers._second import first_derivatives, refusal, without_second_derivative


class InputGradientChange(PatchRegularizer):
    r"""Input-gradient-change regularizer: makes the gradient at one patch depend on what is in another.

    .. math:: \frac 1 n \sum_{i=1}^n \left| \cos \left(
        \nabla_A f(x_i),\; \nabla_A f(x_i') \right) \right|

    for two patches A and B, drawn at each call, where x' is x with B taken from the next sample of the batch (the last
    takes it from the first), and f is the only logit of the model or that of the true class.  A model that is a sum of
    a function of A and a function of the rest has gradients at A that ignore B, cosine 1: it cannot relate the two.

    Call it as ``reg(model, x, y, out)`` and add what it gives to the loss.

    Parameters
    ----------
    patches : PatchSampler
        Gives A and B; see `random_patches` and its kin.
    weight : float
        Factor of the term.
    seed : int
        Of the patches and samples; the draws of a call depend on it and on the number of calls before alone.
    samples : int, optional
        How many samples of the batch are used, drawn anew at each call; all by default.
    interval : int
        Every `interval`-th call computes, at `interval` times the weight, so that the mean is kept; the others give 0.
    eps : float
        Added to the norms of gradients, under a root: zero gradients give cosine 0 and no derivative.

    Raises
    ------
    TypeError, ValueError
        For arguments out of range.

    Warns
    -----
    RuntimeWarning
        If all gradients at A are zero, as for a model that ignores its input there.

    See Also
    --------
    htf.regularizers.GradientFieldChange : less noisy, from fewer samples.
    htf.regularizers.Interaction : first derivatives only.
    htf.regularizers.random_patches, htf.regularizers.preset_areas : patches to relate.

    Notes
    -----
    Takes second derivatives, so neither the model nor the step can be wrapped in `torch.compile`.  The passes of the
    regularizer take torch's math kernel for scaled-dot-product attention, as others have no second derivatives; an
    `out` that another kernel computed is not used.

    One call costs two more passes forward, two backward, and their derivatives.  If `x` requires a gradient and `out`
    was computed from it, `out` serves as f(x), which saves a pass where all samples are used.  Under autocast the
    cosines are taken in single precision; gradients themselves may underflow in float16, not in bfloat16.

    Each of the two passes normalizes its own batch, as in the paper, but running statistics of batch normalization are
    those of training without the regularizer; the paper's code mixes the exchanged images in.  Dropout draws anew for x
    and for x', and what that changes counts as if B had.

    Under ``DistributedDataParallel``, processes with one seed draw the same patches.  Buffers such as those statistics
    must not be broadcast at every pass (``broadcast_buffers=False``): the backward pass needs them as they were.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6.

    Examples
    --------
    >>> import torch, htf
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 7), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
    >>> reg = htf.regularizers.InputGradientChange(htf.regularizers.random_patches(2), weight=3.0, seed=0)
    >>> x, y = torch.rand(16, 1, 8, 8), torch.randint(2, (16,)).float()
    >>> out = model(x)
    >>> loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y) + reg(model, x, y, out)
    >>> loss.backward()
    >>> 0 < reg.last <= 1
    True
    """

    def __init__(
        self,
        patches: PatchSampler,
        weight: float = 1.0,
        *,
        seed: int = 0,
        samples: int | None = None,
        interval: int = 1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__(patches, weight, seed, interval)
        if samples is not None and positive("samples", samples) < 2:
            raise ValueError(f"samples is {samples}; expected at least 2, as their patches are exchanged")
        self.samples = None if samples is None else int(samples)
        self.eps = above_zero("eps", eps)

    def _value(self, model: Model, x: Tensor, y: Tensor | None, out: Tensor | None, generator: Generator) -> Tensor:
        first, second = self._draw(x, generator)
        gradient = None
        if self.samples is not None and self.samples < len(x):
            chosen = torch.randperm(len(x), generator=generator, device=place(generator))[: self.samples]
            x, y = x[beside(chosen, x)], None if y is None else y[beside(chosen, y)]
        elif out is not None and x.requires_grad:
            gradient = _gradient(scores(out, y, len(x)), x)
            if gradient is not None and without_second_derivative(gradient):
                gradient = None
        with running_statistics_kept(model):
            if gradient is None:
                gradient = gradients_of_own(model, x.detach(), y)
            changed = gradients_of_own(model, _exchanged(x.detach(), second), y)
        a, b = (precise(g[:, :, first.rows, first.columns]).flatten(1) for g in (gradient, changed))
        if self._looks(a) and not bool(torch.any(a.detach() != 0) | torch.any(b.detach() != 0)):
            warn_of_no_effect(first, "its gradients there are all zero")
        return (_unit(a, self.eps) * _unit(b, self.eps)).sum(1).abs().mean()

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "samples": self.samples, "eps": self.eps}


def _exchanged(x: Tensor, patch: Patch) -> Tensor:
    """Images whose patch is that of the next one."""
    changed = x.clone()
    changed[:, :, patch.rows, patch.columns] = x[:, :, patch.rows, patch.columns].roll(-1, 0)
    return changed


def gradients_of_own(model: Model, x: Tensor, y: Tensor | None) -> Tensor:
    """Gradients of the model's scores at each image, zero where they do not depend on it, with a graph.

    Raises
    ------
    RuntimeError
        If they cannot be differentiated again; the message names the remedy.
    """
    x = x.requires_grad_()
    # Of torch's kernels for attention, this one has second derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        gradient = _gradient(learnable_scores(model, x, y), x)
    if gradient is None:
        return torch.zeros_like(x)
    if reason := without_second_derivative(gradient):
        raise refusal(reason)
    return gradient


def _gradient(values: Tensor, x: Tensor) -> Tensor | None:
    """Gradients of all samples' values, with a graph of their own; None if they do not depend on `x`."""
    if not values.requires_grad:
        return None
    with first_derivatives():
        return torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)[0]


def _unit(vectors: Tensor, eps: float) -> Tensor:
    return vectors / (vectors.square().sum(1, keepdim=True) + eps**2).sqrt()
