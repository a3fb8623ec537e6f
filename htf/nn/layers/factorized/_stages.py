"""Small convolutions that one after the other do what a convolution with a factorized kernel does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor
from torch.nn.functional import conv2d, pad

from htf.nn.layers.factorized._paths import Labels, Shape, contract, operations

OUT, IN, ROWS, COLUMNS = range(4)  # the modes of a kernel
Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over an image: `stride`, `padding`, `dilation`, `padding_mode` as in nn.Conv2d."""

    stride: Pair
    padding: Pair | str
    dilation: Pair
    padding_mode: str

    def along(self, rows: bool, columns: bool) -> Geometry:
        """That of a kernel which has extent along some axes only."""
        axes = (rows, columns)
        return replace(
            self,
            stride=_where(axes, self.stride, 1),
            padding=self.padding if isinstance(self.padding, str) else _where(axes, self.padding, 0),
            dilation=_where(axes, self.dilation, 1),
        )

    def pads(self, kernel: Sequence[int]) -> tuple[Pair, Pair]:
        """Before and after, along rows and columns."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if isinstance(self.padding, str):
            above, left = (d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True))
            return (above // 2, above - above // 2), (left // 2, left - left // 2)
        rows, columns = self.padding
        return (rows, rows), (columns, columns)

    def size(self, image: Pair, kernel: Sequence[int]) -> Pair:
        """Height and width of what comes out."""
        height, width = (
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(image, self.pads(kernel), self.dilation, kernel, self.stride, strict=True)
        )
        return height, width

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        """What nn.Conv2d does."""
        if self.padding_mode == "zeros":
            return conv2d(x, kernel, bias, self.stride, self.padding, self.dilation, groups)
        (top, bottom), (left, right) = self.pads(kernel.shape[2:])
        if top or bottom or left or right:
            x = pad(x, (left, right, top, bottom), mode=self.padding_mode)
        return conv2d(x, kernel, bias, self.stride, 0, self.dilation, groups)


@dataclass(frozen=True)
class Stage:
    """A convolution whose kernel is contracted from some of the factors.

    Attributes
    ----------
    factors : tuple of int
        Which ones.
    after, before : int
        Labels of the channels that come out and of those that come in; `before` is None for a depthwise convolution.
    rows, columns : bool
        Whether the kernel has extent along them.
    """

    factors: tuple[int, ...]
    after: int
    before: int | None
    rows: bool = False
    columns: bool = False

    def _output(self) -> Labels:
        before = () if self.before is None else (self.before,)
        return (self.after, *before, *((ROWS,) if self.rows else ()), *((COLUMNS,) if self.columns else ()))

    def kernel(self, factors: Sequence[Tensor], labels: Sequence[Labels]) -> Tensor:
        """(channels out, channels in, height, width)."""
        dense = contract([factors[k] for k in self.factors], tuple(labels[k] for k in self.factors), self._output())
        shape = list(dense.shape)
        if self.before is None:
            shape.insert(1, 1)
        if not self.rows:
            shape.insert(2, 1)
        return dense.reshape(*shape, *([] if self.columns else [1]))

    def kernel_shape(self, sizes: dict[int, int]) -> tuple[int, int, int, int]:
        """The shape of `kernel` where labels have these sizes."""
        before = 1 if self.before is None else sizes[self.before]
        return (
            sizes[self.after],
            before,
            sizes[ROWS] if self.rows else 1,
            sizes[COLUMNS] if self.columns else 1,
        )

    def groups(self, sizes: dict[int, int]) -> int:
        """Those of the convolution."""
        return sizes[self.after] if self.before is None else 1


Chain = tuple[Stage, ...]
WHOLE = Stage((), OUT, IN, True, True)  # the plain convolution


def chain_size(chain: Chain, sizes: dict[int, int]) -> int:
    """Numbers in the kernels of a chain."""
    return sum(prod(stage.kernel_shape(sizes)) for stage in chain)


def chain_cost(
    chain: Chain, labels: Sequence[Labels], sizes: dict[int, int], geometry: Geometry, batch: int, image: Pair
) -> int:
    """Operations of making the kernels and of the convolutions on images of a size."""
    cost = 0
    for stage in chain:
        inputs = tuple(labels[k] for k in stage.factors)
        shapes: tuple[Shape, ...] = tuple(tuple(sizes[label] for label in own) for own in inputs)
        cost += operations(shapes, inputs, stage._output())
        shape = stage.kernel_shape(sizes)
        image = geometry.along(stage.rows, stage.columns).size(image, shape[2:])
        cost += 2 * batch * prod(image) * prod(shape)
    return cost


def _where(axes: tuple[bool, bool], values: Pair, other: int) -> Pair:
    rows, columns = (value if axis else other for axis, value in zip(axes, values, strict=True))
    return rows, columns
