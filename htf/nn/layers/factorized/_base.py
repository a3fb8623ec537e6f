"""Tensor formats: shapes and labels of factors whose contraction is the tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from htf._checks import positive
from htf._random import randn
from htf.nn.layers.factorized import _search
from htf.nn.layers.factorized._paths import Labels, Shape, contract
from htf.nn.layers.factorized._stages import Chain

Rank = tuple[int, ...]


@dataclass(frozen=True)
class Format(ABC):
    """A tensor as a contraction of factors.

    Modes have the labels 0 to N-1, and entry k of the rank is the size of the label N+k.  All but CP are trees of
    factors: each entry of the rank is that of a matricization, of the modes on one side of an edge.

    Parameters
    ----------
    dims : tuple of int
        Dimension of each mode.
    """

    dims: tuple[int, ...]

    name: ClassVar[str]

    @property
    @abstractmethod
    def labels(self) -> tuple[Labels, ...]:
        """Per factor, those of its axes."""

    @property
    @abstractmethod
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Per entry of the rank, the modes on one side of its edge; none where the rank is 1 always."""

    @abstractmethod
    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        """Factors of these ranks at most for a float64 tensor that is not zero."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """For the kernel of a convolution: which sequences of smaller ones do the same."""
        return ()

    # -- shapes and ranks -------------------------------------------------------------------------------

    @property
    def order(self) -> int:
        """Number of modes."""
        return len(self.dims)

    @property
    def modes(self) -> Labels:
        """Their labels."""
        return tuple(range(self.order))

    @cached_property
    def bounds(self) -> Rank:
        """The largest ranks that any tensor needs."""
        total = math.prod(self.dims)
        below = [math.prod(self.dims[mode] for mode in side) for side in self.sides]
        return tuple(min(rows, total // rows) if side else 1 for rows, side in zip(below, self.sides, strict=True))

    def sizes(self, rank: Sequence[int]) -> dict[int, int]:
        """Dimensions of all labels."""
        return dict(enumerate((*self.dims, *rank)))

    def shapes(self, rank: Sequence[int]) -> tuple[Shape, ...]:
        """Shapes of the factors."""
        sizes = self.sizes(rank)
        return tuple(tuple(sizes[label] for label in own) for own in self.labels)

    def size(self, rank: Sequence[int]) -> int:
        """Numbers in all factors."""
        return sum(map(math.prod, self.shapes(rank)))

    def freedom(self, rank: Rank) -> int:
        """Dimension of the set of tensors of these ranks: numbers less those of changes that leave the tensor alone.

        These are invertible matrices on the bonds.
        """
        return self.size(rank) - sum(r**2 for r, side in zip(rank, self.sides, strict=True) if side)

    def rank_of(self, factors: Sequence[Tensor]) -> Rank:
        """The rank that factors have."""
        sizes = {
            label: n for own, f in zip(self.labels, factors, strict=True) for label, n in zip(own, f.shape, strict=True)
        }
        return tuple(sizes[self.order + k] for k in range(len(self.bounds)))

    def lowered(self, rank: Sequence[int]) -> Rank:
        """Ranks within their bounds, none above what the other sides of a factor at its ends allow."""
        ranks = [min(r, bound) for r, bound in zip(rank, self.bounds, strict=True)]
        while True:
            before = list(ranks)
            for own in self.labels:
                for label in own:
                    if label >= self.order:
                        others = math.prod(self.sizes(ranks)[other] for other in own if other != label)
                        ranks[label - self.order] = min(ranks[label - self.order], others)
            if ranks == before:
                return tuple(ranks)

    def uniform(self, rank: int) -> Rank:
        """`rank` everywhere, or less where the shape allows no more."""
        return self.lowered([rank] * len(self.bounds))

    def validate(self, rank: object) -> Rank:
        """The rank that a user means by an integer, a share of the tensor's size, or one integer per entry."""
        if hasattr(rank, "tolist"):
            rank = rank.tolist()
        if isinstance(rank, str | bytes | bool) or rank is None:
            raise TypeError(f"rank is {rank!r}; expected an integer, a share in (0, 1], or {self._entries}")
        if isinstance(rank, float):
            return self.of_size(check_share("rank", rank) * math.prod(self.dims)) or self.uniform(1)
        if not isinstance(rank, Sequence):
            number, bound = positive("rank", rank), max(self.bounds)
            if number > bound:
                raise ValueError(f"rank is {number}; its bound is {bound} for a {self.name} format of {self.dims}")
            return self.uniform(number)
        ranks = tuple(positive(f"rank[{k}]", r) for k, r in enumerate(rank))
        if len(ranks) != len(self.bounds):
            raise ValueError(f"rank has {len(ranks)} entries; expected {self._entries}")
        for k, (r, bound) in enumerate(zip(ranks, self.lowered(ranks), strict=True)):
            if r > bound:
                raise ValueError(
                    f"rank[{k}] is {r}; its bound is {bound} beside the others in a {self.name} format of {self.dims}"
                )
        return ranks

    @property
    def _entries(self) -> str:
        return f"a tuple of {len(self.bounds)} for a {self.name} format of {self.order} modes"

    def of_size(self, size: float) -> Rank | None:
        """The largest ranks, as equal as the shape allows, whose factors hold `size` numbers at most, if any."""
        if self.size(self.uniform(1)) > size:
            return None
        low, high = 1, max(self.bounds)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.size(self.uniform(middle)) <= size else (low, middle - 1)
        rank = self.uniform(low)
        # What is left goes to single entries, those of the largest bounds first.
        for k in sorted(range(len(rank)), key=lambda k: -self.bounds[k]):
            raised = (*rank[:k], rank[k] + 1, *rank[k + 1 :])
            if self.lowered(raised) == raised and self.size(raised) <= size:
                rank = raised
        return rank

    # -- tensors and factors ----------------------------------------------------------------------------

    def dense(self, factors: Sequence[Tensor]) -> Tensor:
        """The tensor; gradients flow."""
        return contract(factors, self.labels, self.modes)

    def draw(self, rank: Rank, variance: float, generator: Generator | None) -> list[Tensor]:
        """Independent Gaussian factors, in float32, for which every entry of the tensor has a variance.

        An entry is a sum over all values of the bonds, of products of one number from each factor; as these are
        uncorrelated, the variance is the product of the factors' times the number of terms.
        """
        std = math.sqrt(variance / math.prod(rank)) ** (1 / len(self.labels))
        return [std * randn(shape, generator, torch.float32) for shape in self.shapes(rank)]

    @torch.no_grad()
    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        """Factors of ranks at most, in float64, of equal root mean square; of a zero tensor, only the first is zero."""
        tensor = tensor.detach().to(torch.float64)
        norm = tensor.norm()
        if not norm > 0:
            # Were all of them zero, no gradient would ever wake them.
            first, *others = self.draw(rank, 1.0, Generator().manual_seed(0))
            return [tensor.new_zeros(first.shape), *(factor.to(tensor) for factor in others)]
        return self._balanced(self._decomposed(tensor / norm, rank), norm)

    def filled(self, factors: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        """The same tensor with factors of the shapes of `own`, of ranks that are no lower.

        Where a bond has a value that the tensor does not need, the first of its factors is zero there, and the others
        are those of `own`: were all of them zero, no gradient would ever wake them.
        """
        kept = [whole.detach().to(factor, copy=True) for factor, whole in zip(factors, own, strict=True)]
        filled = [whole.clone() for whole in kept]
        for whole, factor in zip(filled, factors, strict=True):
            whole[tuple(map(slice, factor.shape))] = factor
        for bond in range(self.order, self.order + len(self.bounds)):
            places = [(k, labels.index(bond)) for k, labels in enumerate(self.labels) if bond in labels]
            needed = torch.zeros(filled[places[0][0]].shape[places[0][1]], dtype=torch.bool)
            for k, axis in places:
                used = factors[k].movedim(axis, 0).flatten(1).any(1)
                needed[: len(used)] |= used.cpu()
            for k, axis in places:
                new = kept[k] if k != places[0][0] else torch.zeros_like(kept[k])
                spare = (~needed).nonzero().flatten().to(new.device)
                filled[k].index_copy_(axis, spare, new.index_select(axis, spare))
        return filled

    def _balanced(self, factors: Sequence[Tensor], norm: Tensor) -> list[Tensor]:
        """`norm` times a tensor, the scale spread over the factors so that their root mean squares are equal."""
        means = torch.stack([f.square().mean().sqrt() for f in factors])
        if not bool((means > 0).all()):
            return [factors[0] * norm, *factors[1:]]
        each = (means.log().mean() + norm.log() / len(factors)).exp()
        return [(f * (each / mean)).contiguous() for f, mean in zip(factors, means, strict=True)]

    def error(self, tensor: Tensor, factors: Sequence[Tensor]) -> float:
        """Distance of the factors' tensor relative to the Frobenius norm."""
        tensor = tensor.detach().to(torch.float64)
        norm = float(tensor.norm())
        distance = float((self.dense([f.detach().to(tensor) for f in factors]) - tensor).norm())
        return distance / norm if norm > 0 else 0.0

    def for_error(self, tensor: Tensor, tol: float, limit: Rank | None = None) -> list[Tensor] | None:
        """Factors of few numbers with a relative error of at most `tol`, of ranks up to a limit; None if none were
        found.
        """
        return _search.smallest_for_error(self, tensor, tol, limit)

    def for_size(self, tensor: Tensor, size: float, limit: Rank | None = None) -> list[Tensor] | None:
        """Factors of at most `size` numbers with a small error, of ranks up to a limit; None if there are none."""
        rank = _search.rank_of_size(self, tensor, size, limit)
        return None if rank is None else self.decompose(tensor, rank)

    def truncated(
        self,
        factors: Sequence[Tensor],
        *,
        tol: float | None = None,
        rank: Rank | None = None,
        size: float | None = None,
    ) -> list[Tensor] | None:
        """Float64 factors cut to an error, to ranks or to a size, no rank above what it was; None if not found.

        Through the dense tensor.
        """
        tensor, limit = self.dense(factors), self.rank_of(factors)
        if tol is not None:
            return self.for_error(tensor, tol, limit)
        if rank is not None:
            return self.decompose(tensor, self.lowered([min(pair) for pair in zip(rank, limit, strict=True)]))
        return self.for_size(tensor, size or 0, limit)


def check_share(name: str, value: Any) -> float:
    """A number in (0, 1]."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {value!r}; expected a number")
    # PyTorch warns of a number with a gradient that is made a float.
    number = value.item() if hasattr(value, "item") else float(value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} is {value}; expected a share in (0, 1]")
    return number
