"""Regularization by how the gradients at all patches change with one: the input-gradient change, measured densely."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from htf._checks import above_zero, natural, positive
from htf._outputs import precise
from htf._random import below, beside, place, rand
from htf.regularizers._base import ImageRegularizer, Model, running_statistics_kept, warn_of_no_effect
from htf.regularizers._batch_norm import ClosedForm
from htf.regularizers.input_gradient import gradients_of_own


class GradientFieldChange(ImageRegularizer):
    r"""Makes the gradients at all patches of an image depend on what is in one of them.

    For some samples x of the batch, x' is x with one small patch B taken from the next sample.  The term is the mean,
    over samples and over the patches A of a tiling that do not overlap B, of

    .. math:: \left| \cos \left( \nabla_A f(x),\; \nabla_A f(x') \right) \right| .

    This is what `InputGradientChange` with `random_patches` estimates from one pair of patches for the whole batch,
    with three changes that make it less noisy at the same cost for a sample, so that fewer samples do: the gradient at
    all patches is there once it is there at one, so all of them count; each sample has a patch B of its own; and B is
    drawn where the two samples differ, as an exchange of like for like tells nothing.

    Call it as ``reg(model, x, y, out)`` and add what it gives to the loss.

    Parameters
    ----------
    size : int
        Height and width of a patch in pixels.
    weight : float
        Factor of the term.
    distance : int
        Least number of pixels between A and B; see `Patch.distance`.
    seed : int
        Of samples, patches and the tiling's corner; the draws of a call depend on it and on the number of calls before
        alone.
    samples : int
        How many samples of the batch are used, drawn anew at each call; all of a smaller batch.
    interval : int
        Every `interval`-th call computes, at `interval` times the weight, so that the mean is kept; the others give 0.
    eps : float
        Added to the product of the two norms, under a root: zero gradients give cosine 0 and no derivative, and so, in
        part, do gradients at a patch that are smaller than the root of `eps`.

    Raises
    ------
    TypeError, ValueError
        For arguments out of range; when called, for a size and distance that leave no patch A anywhere.

    Warns
    -----
    RuntimeWarning
        If all gradients are zero, as for a model that ignores its input.

    See Also
    --------
    htf.regularizers.InputGradientChange : the paper's, of two patches for the whole batch.
    htf.regularizers.Interaction : first derivatives only.
    htf.ranks.separation_profile : measures what it promotes.

    Notes
    -----
    Takes second derivatives, so neither the model nor the step can be wrapped in `torch.compile`; its pass takes the
    math kernel of torch for scaled-dot-product attention, as others have none.  The model's first operation must not
    change its input in place.

    B is drawn where it leaves room for some A.  In small images a tiling may have none that is far enough for some of
    the samples, which then do not count.

    One call costs a pass of ``2 * samples`` images forward and backward, and its derivatives.  The images are one batch
    for batch normalization, whose second derivative in float32 and float64 on a CPU is taken in closed form; running
    statistics are those of training without the regularizer.  Under autocast the cosines are taken in single precision;
    gradients themselves may underflow in float16, not in bfloat16.

    Dropout draws anew for x and for x', and what that changes counts as if B had.

    Under ``DistributedDataParallel``, processes with one seed draw the same numbers.  Buffers such as those statistics
    must not be broadcast at every pass (``broadcast_buffers=False``): the backward pass needs them as they were.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6.

    Examples
    --------
    >>> import torch, htf
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 7), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
    >>> reg = htf.regularizers.GradientFieldChange(size=2, weight=3.0, seed=0)
    >>> x, y = torch.rand(16, 1, 8, 8), torch.randint(2, (16,)).float()
    >>> out = model(x)
    >>> loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y) + reg(model, x, y, out)
    >>> loss.backward()
    >>> 0 < reg.last <= 1  # the mean cosine, without the weight
    True
    """

    def __init__(
        self,
        size: int = 2,
        weight: float = 1.0,
        *,
        distance: int = 0,
        seed: int = 0,
        samples: int = 8,
        interval: int = 1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__(weight, seed, interval)
        self.size = positive("size", size)
        self.distance = natural("distance", distance)
        self.samples = positive("samples", samples)
        if self.samples < 2:
            raise ValueError(f"samples is {samples}; expected at least 2, as their patches are exchanged")
        self.eps = above_zero("eps", eps)

    def _value(self, model: Model, x: Tensor, y: Tensor | None, out: Tensor | None, generator: Generator) -> Tensor:
        x = x.detach()
        if self.samples < len(x):
            chosen = torch.randperm(len(x), generator=generator, device=place(generator))[: self.samples]
            x, y = x[beside(chosen, x)], None if y is None else y[beside(chosen, y)]
        others = x.roll(-1, 0)
        exchanged = self._exchanged_pixels(x, others, generator)
        images = torch.cat([x, torch.where(exchanged > 0, others, x)])
        with running_statistics_kept(model), ClosedForm():
            gradients = gradients_of_own(model, images, None if y is None else torch.cat([y, y]))
        if self._looks(gradients) and not bool(gradients.detach().any()):
            warn_of_no_effect(None, "its gradients are all zero")
        (down, across), counted = self._tiling(1 - self._near(exchanged), generator)
        before, after = precise(gradients)[:, :, down:, across:].chunk(2)
        return self._mean_cosine(before, after, counted)

    def _tiling(self, far: Tensor, generator: Generator) -> tuple[tuple[int, int], Tensor]:
        """Its first corner, at random so that every position of A counts, and 1 for its patches that are `far`."""
        rows, columns = (min(self.size, length - self.size + 1) for length in far.shape[-2:])
        first = (below(count, generator) for count in (rows, columns))
        others = ((i, j) for i in range(rows) for j in range(columns))
        # In a small image there are corners from which no patch is far enough from those exchanged.
        for down, across in (tuple(first), *others):
            counted = max_pool2d(-far[:, :, down:, across:], self.size).neg()
            if self._always_far(*counted.shape[-2:]) or bool(counted.any()):
                break
        return (down, across), counted

    def _always_far(self, rows: int, columns: int) -> bool:
        """Whether of so many patches some are far from the exchanged one wherever that is."""
        near = self.size + 2 * self.distance
        touched = -(-near // self.size) + 1  # patches along an axis that reach into what is near
        return rows * columns > touched**2

    def _exchanged_pixels(self, x: Tensor, others: Tensor, generator: Generator) -> Tensor:
        """1 in a patch of each sample, drawn where it differs from what will take its place; (n, 1, height, width)."""
        height, width = x.shape[-2:]
        both = self.size + self.distance + self.size
        if self.size > min(height, width) or both > max(height, width):
            raise ValueError(
                f"size is {self.size} and distance {self.distance}: no two such patches fit into images of "
                f"{height} x {width} pixels"
            )
        differs = max_pool2d((x - others).abs().amax(1, keepdim=True), self.size, stride=1) > 0
        drawn = beside(rand(differs.shape, generator, torch.float32), x)
        # Numbers from 0 to 1 where the two differ, below 0 elsewhere, where one is taken if they never do.
        drawn = drawn - (~differs).to(drawn)
        # Never where no patch A is left beside it.
        down, across = (beside(_leaves_room(length, self.size, both), x) for length in (height, width))
        drawn = drawn.masked_fill(~(down[:, None] | across), -2.0).flatten(1)
        corners = torch.zeros_like(drawn).scatter_(1, drawn.argmax(1, keepdim=True), 1.0).view(differs.shape)
        margin = self.size - 1
        return max_pool2d(pad(corners, (margin,) * 4), self.size, stride=1)

    def _near(self, exchanged: Tensor) -> Tensor:
        """1 where a pixel lies nearer to the exchanged patch than the distance."""
        return max_pool2d(exchanged, 2 * self.distance + 1, stride=1, padding=self.distance)

    def _mean_cosine(self, before: Tensor, after: Tensor, counted: Tensor) -> Tensor:
        def dot(a: Tensor, b: Tensor) -> Tensor:
            return self.size**2 * avg_pool2d((a * b).sum(1, keepdim=True), self.size)

        products, norms = dot(before, after), dot(before, before) * dot(after, after)
        cosines = products.abs() / (norms + self.eps**2).sqrt()
        return (cosines * counted).sum() / counted.sum()

    def _settings(self) -> dict[str, Any]:
        return {"size": self.size, "distance": self.distance, "samples": self.samples, "eps": self.eps}


def _leaves_room(length: int, size: int, both: int) -> Tensor:
    """Where a patch can begin along an axis so that another fits before it or behind it; (length - size + 1,) bool."""
    begin = torch.arange(length - size + 1, device="cpu")
    return (begin >= both - size) | (begin <= length - both)
