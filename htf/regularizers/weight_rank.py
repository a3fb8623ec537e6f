"""Explicit penalties on the rank of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from htf._checks import above_zero, finite
from htf.nn.layers.drop_in import DropInLayer
from htf.ranks.spectrum import effective_ranks_of
from htf.regularizers._base import check_learning


class WeightRank:
    r"""A term of a loss that lowers the ranks of the weights of linear layers and convolutions.

    Of the singular values :math:`\sigma_i` of each weight, as a matrix of outputs × (inputs · taps), one of

    * "nuclear": :math:`\sum_i \sigma_i`, the convex hull of the rank, which also shrinks;
    * "log_det": :math:`\sum_i \log (1 + p_i / \epsilon) - \log (1 + 1 / \epsilon)`, where
      :math:`p_i = \sigma_i^2 / \sum_j \sigma_j^2`, as `TreeLogDet` has it;
    * "effective_rank": :math:`\exp(-\sum_i q_i \log q_i)`, where :math:`q_i = \sigma_i / \sum_j \sigma_j`, see
      `htf.ranks.effective_rank`.

    The last two ignore the scale of the weight and can be lowered by rank alone.  The term is the mean over weights.

    Call it as ``reg(model)``, or with batch, labels and outputs as other regularizers, and add what it gives to the
    loss.

    Parameters
    ----------
    penalty : {"nuclear", "log_det", "effective_rank"}
    weight : float
        Factor of the term; 0 computes nothing, and below 0 ranks are raised.
    modules : iterable of str, optional
        Names of layers, or of modules that hold some, as `torch.nn.Module.named_modules` gives them; all layers by
        default.
    eps : float
        Of "log_det": the share of the squared norm below which a singular value counts little.

    Raises
    ------
    TypeError, ValueError
        For an unknown penalty, a weight that is not finite, no modules, and `eps` that is not above 0.

    See Also
    --------
    htf.ranks.effective_rank : one of the penalties, of singular values.
    htf.overparameterize : depth, which lowers ranks without a penalty.
    htf.truncate : cuts ranks afterwards.

    Notes
    -----
    One SVD of each weight, which is not differentiated: with :math:`u_i, v_i` held fixed,
    :math:`\sigma_i = u_i^T W v_i` has the right first derivatives, and those of a symmetric function of all singular
    values are right at repeated ones too.  Singular values of 0, up to rounding, are left out: there the derivative of
    the effective rank is infinite, and 0 is a subgradient of the nuclear norm.  Second derivatives are not right.

    Over-parameterized and factorized layers are penalized by the weight that they stand for.  Of a grouped convolution
    it is the stacked weights of its groups.  A weight that several layers share counts once.

    References
    ----------
    .. [1] M. Huh et al., "The low-rank simplicity bias in deep networks", TMLR 2023, arXiv:2103.10427, compares depth
       with penalties of this kind.
    .. [2] M. Fazel, H. Hindi, S. P. Boyd, "Log-det heuristic for matrix rank minimization with applications to Hankel
       and Euclidean distance matrices", ACC 2003.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> layer = nn.Linear(3, 3, bias=False)
    >>> _ = nn.init.eye_(layer.weight)
    >>> reg = htf.regularizers.WeightRank("effective_rank", weight=0.1)
    >>> round(reg(layer).item(), 6), round(reg.last, 6)
    (0.3, 3.0)
    """

    def __init__(
        self,
        penalty: str = "nuclear",
        weight: float = 1.0,
        modules: Iterable[str] | None = None,
        eps: float = 1e-3,
    ) -> None:
        if penalty not in _PENALTIES:
            raise ValueError(f"penalty is {penalty!r}; expected one of {', '.join(_PENALTIES)}")
        if isinstance(modules, str):
            raise TypeError(f"modules is {modules!r}; expected several names, such as [{modules!r}]")
        self.penalty = penalty
        self.weight = finite("weight", weight)
        self.modules = None if modules is None else tuple(dict.fromkeys(modules))
        if self.modules is not None and not self.modules:
            raise ValueError("modules is empty; expected at least one name, or None for all layers")
        self.eps = above_zero("eps", eps)
        self._last: Tensor | None = None

    def __call__(self, model: nn.Module, *_: object) -> Tensor:
        """Compute the term of the loss.

        Parameters
        ----------
        model : nn.Module
        *_ : object
            Batch, labels and outputs, which other regularizers look at, may be given and are ignored.

        Returns
        -------
        Tensor
            0-dimensional, of the weights' dtype, in single precision at least.

        Raises
        ------
        TypeError
            If `model` is no nn.Module.
        ValueError
            If it has no linear layer or convolution, no module of a name that was asked for, or NaN or infinite
            weights.
        RuntimeError
            If nothing can be learned: gradients are switched off, or all parameters frozen.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")
        check_learning(model)
        matrices = dict(self._matrices(model))
        some = next(iter(matrices.values()))
        if not self.weight:
            return some.new_zeros((), dtype=torch.promote_types(some.dtype, torch.float32))
        penalty = _PENALTIES[self.penalty]
        values = [penalty(_singular_values(name, matrix), self.eps) for name, matrix in matrices.items()]
        value = torch.stack(values).mean()
        self._last = value.detach()
        return self.weight * value

    @property
    def last(self) -> float | None:
        """Mean over weights as last computed, without the term's weight."""
        return None if self._last is None else float(self._last)

    def _matrices(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Weights as matrices by the layers' names; each once."""
        seen: set[tuple[int, ...]] = set()
        for name, layer in self._layers(model):
            identity = _identity(layer)
            if identity not in seen:
                seen.add(identity)
                yield name, _matrix(layer)
        if not seen:
            raise ValueError(f"model, {type(model).__name__}, has no linear layer or convolution to penalize")

    def _layers(self, model: nn.Module) -> Iterator[tuple[str, _Layer]]:
        for root in ("",) if self.modules is None else self.modules:
            try:
                module = model.get_submodule(root)
            except AttributeError:
                raise ValueError(f"model has no module {root!r} to penalize") from None
            found = list(_layers_in(module, root))
            if not found and root:
                raise ValueError(f"module {root!r} is or has no linear layer or convolution to penalize")
            yield from found

    def __repr__(self) -> str:
        return (
            f"WeightRank(penalty={self.penalty!r}, weight={self.weight!r}, modules={self.modules!r}, eps={self.eps!r})"
        )


_Layer = nn.Linear | _ConvNd | DropInLayer


def _layers_in(module: nn.Module, name: str) -> Iterator[tuple[str, _Layer]]:
    """The layers of a module; not those of which a layer is made."""
    if isinstance(module, _Layer):
        yield name, module
        return
    for child, inner in module.named_children():
        yield from _layers_in(inner, f"{name}.{child}" if name else child)


def _identity(layer: _Layer) -> tuple[int, ...]:
    """Identity of a weight: that of a drop-in layer is computed, from parameters that others may share."""
    if not isinstance(layer, DropInLayer):
        return (id(layer.weight),)
    return tuple(id(p) for name, p in layer.named_parameters() if name.rpartition(".")[2] != "bias")


def _matrix(layer: _Layer) -> Tensor:
    weight = layer.weight
    if isinstance(layer, _ConvNd) and layer.transposed:
        weight = weight.transpose(0, 1)
    return weight.flatten(1)


def _singular_values(name: str, matrix: Tensor) -> Tensor:
    """Singular values that are not 0, differentiable by the matrix with the singular vectors held fixed."""
    fixed = matrix.detach()
    fixed = fixed.to(torch.promote_types(fixed.dtype, torch.float32))
    if not bool(fixed.isfinite().all()):
        raise ValueError(f"the weight of {name or 'model'} has NaN or infinite entries")
    u, s, vh = torch.linalg.svd(fixed, full_matrices=False)
    kept = s > max(fixed.shape) * torch.finfo(s.dtype).eps * s[0]
    u, vh = u[:, kept], vh[kept]
    return ((u.mT @ matrix.to(u.dtype)) * vh).sum(1)


def _nuclear(values: Tensor, eps: float) -> Tensor:
    return values.sum()


def _log_det(values: Tensor, eps: float) -> Tensor:
    if not len(values):
        return values.sum()
    squares = values.square()
    return torch.log1p(squares / squares.sum() / eps).sum() - math.log1p(1 / eps)


def _effective_rank(values: Tensor, eps: float) -> Tensor:
    if not len(values):
        return values.sum()
    return effective_ranks_of(values)


_PENALTIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "nuclear": _nuclear,
    "log_det": _log_det,
    "effective_rank": _effective_rank,
}
