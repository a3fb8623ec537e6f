r"""Chains of convolutions without nonlinearities between them, and the one convolution that they compose to.

A linear map is a convolution of no dimensions: its factor has rows and columns and no taps.  Kernels are written as in
torch, (out, in / groups, *taps); two of them in a row have the kernel of taps :math:`\sum_{a + b = t} W_2[a] W_1[b]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from htf.linalg.chain import Span, cheapest_splits

Sizes = tuple[int, ...]
CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


@dataclass(frozen=True)
class ConvChain:
    """Shapes of a chain of convolutions with linear residual connections.

    State 0 is the input and state m the output of factor m - 1.  A connection (s, m) adds state s to state m: through
    the identity at the centre of the kernel that the factors s to m - 1 compose to.

    Attributes
    ----------
    channels : tuple of int
        Channels of the states.
    kernels : tuple of tuple of int
        Kernel sizes of the factors.
    groups : int
        Groups of every factor.
    connections : tuple of (int, int)
    """

    channels: Sizes
    kernels: tuple[Sizes, ...]
    groups: int = 1
    connections: tuple[Span, ...] = ()

    @property
    def depth(self) -> int:
        """Number of factors."""
        return len(self.kernels)

    @property
    def kernel(self) -> Sizes:
        """Sizes of the kernel that the factors compose to."""
        return self.kernel_of(0, self.depth)

    def kernel_of(self, start: int, stop: int) -> Sizes:
        """Sizes of the kernel that the factors from `start` to `stop` - 1 compose to."""
        return tuple(1 + sum(size - 1 for size in sizes) for sizes in zip(*self.kernels[start:stop], strict=True))

    def taps(self, start: int, stop: int) -> int:
        """Entries of a kernel of some of the factors, per pair of channels."""
        return prod(self.kernel_of(start, stop))

    def shape(self, start: int, stop: int) -> Sizes:
        """Shape of the weight that some of the factors compose to."""
        return (self.channels[stop], self.channels[start] // self.groups, *self.kernel_of(start, stop))

    def part(self, start: int, stop: int) -> ConvChain:
        """The chain of some of the factors, with the connections among their states."""
        inner = tuple((s - start, m - start) for s, m in self.connections if start <= s and m <= stop)
        return ConvChain(self.channels[start : stop + 1], self.kernels[start:stop], self.groups, inner)

    def free_cuts(self, start: int, stop: int) -> list[int]:
        """States at which a product of some of the factors falls into two: no connection leaps over them.

        A connection from the first to the last state does not count, as it is added to the product.
        """
        within = [(s, m) for s, m in self.connections if start <= s and m <= stop and (s, m) != (start, stop)]
        return [k for k in range(start + 1, stop) if not any(s < k < m for s, m in within)]


class Step(Protocol):
    """A step of a program: computes one more tensor from those at hand."""

    def of(self, values: Sequence[Tensor]) -> Tensor:
        """Compute the new tensor."""


Program = tuple[Step, ...]


@dataclass(frozen=True)
class Product:
    """The composition of two kernels, given by their places among the values.

    Attributes
    ----------
    later, earlier, groups : int
    shape : tuple of int
        Shape of the result.
    pointwise : str
        "later" or "earlier": which kernel has one tap only, so that a product of matrices does; else "neither".
    """

    later: int
    earlier: int
    groups: int
    shape: Sizes
    pointwise: str

    def of(self, values: Sequence[Tensor]) -> Tensor:
        """The composed kernel."""
        later, earlier, groups = values[self.later], values[self.earlier], self.groups
        if self.pointwise == "neither":
            margin = [size - 1 for size in later.shape[2:]]
            turned = later.flip(tuple(range(2, later.ndim)))
            convolve = CONVOLUTIONS[len(margin)]
            return convolve(earlier.transpose(0, 1), turned, padding=margin, groups=groups).transpose(0, 1)
        if self.pointwise == "later":
            if groups == 1:
                return (later.flatten(1) @ earlier.flatten(1)).view(self.shape)
            rows, columns = later.shape[0] // groups, later.shape[1]
            return torch.bmm(later.reshape(groups, rows, columns), earlier.reshape(groups, columns, -1)).view(
                self.shape
            )
        # Taps stand between the channels that are summed and those that stay: they are moved to the rows.
        columns = later.shape[1]
        taps_as_rows = later.reshape(groups, -1, columns, prod(later.shape[2:])).transpose(2, 3)
        found = torch.bmm(taps_as_rows.reshape(groups, -1, columns), earlier.reshape(groups, columns, -1))
        taps = prod(later.shape[2:])
        return found.view(groups, -1, taps, earlier.shape[1]).transpose(2, 3).reshape(self.shape)


@dataclass(frozen=True)
class Shortcut:
    """A residual connection: a kernel, or the identity, added in the middle of another kernel.

    Attributes
    ----------
    value : int
        Place of the kernel that it is added to.
    source : int, optional
        Place of the kernel that is added; None for the identity.
    margin : tuple of int
        Taps on either side of what is added.
    groups : int
    """

    value: int
    source: int | None
    margin: Sizes
    groups: int

    def of(self, values: Sequence[Tensor]) -> Tensor:
        """The sum."""
        value = values[self.value]
        added = _identity(value, self.groups) if self.source is None else values[self.source]
        return value + _widened(added, self.margin)


def centred_identity(like: Tensor, groups: int) -> Tensor:
    """The kernel of odd sizes that changes nothing, of the shape of another one."""
    return _widened(_identity(like, groups), tuple((size - 1) // 2 for size in like.shape[2:]))


def _identity(like: Tensor, groups: int) -> Tensor:
    """The identity as a kernel of one tap."""
    eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device).repeat(groups, 1)
    return eye.view(*eye.shape, *[1] * (like.ndim - 2))


def _widened(kernel: Tensor, margin: Sizes) -> Tensor:
    """A kernel with zeros on either side."""
    return pad(kernel, [size for size in reversed(margin) for _ in range(2)]) if any(margin) else kernel


def compose(program: Program, factors: Sequence[Tensor]) -> Tensor:
    """The kernel of a whole chain by the steps of its program; gradients flow."""
    values = list(factors)
    for step in program:
        values.append(step.of(values))
    return values[-1]


def program(chain: ConvChain) -> Program:
    """The steps that compose a chain's factors, in the order of fewest multiplications."""
    cuts, groups = _cheapest_cuts(chain), chain.groups
    steps: list[Step] = []
    places: dict[Span, int] = {(k, k + 1): k for k in range(chain.depth)}

    def add(step: Step) -> int:
        steps.append(step)
        return chain.depth + len(steps) - 1

    def place(start: int, stop: int) -> int:
        if (start, stop) in made:
            return places[start, stop]
        made.add((start, stop))
        if stop - start > 1:
            cut = cuts[start, stop]
            later, earlier = place(cut, stop), place(start, cut)
            kind = "later" if chain.taps(cut, stop) == 1 else "earlier" if chain.taps(start, cut) == 1 else "neither"
            found = add(Product(later, earlier, groups, chain.shape(start, stop), kind))
            for s in _leaps(chain, start, cut, stop):
                found = add(Shortcut(found, place(start, s), _margin(chain, s, stop), groups))
            places[start, stop] = found
        if (start, stop) in chain.connections:
            places[start, stop] = add(Shortcut(places[start, stop], None, _margin(chain, start, stop), groups))
        return places[start, stop]

    made: set[Span] = set()
    place(0, chain.depth)
    return tuple(steps)


def _leaps(chain: ConvChain, start: int, cut: int, stop: int) -> list[int]:
    """Sources of the connections to the last state that leap over the cut, which is then the state before it."""
    return [s for s, m in chain.connections if m == stop and start < s < cut]


def _margin(chain: ConvChain, start: int, stop: int) -> Sizes:
    return tuple((size - 1) // 2 for size in chain.kernel_of(start, stop))


def _cheapest_cuts(chain: ConvChain) -> dict[Span, int]:
    """The last cut of the product of each run of factors, for fewest multiplications.

    Where connections leap over every state, the last factor is cut off.
    """
    channels = chain.channels

    def cost(start: int, k: int, stop: int) -> int:
        return channels[start] * channels[k] * channels[stop] * chain.taps(start, k) * chain.taps(k, stop)

    return cheapest_splits(chain.depth, cost, lambda start, stop: chain.free_cuts(start, stop) or [stop - 1])[1]
