"""Regularization by the share of the variance that two patches explain together, and neither alone."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from htf._checks import above_zero, positive
from htf._random import beside
from htf.patches.grids import centred, doubly_centred, draw_grids, grid_images
from htf.patches.sampling import PatchSampler
from htf.regularizers._base import Model, PatchRegularizer, learnable_scores, running_statistics_kept, warn_of_no_effect


class Interaction(PatchRegularizer):
    r"""Interaction regularizer: makes the output depend on two patches together; first derivatives only.

    For some samples of the batch, the model is evaluated on a grid of images: the sample with g contents of patch A
    crossed with g contents of patch B, its own and those of other samples.  Of the g × g outputs M,

    .. math:: \rho = \frac{\lVert M - \text{row means} - \text{column means} + \text{mean} \rVert_F^2}
        {\lVert M - \text{mean} \rVert_F^2 + \epsilon}

    is the share of the variance that is explained by A and B together and by neither alone (a Sobol index): 0 if the
    model is a sum of a function without A and one without B.  The term is the mean of 1 - ρ.

    Call it as ``reg(model, x, y, out)`` and add what it gives to the loss.

    Parameters
    ----------
    patches : PatchSampler
        Gives A and B; see `random_patches` and its kin.
    weight : float
        Factor of the term.
    seed : int
        Of the patches and samples; the draws of a call depend on it and on the number of calls before alone.
    samples : int
        How many samples of the batch are used, drawn anew at each call; all of a smaller batch.
    grid : int
        Contents of each patch, g, at least 2; no more than there are samples in the batch.
    spectral : bool
        Whether to promote the effective rank of the grid instead: with the participation ratio
        :math:`p = (\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4` of the singular values of M less its mean, between 1 and
        g, the term is the mean of :math:`1 - (p - 1) / (g - 1)`.  A sum of functions of A and B has p ≤ 2.
    interval : int
        Every `interval`-th call computes, at `interval` times the weight, so that the mean is kept; the others give 0.
    eps : float
        In units of the logit's square; where the grid's outputs vary by much less, there is next to no gradient.  Well
        above the square of rounding errors, which are all that is seen where patches have no effect.

    Raises
    ------
    TypeError, ValueError
        For arguments out of range.

    Warns
    -----
    RuntimeWarning
        If all outputs of all grids are equal although images differ, as for a model that ignores its input there.

    See Also
    --------
    htf.regularizers.InputGradientChange, htf.regularizers.GradientFieldChange : by gradients at the input.
    htf.regularizers.preset_areas, htf.regularizers.random_patches : patches to relate.
    htf.ranks.separation_profile : measures what it promotes.

    Notes
    -----
    One call costs a pass of ``samples * grid**2`` images forward and backward; the model may be compiled.

    Where the two patches look alike in all samples used, as blank background does, there is nothing to be learned: ρ is
    0, and the term 1.  The participation ratio is a ratio of polynomials, smooth at repeated and zero singular values,
    where the effective rank by entropy is not.

    Images of the grid are one batch for batch normalization; running statistics are those of training without the
    regularizer.  Dropout draws anew for every image of a grid, which counts as interaction: ρ is no longer 0 for a sum.
    So do roundings under autocast, where patches change the output by little more than these.

    Under ``DistributedDataParallel``, processes with one seed draw the same patches.  Buffers such as those statistics
    must not be broadcast at every pass (``broadcast_buffers=False``): the backward pass needs them as they were.

    References
    ----------
    .. [1] I. M. Sobol, "Sensitivity estimates for nonlinear mathematical models", Math. Model. Comput. Exp. 1 (1993).
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6.

    Examples
    --------
    >>> import torch, htf
    >>> _ = torch.manual_seed(0)
    >>> reg = htf.regularizers.Interaction(htf.regularizers.random_patches(2), weight=1.0, seed=0)
    >>> x, y = torch.rand(16, 1, 8, 8), torch.randint(2, (16,)).float()
    >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    >>> round(reg(linear, x, y).item(), 3)  # a sum over pixels relates no two patches
    1.0
    >>> wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> loss = torch.nn.functional.binary_cross_entropy_with_logits(wide(x)[:, 0], y) + reg(wide, x, y)
    >>> loss.backward()
    >>> 0 < reg.last < 1
    True
    """

    def __init__(
        self,
        patches: PatchSampler,
        weight: float = 1.0,
        *,
        seed: int = 0,
        samples: int = 8,
        grid: int = 4,
        spectral: bool = False,
        interval: int = 1,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(patches, weight, seed, interval)
        self.samples = positive("samples", samples)
        self.grid = positive("grid", grid)
        if self.grid < 2:
            raise ValueError(f"grid is {grid}; expected at least 2 contents of each patch")
        self.spectral = bool(spectral)
        self.eps = above_zero("eps", eps)

    def _value(self, model: Model, x: Tensor, y: Tensor | None, out: Tensor | None, generator: Generator) -> Tensor:
        first, second = self._draw(x, generator)
        drawn = draw_grids(len(x), min(self.samples, len(x)), min(self.grid, len(x)), generator)
        images = grid_images(x.detach(), drawn, (first, second))
        if y is not None:
            y = y[beside(drawn.base, y)].repeat_interleave(drawn.size**2, 0)
        with running_statistics_kept(model):
            values = learnable_scores(model, images, y)
        grids = values.view(-1, drawn.size, drawn.size)
        # Where the patches look alike in all images it is not the model that is to blame.
        if (
            self._looks(grids)
            and _all_equal(grids.detach())
            and not _all_equal(images.view(*grids.shape, *x.shape[1:]))
        ):
            warn_of_no_effect(first, "outputs are the same whatever stands there and in the other patch")
        return self._lack_of_rank(grids) if self.spectral else self._lack_of_interaction(grids)

    def _lack_of_interaction(self, grids: Tensor) -> Tensor:
        share = doubly_centred(grids).square().sum((1, 2)) / (centred(grids).square().sum((1, 2)) + self.eps)
        return 1 - share.mean()

    def _lack_of_rank(self, grids: Tensor) -> Tensor:
        grids = centred(grids)
        # Not a matrix product, which autocast would take in half precision.
        gramians = (grids[:, :, None] * grids[:, None]).sum(-1)
        total, squares = gramians.diagonal(dim1=1, dim2=2).sum(1).square(), gramians.square().sum((1, 2))
        # Constants on both sides of the fraction: a grid that does not vary counts as of rank one.
        rank = (total + self.eps**2) / (squares + self.eps**2)
        return 1 - (rank.mean() - 1) / (grids.shape[1] - 1)

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "samples": self.samples,
            "grid": self.grid,
            "spectral": self.spectral,
            "eps": self.eps,
        }


def _all_equal(grids: Tensor) -> bool:
    """Whether all that is in a grid (n, size, size, ...) is the same, for each of them."""
    return bool((grids == grids[:, :1, :1]).all())
