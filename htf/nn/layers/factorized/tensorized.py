"""Base of layers whose weight is a matrix that is taken as a tensor of more modes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from htf._checks import positive
from htf.nn.layers.factorized._base import check_share
from htf.nn.layers.factorized._layer import Device, Factorized, RankLike, check_type
from htf.nn.layers.factorized.choice import Shape, check_format, check_shape, matrix_format

ShapeLike = int | Sequence[Sequence[int]]


class Tensorized(Factorized):
    """A layer whose weight is a matrix; subclasses say what its sides are, and whether a step of the shape is timed."""

    shape: Shape
    _timed: ClassVar[bool] = False
    _share: float | None = None  # for which the shape was chosen

    def _tensorize(
        self, format: str, rank: object, shape: ShapeLike | None, bias: bool, seed: Any, device: Device, dtype: Any
    ) -> None:
        check_format(format)
        share = share_of(rank) if self._timed and shape is None else None
        rows, columns = self._plain_shape
        self.shape = check_shape(format, shape, rows, columns, share)
        self._start(matrix_format(format, self.shape), rank, bias, seed, device, dtype)
        self._share = share

    @classmethod
    def from_plain(
        cls,
        layer: nn.Module,
        format: str = "ht",
        *,
        rank: RankLike | None = None,
        energy: float | None = None,
        size: int | None = None,
        shape: ShapeLike | None = None,
    ) -> Self:
        """Decompose the weight of a plain layer, by exactly one of three measures.

        Parameters
        ----------
        layer : nn.Linear or nn.Embedding
            Its bias, device, dtype, mode and ``requires_grad`` are kept.
        format, shape
            As in the constructor.
        rank : int, float or sequence of int, optional
            As in the constructor, but ranks are lower where the weight's are, and for a share they follow the weight's
            singular values.
        energy : float, optional
            Share in (0, 1] of the weight's squared norm that is kept: one minus the squared relative error.
        size : int, optional
            The largest number of parameters of the factors.

        Raises
        ------
        TypeError
            If the layer is of another type, or of a subclass.
        ValueError
            For other than one measure, one that cannot be met, or a weight with NaN or infinite entries.

        Notes
        -----
        In float64, by singular value decompositions; Tucker is refined by orthogonal iteration, CP fitted by
        alternating least squares, which takes long for high ranks and may miss better fits.
        """
        check_type(layer, cls._plain_type)
        if shape is None and cls._timed and check_format(format) != "matrix":
            rows, columns = cast(Tensor, layer.weight).shape
            share = share_of(rank) if size is None else min(positive("size", size) / (rows * columns), 1.0)
            shape = check_shape(format, None, rows, columns, share)
        return cls._decomposed(layer, format, rank, energy, size, shape=shape)

    @property
    def _options(self) -> dict[str, Any]:
        return super()._options | {"shape": None if self.format == "matrix" else self.shape}

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{super().extra_repr()}, shape={self.shape}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes the balanced modes where the state is that of a layer for which they were the default."""
        if self._share is not None:
            self._take_balanced(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _take_balanced(self, state_dict: dict[str, Any], prefix: str) -> None:
        rows, columns = self._plain_shape
        shape = check_shape(self.format, None, rows, columns)
        layout = matrix_format(self.format, shape)
        rank = layout.validate(self._share)
        given = [state_dict.get(f"{prefix}factors.{k}") for k in range(len(layout.labels))]
        if shape == self.shape or [getattr(factor, "shape", None) for factor in given] != list(layout.shapes(rank)):
            return
        warnings.warn(
            f"{prefix}factors in the state have the modes {shape}, which were the default before: the layer takes them "
            "in place of its own parameters, so make optimizers afterwards, or the layer with shape=3",
            stacklevel=2,
        )
        own = self.factors[0]
        self.shape, self.rank, self._layout, self._share = shape, rank, layout, None
        self.factors = nn.ParameterList(
            nn.Parameter(own.new_empty(each), requires_grad=own.requires_grad) for each in layout.shapes(rank)
        )


def share_of(rank: object) -> float | None:
    """A rank that is a share of the weight's numbers, None for others."""
    rank = getattr(rank, "tolist", lambda: rank)()
    return check_share("rank", rank) if isinstance(rank, float) else None
