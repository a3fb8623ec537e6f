"""Norms of end tensors, and how large theory says that they must become on a problem where they diverge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from htf.dynamics.end_tensors import check_written_out, written_out
from htf.dynamics.trackers import check_factorization
from htf.nn import Factorization
from htf.ranks import log_norm
from htf.training.tracking import Moment, Tracker


def norms(p: float | Sequence[float] | None = None) -> Tracker:
    r"""Track Schatten norms and quasi-norms of the end matrices, or the Frobenius norms of end tensors.

    Parameters
    ----------
    p : float or sequence of float, optional
        Above 0, infinity allowed: :math:`(\sum_i \sigma_i^p)^{1/p}` of the singular values, a quasi-norm for p below 1;
        1 is the nuclear norm, 2 the Frobenius norm, infinity the spectral norm.  By default (1, 2) for matrices.
        Tensors have the Frobenius norm only, p = 2, their default.

    Returns
    -------
    Tracker
        "norms", which records (runs,) float64 under "schatten 1", "schatten 2" and so on.

    Raises
    ------
    ValueError, TypeError
        If a p is not above 0 or no number; at the start of a fit, if it is not 2 and the network is no
        MatrixFactorization, or for a large tensor of a factorization that is on no tree.

    See Also
    --------
    htf.dynamics.effective_ranks : what falls while norms may rise.
    htf.plotting.plot_norms_and_rank : draws both.

    Notes
    -----
    Singular values of each run, or for tensors on a tree `htf.ranks.log_norm`, O(N R³) per run: never the tensor.
    Another factorization is written out, if its tensors have at most 2¹⁴ entries.

    References
    ----------
    .. [1] N. Razin, N. Cohen, "Implicit regularization in deep learning may not be explainable by norms", NeurIPS 2020.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.MatrixFactorization((2, 2), depth=2, init="identity", dtype=torch.float64)
    >>> history = htf.training.fit(net, htf.datasets.diverging_completion(), steps=50, track=htf.dynamics.norms([1, 2]))
    >>> list(history["norms"]), bool(history["norms"]["schatten 2"][-1] > history["norms"]["schatten 2"][0])
    (['schatten 1', 'schatten 2'], True)
    """
    if p is None:
        return Norms(None)
    values = list(p) if isinstance(p, Iterable) else [p]
    if not values:
        raise ValueError("p is empty; expected at least one exponent")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"p is {value!r}; expected a number above 0, or a sequence of them")
        if not value > 0:
            raise ValueError(f"p is {value}; expected above 0")
    return Norms(tuple(float(value) for value in values))


@dataclass(frozen=True)
class Norms(Tracker):
    """See `norms`."""

    p: tuple[float, ...] | None
    name = "norms"

    def exponents(self, network: Factorization) -> tuple[float, ...]:
        """Those that were asked for, or the network's default."""
        if self.p is None:
            return (1.0, 2.0) if network.has_end_matrices else (2.0,)
        if not network.has_end_matrices and set(self.p) != {2.0}:
            (other, *_) = (p for p in self.p if p != 2)
            raise ValueError(f"p holds {other:g}; a {type(network).__name__} has the Frobenius norm only, p=2")
        return self.p

    def describe(self, network: Factorization) -> dict[str, Any]:
        check_factorization(self.name, network)
        if not network.has_end_matrices and network.tree is None:
            check_written_out(self.name, network)
        # As text: JSON has no infinity.
        return {"p": [f"{p:g}" for p in self.exponents(network)]}

    @torch.no_grad()
    def measure(self, moment: Moment) -> dict[str, Tensor]:
        network = moment.network
        if network.has_end_matrices:
            values = network.singular_values().double()
            return {f"schatten {p:g}": schatten_norm(values, p) for p in self.exponents(network)}
        if network.tree is None:
            return {"schatten 2": written_out(network).movedim(network.order, 0).flatten(1).norm(dim=1)}
        return {"schatten 2": torch.stack([log_norm(network, run) for run in range(network.runs)]).exp()}


def schatten_norm(values: Tensor, p: float) -> Tensor:
    """The p-norm of singular values (..., k), above 0 or infinite; a quasi-norm for p below 1."""
    largest = values.amax(-1)
    if math.isinf(p):
        return largest
    relative = values / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
    return largest * (relative**p).sum(-1) ** (1 / p)


