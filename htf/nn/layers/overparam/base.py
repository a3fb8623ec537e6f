"""What over-parameterized linear layers and convolutions share: factors, their effective weight, folding back."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from htf._checks import check_dtype, check_seed
from htf._random import rand, randn
from htf.nn.layers._computed import ComputedWeight, refusal
from htf.nn.layers.drop_in import DropInLayer, own_precision
from htf.nn.layers.overparam._composition import ConvChain, compose, program
from htf.nn.layers.overparam._splitting import split
from htf.nn.layers.overparam._truncation import kept_rank

Seed = int | Generator | None


class Overparam(DropInLayer):
    """A chain of linear maps or convolutions in place of one; use `OverparamLinear` or `OverparamConv2d`."""

    norm_type: ClassVar[type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]]
    norms: nn.ModuleList | None

    def __init__(
        self,
        layout: ConvChain,
        residual: tuple[int, ...],
        *,
        bias: bool,
        batch_norm: bool,
        seed: Seed,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        self._layout, self._program = layout, program(layout)
        self.depth, self.widths, self.residual = layout.depth, layout.channels[1:-1], residual
        places: dict[str, Any] = {"device": device, "dtype": dtype}
        self.factors = nn.ParameterList(torch.empty(layout.shape(k, k + 1), **places) for k in range(layout.depth))
        self.register_parameter("bias", nn.Parameter(torch.empty(layout.channels[-1], **places)) if bias else None)
        self.norms = nn.ModuleList(self.norm_type(c, **places) for c in layout.channels[1:]) if batch_norm else None
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: Seed = None) -> None:
        """Start again from a seed; None draws from torch's global generator."""
        generator = seed if seed is None or isinstance(seed, Generator) else Generator().manual_seed(check_seed(seed))
        layout = self._layout
        fan_in = math.prod(layout.shape(0, layout.depth)[1:])
        sizes = [factor.numel() for factor in self.factors]
        # An entry of the product is a sum over hidden channels and, on the mean over its taps, over their pairings.
        terms = [width // layout.groups for width in self.widths]
        terms += [layout.taps(k, k + 1) for k in range(layout.depth)]
        log_terms = sum(map(math.log, terms)) - math.log(layout.taps(0, layout.depth))
        log_norm = (sum(map(math.log, sizes)) - math.log(3 * fan_in) - log_terms) / layout.depth
        for factor, size in zip(self.factors, sizes, strict=True):
            drawn = randn(factor.shape, generator, torch.float32)
            factor.copy_(drawn.mul_(math.exp((log_norm - math.log(size)) / 2)))
        if self.bias is not None:
            drawn = rand(self.bias.shape, generator, torch.float32)
            self.bias.copy_(drawn.mul_(2).sub_(1).div_(math.sqrt(fan_in)))
        for norm in self._norms:
            norm.reset_parameters()

    @property
    def batch_norm(self) -> bool:
        """Whether batch normalization follows each factor."""
        return self.norms is not None

    @property
    def training_path(self) -> str:
        """What computes outputs in training mode: "effective weight", or "chain", which batch normalization needs."""
        return "effective weight" if self.norms is None else "chain"

    def _computed_weight(self) -> Tensor:
        """In the dtype of the factors also under autocast."""
        with own_precision(self.factors[0].device.type):
            return compose(self._program, self._folded())

    @property
    def effective_bias(self) -> Tensor | None:
        """The bias of the plain layer with the same outputs; of batch normalization too, whose shifts it holds."""
        bias = self._computed_bias()
        if bias is self.bias or bias is None or torch.compiler.is_compiling():
            return bias
        return ComputedWeight.of(bias, refusal(type(self).__name__, "effective bias"))

    def _computed_bias(self) -> Tensor | None:
        if self.norms is None:
            return self.bias
        layout = self._layout
        shifts = [self.factors[0].new_zeros(layout.channels[0])]
        with own_precision(self.factors[0].device.type):
            for stop, (norm, factor) in enumerate(zip(self._norms, self._folded(), strict=True), 1):
                rows = factor.flatten(2).sum(2) if factor.ndim > 2 else factor
                rows = rows.reshape(layout.groups, -1, rows.shape[1])
                through = (rows @ shifts[-1].reshape(layout.groups, -1, 1)).flatten()
                skipped = [shifts[start] for start, end in layout.connections if end == stop]
                shifts.append(sum(skipped, through + norm.bias - norm.running_mean * _scale(norm)))
        return shifts[-1] if self.bias is None else shifts[-1] + self.bias

    @property
    def _norms(self) -> Sequence[Any]:
        return () if self.norms is None else list(self.norms)

    def _folded(self) -> list[Tensor]:
        """The factors, each with the scale of the batch normalization that follows it."""
        if self.norms is None:
            return list(self.factors)
        pairs = zip(self._norms, self.factors, strict=True)
        return [factor * _scale(norm).view(-1, *[1] * (factor.ndim - 1)) for norm, factor in pairs]

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer."""
        if self.norms is not None and self.training:
            return self.chain(x)
        return self._apply_weight(x, self._computed_weight(), self._computed_bias())

    def chain(self, x: Tensor) -> Tensor:
        """The outputs, computed factor by factor."""
        return self.states(x)[-1]

    def states(self, x: Tensor) -> list[Tensor]:
        """What passes between the factors: `depth` + 1 tensors, from the padded input to the outputs."""
        states = [self._padded(x)]
        for stop, factor in enumerate(self.factors, 1):
            y = self._link(stop - 1, states[-1], factor)
            if self.norms is not None:
                y = self._normalized(self._norms[stop - 1], y)
            for start, end in self._layout.connections:
                if end == stop:
                    y = y + self._skipped(states[start], start, stop, y)
            states.append(y)
        if self.bias is not None:
            states[-1] = states[-1] + self.bias.view(-1, *[1] * (self.factors[0].ndim - 2))
        return states

    @abstractmethod
    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The plain layer's outputs."""

    @abstractmethod
    def _padded(self, x: Tensor) -> Tensor:
        """The input as the first factor reads it."""

    @abstractmethod
    def _link(self, place: int, x: Tensor, factor: Tensor) -> Tensor:
        """One factor, applied."""

    @abstractmethod
    def _normalized(self, norm: nn.Module, y: Tensor) -> Tensor:
        """Batch normalization of a state."""

    @abstractmethod
    def _skipped(self, x: Tensor, start: int, stop: int, like: Tensor) -> Tensor:
        """A state as a residual connection adds it to a later one."""

    @abstractmethod
    def _plain_layer(self, start: int, stop: int, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """The torch layer in place of the factors from `start` to `stop` - 1."""

    @abstractmethod
    def _of_widths(self, widths: Sequence[int]) -> Self:
        """A layer in place of the same plain one, without residual connections and batch normalization."""

    def _can_part(self, cut: int) -> bool:
        """Whether two torch layers can stand for the factors before and after a state."""
        return not any(start < cut < stop for start, stop in self._layout.connections)

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """Modules of torch alone with the outputs that this layer has in evaluation mode.

        Returns
        -------
        torch.nn.Module
            One plain layer; or, where a hidden width makes that smaller, a sequence of two, of which only the second
            has a bias.  Device, dtype, mode, and whether gradients are wanted are those of this layer.
        """
        layout, factors, bias = self._layout, self._folded(), self._computed_bias()

        def layer(start: int, stop: int, bias: Tensor | None) -> nn.Module:
            weight = compose(program(layout.part(start, stop)), factors[start:stop])
            return self._plain_layer(start, stop, weight, bias)

        def size(cut: int) -> int:
            return math.prod(layout.shape(0, cut)) + math.prod(layout.shape(cut, self.depth))

        cuts = [cut for cut in range(1, self.depth) if self._can_part(cut)]
        cut = min(cuts, key=size, default=0)
        if cut and size(cut) < math.prod(layout.shape(0, self.depth)):
            found: nn.Module = nn.Sequential(layer(0, cut, None), layer(cut, self.depth, bias))
        else:
            found = layer(0, self.depth, bias)
        wanted = any(parameter.requires_grad for parameter in self.factors)
        for name, parameter in found.named_parameters():
            own = self.bias is not None and name.endswith("bias")
            parameter.requires_grad_(self.bias.requires_grad if own and self.bias is not None else wanted)
        return found.train(self.training)

    @torch.no_grad()
    def truncated(self, *, tol: float | None = None, rank: int | float | None = None) -> Self:
        """A new layer whose weight is the closest one of lower rank, in balanced factors.

        The rank is that of the effective weight as a matrix, out × (in · taps), in each group.

        Parameters
        ----------
        tol : float, optional
            From 0 to below 1: largest error of the weight relative to its Frobenius norm.
        rank : int or float, optional
            The rank at most; or, from above 0 to 1, the share of the plain layer's weights that a factor before and one
            behind the rank have together at most, where 1 leaves the rank as it is.

        Returns
        -------
        Overparam
            Of the same class and depth (2 for depth 1), its hidden widths the rank, times the groups, and all of the
            kernel in the first factor.  It has neither residual connections nor batch normalization: outputs are
            those of evaluation mode.

        Raises
        ------
        ValueError, TypeError
            Unless exactly one of the two is given, for values outside their range, and for a rank above the bound.
        """
        weight = self._computed_weight()
        exact = weight.cpu().double()
        matrices = exact.reshape(self._layout.groups, -1, exact[0].numel())
        found = kept_rank(torch.linalg.svdvals(_finite(matrices).mT), matrices.shape[1:], tol, rank)
        found = min([found, *self._bottlenecks()])
        widths = [found * self._layout.groups] * max(self.depth - 1, 1)
        layer = self._of_widths(widths)
        layer._take_over(weight, self.effective_bias, math.inf)
        for factor in layer.factors:
            factor.requires_grad_(any(parameter.requires_grad for parameter in self.factors))
        if layer.bias is not None and self.bias is not None:
            layer.bias.requires_grad_(self.bias.requires_grad)
        return layer.train(self.training)

    def _bottlenecks(self) -> list[int]:
        """Hidden channels in each group that bound the rank of the weight, as all of the kernel is before them."""
        layout, cuts = self._layout, self._layout.free_cuts(0, self.depth)
        if (0, self.depth) in layout.connections:
            return []
        return [layout.channels[cut] // layout.groups for cut in cuts if layout.taps(cut, self.depth) == 1]

    @torch.no_grad()
    def _take_over(self, weight: Tensor, bias: Tensor | None, slack: float | None = None) -> None:
        """Have the outputs of a plain layer, in evaluation mode."""
        for factor, found in zip(self.factors, self._factors_of(weight, slack), strict=True):
            factor.copy_(found)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        for norm in self._norms:
            norm.weight.copy_(_neutral(norm)["weight"])

    def _set_weight(self, weight: Tensor) -> None:
        bias = self._computed_bias()
        for factor, found in zip(self.factors, self._factors_of(weight), strict=True):
            factor.copy_(found)
        if not self._norms:
            return
        # As batch normalization is to change nothing but for a shift at the end, which keeps the effective bias.
        for norm in self._norms:
            for name, value in _neutral(norm).items():
                getattr(norm, name).copy_(value)
        assert bias is not None
        self._norms[-1].bias.copy_(bias if self.bias is None else bias - self.bias)

    def _start_from(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, start: str) -> Self:
        """Take weight, mode and wanted gradients of the layer that this one is made from."""
        if start == "same":
            self._take_over(layer.weight, layer.bias)
        self.requires_grad_(layer.weight.requires_grad)
        if self.bias is not None and layer.bias is not None:
            self.bias.requires_grad_(layer.bias.requires_grad)
        return self.train(layer.training)

    @torch.no_grad()
    def _factors_of(self, weight: Tensor, slack: float | None = None) -> list[Tensor]:
        """Factors of a weight of the plain layer; where hidden channels are left over, they keep what leaves them."""
        layout = self._layout
        if weight.is_meta:
            raise ValueError("weight is on the meta device; expected one with values")
        exact = _finite(weight.detach().cpu().double())
        if slack is None:
            # Of a matrix in lower precision, singular values below rounding error say nothing of its rank either.
            eps = torch.finfo(torch.float64 if weight.dtype == torch.float64 else torch.float32).eps
            slack = eps * max(exact.shape[0] // layout.groups, exact[0].numel())
        parts, carried = split(layout, exact, slack)
        found = []
        for factor, part, used in zip(self.factors, parts, [None, *carried], strict=True):
            if used is not None and not used.all():
                # What enters such a channel is zero; were what leaves it zero too, no gradient would ever wake it.
                kept = factor.detach().cpu().double().reshape(part.shape)
                part = torch.where(used.view(layout.groups, 1, -1, *[1] * (part.ndim - 3)), part, kept)
            found.append(part.reshape(factor.shape).to(device=weight.device, dtype=weight.dtype))
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also the state of the plain layer, whose weight is split into balanced factors."""
        errors: list[str] = rest[-1]
        if f"{prefix}weight" in state_dict and f"{prefix}factors.0" not in state_dict:
            weight, expected = state_dict.pop(f"{prefix}weight"), self._layout.shape(0, self.depth)
            if tuple(weight.shape) != expected:
                errors.append(f"size mismatch for {prefix}weight: it is {tuple(weight.shape)}; expected {expected}")
                found = list(self.factors)
            else:
                try:
                    found = self._factors_of(weight)
                except ValueError as error:
                    errors.append(f"{prefix}weight: {error}")
                    found = list(self.factors)
            state_dict |= {f"{prefix}factors.{k}": factor.detach() for k, factor in enumerate(found)}
            for k, norm in enumerate(self._norms):
                state_dict |= {f"{prefix}norms.{k}.{name}": value for name, value in _neutral(norm).items()}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Of the plain layer, and how it is parameterized."""
        text = f"depth={self.depth}, widths={self.widths}"
        text += f", residual={self.residual}" if self.residual else ""
        return text + f", training_path={self.training_path}"


def _scale(norm: Any) -> Tensor:
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)


def _neutral(norm: Any) -> dict[str, Tensor]:
    """State of a batch normalization that changes nothing in evaluation mode."""
    ones = torch.ones_like(norm.running_var)
    return {
        "weight": ones * math.sqrt(1 + norm.eps),
        "bias": ones - 1,
        "running_mean": ones - 1,
        "running_var": ones,
        "num_batches_tracked": torch.zeros_like(norm.num_batches_tracked),
    }


def _finite(weight: Tensor) -> Tensor:
    if not weight.isfinite().all():
        raise ValueError("weight has entries that are not finite")
    return weight
