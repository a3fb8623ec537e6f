"""Base of linear layers and convolutions with factorized weights: factors, their start, truncation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from htf._checks import check_dtype, check_seed, positive
from htf._random import rand
from htf.linalg.backend import context
from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.factorized._base import Format, Rank, check_share
from htf.tensors.rank import check_tolerance

RankLike = int | float | Sequence[int]
Device = torch.device | str | None


class Factorized(DropInLayer):
    """A layer with a weight in a format; subclasses say which, and how to apply it.

    Their constructors take the arguments of the plain layer, which `_names` lists, and those of the format.
    """

    format: str
    rank: Rank
    applies: str | None
    _layout: Format
    _plain_type: ClassVar[type[Any]]
    _names: ClassVar[tuple[str, ...]]

    def _start(self, layout: Format, rank: object, bias: bool, seed: Any, device: Device, dtype: Any) -> None:
        check_dtype(dtype)
        self._layout, self.format, self.applies = layout, layout.name, None
        self.rank = layout.validate(rank)
        empty = (torch.empty(shape, device=device, dtype=dtype) for shape in layout.shapes(self.rank))
        self.factors = nn.ParameterList(nn.Parameter(values) for values in empty)
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(self._bias_size, device=device, dtype=dtype))
        self.reset_parameters(seed)

    @property
    @abstractmethod
    def _plain_shape(self) -> tuple[int, ...]:
        """Shape of the plain layer's weight."""

    @property
    def _bias_size(self) -> int:
        return self._plain_shape[0]

    @property
    def _fan_in(self) -> int:
        return math.prod(self._plain_shape[1:])

    @property
    def _variance(self) -> float:
        """Variance of the entries of the weight at the start."""
        return 1 / (3 * self._fan_in)

    @classmethod
    def arguments_of(cls, layer: Any) -> dict[str, Any]:
        """Arguments of the plain layer's constructor, of a plain layer or of one of this class."""
        named = {name: getattr(layer, name) for name in cls._names}
        return named | {"bias": named["bias"] is not None} if "bias" in named else named

    @classmethod
    def from_plain(
        cls,
        layer: nn.Module,
        format: str = "ht",
        *,
        rank: RankLike | None = None,
        energy: float | None = None,
        size: int | None = None,
    ) -> Self:
        """Decompose the weight of a plain layer; see `htf.nn.FactorizedLinear.from_plain`."""
        return cls._decomposed(layer, format, rank, energy, size)

    @classmethod
    def _decomposed(
        cls, layer: Any, format: str, rank: object, energy: object, size: object, **options: object
    ) -> Self:
        """A layer with the weight of a plain one, decomposed to a rank, energy or size."""
        named = {"rank": rank, "energy": energy, "size": size}
        given = [name for name, value in named.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none of rank, energy and size'} given; expected exactly one")
        check_type(layer, cls._plain_type)
        arguments = cls.arguments_of(layer)
        blank = cls(**arguments, format=format, rank=1, seed=0, **options, **context(layer.weight))
        return blank._with_weight_of(layer, rank, energy, size)

    @property
    def _options(self) -> dict[str, Any]:
        """Arguments about the format, but the rank."""
        return {"format": self.format}

    def _another(self, rank: Rank) -> Self:
        """A layer of the same arguments but the rank."""
        arguments = self.arguments_of(self)
        return type(self)(**arguments, **self._options, rank=rank, seed=0, **context(self.factors[0]))

    def extra_repr(self) -> str:
        """The arguments."""
        told = (f"{name}={value!r}" for name, value in self.arguments_of(self).items())
        return f"{', '.join(told)}, format={self.format}, rank={self.rank}"

    @torch.no_grad()
    def reset_parameters(self, seed: int | Generator | None = None) -> None:
        """Start again from a seed; None draws from torch's global generator.

        Entries of the weight have the variance 1 / (3 fan in) of torch's own layers, and so has the bias, which is
        uniform.  Draws are float32 on the CPU, the same on every device.
        """
        generator = seed if seed is None or isinstance(seed, Generator) else Generator().manual_seed(check_seed(seed))
        drawn = self._layout.draw(self.rank, self._variance, generator)
        for factor, values in zip(self.factors, drawn, strict=True):
            factor.copy_(values)
        if self.bias is not None:
            values = rand(self.bias.shape, generator, torch.float32)
            self.bias.copy_((2 * values - 1) / math.sqrt(self._fan_in))

    def _computed_weight(self) -> Tensor:
        return self._layout.dense(list(self.factors)).reshape(self._plain_shape)

    @property
    def plain_size(self) -> int:
        """Numbers in the plain layer's weight and bias."""
        return math.prod(self._plain_shape) + (0 if self.bias is None else self.bias.numel())

    def truncated(self, *, tol: float | None = None, rank: int | float | None = None) -> Self:
        """A new layer of lower rank, by one of two measures; never larger than this one.

        Parameters
        ----------
        tol : float, optional
            Largest error of the weight relative to its Frobenius norm, up to the rounding of the layer's dtype.
        rank : int or float, optional
            Every rank at most, or the share of the plain layer's weights that the factors hold at most; where rank 1
            holds more, it is rank 1.

        Raises
        ------
        ValueError, TypeError
            For both or none of them, a negative tolerance, a rank below 1, a share outside (0, 1], or a weight with NaN
            or infinite entries.

        Notes
        -----
        In float64, through the dense weight: its singular value decompositions, with ranks lowered as far as a few
        trials meet the tolerance.  CP has no such decomposition: components of small norm are dropped and the others
        fitted again, and where no lower rank that was tried meets the tolerance, the layer comes back as it is.
        """
        if (tol is None) == (rank is None):
            raise ValueError(f"tol is {tol} and rank is {rank}; expected exactly one of them")
        rank = getattr(rank, "tolist", lambda: rank)()
        layout, factors = self._layout, [factor.detach().to(torch.float64) for factor in self.factors]
        check_finite(factors)
        with torch.no_grad():
            if tol is not None:
                found = layout.truncated(factors, tol=check_tolerance(tol))
            elif isinstance(rank, float):
                size = check_share("rank", rank) * math.prod(self._plain_shape)
                lowest = layout.uniform(1)
                kept = self.rank if layout.size(self.rank) <= size else None
                found = None if kept else layout.truncated(factors, size=max(size, layout.size(lowest)))
            else:
                wanted = layout.uniform(positive("rank", rank))
                lower = any(r < own for r, own in zip(wanted, self.rank, strict=True))
                found = layout.truncated(factors, rank=wanted) if lower else None
        new = self._another(self.rank if found is None else layout.rank_of(found))
        take(new, self.factors if found is None or new.rank == self.rank else found, self.bias, self)
        return new

    def _set_weight(self, weight: Tensor) -> None:
        layout = self._layout
        found = layout.decompose(weight.double().reshape(layout.dims), self.rank)
        for factor, values in zip(self.factors, layout.filled(found, list(self.factors)), strict=True):
            factor.copy_(values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Says what to do with the state of a plain layer, which these ranks may not be able to hold."""
        if f"{prefix}weight" in state_dict and f"{prefix}factors.0" not in state_dict:
            errors: list[str] = rest[-1]
            kind = type(self).__name__
            errors.append(
                f"{prefix}weight is that of a plain layer, which a {kind} of rank {self.rank} holds in part at most; "
                f"load it into a plain layer and decompose that by {kind}.from_plain or htf.surgery.factorize, or give "
                "its closest approximation of these ranks to set_weight"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _with_weight_of(self, layer: nn.Module, rank: object, energy: object, size: object) -> Self:
        layout, tensor = self._layout, layer.weight.detach().to(torch.float64).reshape(self._layout.dims)  # type: ignore[operator]
        check_finite([tensor])
        if energy is not None:
            tol = math.sqrt(1 - check_share("energy", energy))
            found = layout.for_error(tensor, tol)
            if found is None:
                raise ValueError(
                    f"energy is {energy}; no {layout.name} format smaller than the weight was found for it"
                )
        elif size is not None:
            found = layout.for_size(tensor, positive("size", size))
            if found is None:
                raise ValueError(f"size is {size}; rank 1 takes {layout.size(layout.uniform(1))} in this format")
        elif isinstance(rank, float):
            most = check_share("rank", rank) * tensor.numel()
            found = layout.for_size(tensor, max(most, layout.size(layout.uniform(1))))
        else:
            found = layout.decompose(tensor, layout.validate(rank))
        assert found is not None
        new = self._another(layout.rank_of(found))
        take(new, found, getattr(layer, "bias", None), layer)
        return new


def check_type(layer: object, expected: type[nn.Module]) -> None:
    # A subclass, lazy, quantized or parametrized, may compute something else.
    if type(layer) is not expected:
        raise TypeError(f"layer is a {type(layer).__name__}; expected nn.{expected.__name__} itself")


def check_finite(tensors: Sequence[Tensor]) -> None:
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError("the weight is on the meta device; expected one with values")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError("the weight has NaN or infinite entries")


@torch.no_grad()
def take(new: Factorized, factors: Any, bias: Tensor | None, source: nn.Module) -> None:
    """Values, mode and ``requires_grad`` of another layer."""
    parameters = list(source.factors) if isinstance(source, Factorized) else [source.weight]
    trained = any(parameter.requires_grad for parameter in parameters)
    for factor, values in zip(new.factors, factors, strict=True):
        factor.copy_(values).requires_grad_(trained)
    if new.bias is not None and bias is not None:
        new.bias.copy_(bias).requires_grad_(bias.requires_grad)
    new.train(source.training)


@torch.no_grad()
def filled(layers: list[Any], weights: Sequence[Tensor], source: Factorized) -> nn.Module:
    """Plain layers with weights, the last with the bias; one by itself, several in sequence."""
    trained = any(factor.requires_grad for factor in source.factors)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.copy_(weight).requires_grad_(trained)
    if source.bias is not None:
        layers[-1].bias.copy_(source.bias).requires_grad_(source.bias.requires_grad)
    plain: nn.Module = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return plain.train(source.training)