@overload
def norm_lower_bound(loss: float) -> float: ...
@overload
def norm_lower_bound(loss: Tensor) -> Tensor: ...
def norm_lower_bound(loss: float | Tensor) -> float | Tensor:
    r"""Lower bound on the norm of 2×2 matrices of positive determinant with a given loss, on `diverging_completion`.

    With :math:`\ell = \frac13 ((w_{12} - 1)^2 + (w_{21} - 1)^2 + w_{22}^2)`, the mean square that a fit minimizes, and
    :math:`q = \sqrt{1 + 12 \ell}`, every W with :math:`\det W > 0` has, for :math:`\ell < 1/3`,

    .. math:: |w_{11}| > B(\ell) = \begin{cases}
        (3 - q)^{3/2} / (2 \sqrt{q - 1}) & \ell \le 1/4 \\
        \sqrt{1 - 3 \ell} & 1/4 \le \ell \le 1/3 \\
        0 & \text{beyond, where nothing is claimed.} \end{cases}

    Parameters
    ----------
    loss : float or Tensor
        Losses in any shape, at least 0.

    Returns
    -------
    float or Tensor
        B, of the same shape; infinity at a loss of 0, which no such matrix attains.  It falls as the loss grows, and is
        :math:`1 / \sqrt{3 \ell}` to leading order as the loss goes to 0.

    Raises
    ------
    ValueError
        If a loss is negative or NaN.

    See Also
    --------
    htf.datasets.diverging_completion : the problem.
    htf.dynamics.norms : norms of a fit to it.

    Notes
    -----
    Every Schatten norm and quasi-norm is at least the spectral norm, hence at least :math:`|w_{11}|`: the bound holds
    for all of them.

    Proof.  Let :math:`s^2 = 3\ell < 1`, :math:`w_{12} = 1 + a`, :math:`w_{21} = 1 + b`, and
    :math:`\rho^2 = a^2 + b^2`, so that :math:`w_{22}^2 = s^2 - \rho^2`.  A positive determinant means
    :math:`w_{11} w_{22} > (1 + a)(1 + b)`.  The right side is :math:`1 + u + (u^2 - \rho^2) / 2` with
    :math:`u = a + b \in [-\sqrt2 \rho, \sqrt2 \rho]`; its minimum f(ρ) is :math:`(1 - \rho / \sqrt2)^2` if
    :math:`\rho \le 1 / \sqrt2` and :math:`(1 - \rho^2) / 2` beyond, positive as :math:`\rho \le s < 1`.  So
    :math:`w_{22} \ne 0` and :math:`|w_{11}| > f(\rho) / \sqrt{s^2 - \rho^2}`, whose minimum over ρ is at
    :math:`\rho = (q - 1) / \sqrt2` if :math:`\ell \le 1/4`, and at :math:`\rho^2 = 2 s^2 - 1` beyond.  Both are
    attained at determinant 0, so no larger bound holds.

    Gradient flow of a matrix factorization of depth 2 or more from a balanced start keeps the sign of the determinant,
    so that from a start with a positive one norms diverge if the loss goes to 0; that it does is not claimed here.

    References
    ----------
    .. [1] N. Razin, N. Cohen, "Implicit regularization in deep learning may not be explainable by norms", NeurIPS 2020,
       theorem 1, there for half the sum of squares and with constants that are not the best.

    Examples
    --------
    >>> import htf
    >>> [round(htf.dynamics.norm_lower_bound(loss), 2) for loss in (1e-4, 0.25, 1.0)]
    [57.72, 0.5, 0.0]
    """
    if not isinstance(loss, Tensor):
        return float(norm_lower_bound(torch.tensor(loss, dtype=torch.float64, device="cpu")))
    if not bool((loss >= 0).all()):
        raise ValueError(f"loss is {float(loss[~(loss >= 0)].flatten()[0])}; expected at least 0")
    q = (1 + 12 * loss).sqrt()
    # q - 1 without cancellation; infinity at 0.
    small = (3 - q).clamp(min=0) ** 1.5 / (2 * (12 * loss / (1 + q)).sqrt())
    return torch.where(loss <= 0.25, small, (1 - 3 * loss).clamp(min=0).sqrt())
