"""Settings of studies, the planted tensor and the fit: one class per format, defaults included."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from htf._checks import positive
from htf._random import randn
from htf.datasets.completion import tensor_completion
from htf.datasets.problems import CompletionProblem
from htf.dynamics.trackers import component_norms, local_component_norms, singular_values
from htf.engine.layout import Block, Layout
from htf.nn import CPNetwork, Factorization, HTNetwork, MatrixFactorization
from htf.nn.networks.init import Chain, gaussian
from htf.training.losses import Loss
from htf.training.tracking import Tracker
from htf.tree import DimensionTree


@dataclass(frozen=True, kw_only=True)
class StudySettings(ABC):
    """Settings that all studies have in common; use `MatrixStudy`, `CPStudy` or `HTStudy`.

    Parameters
    ----------
    rank : int
        Rank of the planted tensor, whose Frobenius norm is the root of the number of its entries.
    dim : int
        Dimension of every mode.
    observed : int
        Entries that are fitted; all others are for testing.
    noise : float
        Standard deviation of the noise on observed entries, whose root mean square is 1 without it.
    init_std : sequence of float
        Standard deviations of the Gaussian starts, above 0.
    seeds : sequence of int
        Seeds of the starts, for each standard deviation.
    steps : int
    lr : float
        Learning rate of `GroupRMSprop`.
    loss : {"l2", "l1", "huber"}
    every : int
        Steps between recorded moments.
    problem_seed : int
        Seed of the planted tensor, its observed entries and their noise.

    See Also
    --------
    htf.dynamics.MatrixStudy, htf.dynamics.CPStudy, htf.dynamics.HTStudy : the settings of each format.
    htf.dynamics.study : runs them.

    Examples
    --------
    >>> import htf
    >>> settings = htf.dynamics.CPStudy(rank=3, init_std=(1e-2, 1e-3), seeds=range(4))
    >>> isinstance(settings, htf.dynamics.StudySettings), len(settings.starts)
    (True, 8)
    """

    format: ClassVar[str]
    title: ClassVar[str]

    rank: int = 5
    dim: int = 16
    observed: int = 2048
    noise: float = 0.0
    init_std: tuple[float, ...] = (1e-2,)
    seeds: tuple[int, ...] = tuple(range(10))
    steps: int = 10_000
    lr: float = 1e-2
    loss: str = "l2"
    every: int = 25
    problem_seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "init_std":
                object.__setattr__(self, field.name, _distinct(field.name, map(float, _several(value))))
                for std in self.init_std:
                    if not 0 < std < math.inf:
                        raise ValueError(f"init_std holds {std}; expected numbers above 0")
            elif field.name == "seeds":
                object.__setattr__(self, field.name, _distinct(field.name, map(int, _several(value))))
                if min(self.seeds) < 0:
                    raise ValueError(f"seeds holds {min(self.seeds)}; expected at least 0")
            elif field.name != "problem_seed" and isinstance(field.default, int):
                object.__setattr__(self, field.name, positive(field.name, value))
        Loss(self.loss)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def top(self) -> int:
        """Components that are recorded: all that should rise, and as many again, ten at least."""
        return max(10, 2 * self.rank)

    @property
    def starts(self) -> list[tuple[float, int]]:
        """Standard deviation and seed of each run."""
        return [(std, seed) for std in self.init_std for seed in self.seeds]

    def problem(self, device: torch.device | str | None = None) -> CompletionProblem:
        """The planted tensor and its observed entries."""
        return tensor_completion(
            **self._teacher(),
            observed=self.observed,
            norm=math.sqrt(math.prod(self.shape)),
            noise=self.noise,
            seed=self.problem_seed,
            device=device,
        )

    def network(self, device: torch.device | str | None = None) -> Factorization:
        """The factorizations at their starts, one run each."""
        inits = [gaussian(std=std) for std, _ in self.starts]
        return self._network(init=inits, seed=[seed for _, seed in self.starts], device=device)

    @abstractmethod
    def tracker(self) -> Tracker:
        """The tracker that records the components."""

    @abstractmethod
    def _teacher(self) -> dict[str, Any]:
        """Arguments of `tensor_completion`."""

    @abstractmethod
    def _network(self, **start: Any) -> Factorization:
        """The network with one run for each start."""

    def describe(self) -> dict[str, Any]:
        """All settings and the format, as JSON can hold them."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"format": self.format, **values}

    @abstractmethod
    def sentence(self) -> str:
        """The problem and the network in words."""

    def _problem_in_words(self) -> str:
        shape = "×".join(map(str, self.shape))
        return f"{shape}, rank {self.rank}, {self.observed:,} of {math.prod(self.shape):,} entries observed"


@dataclass(frozen=True, kw_only=True)
class MatrixStudy(StudySettings):
    """Deep matrix factorization, `MatrixFactorization`, of a planted square matrix; see `StudySettings`.

    Parameters
    ----------
    depth : int
        Matrices that are multiplied.
    rank, dim, observed, noise, init_std, seeds, steps, lr, loss, every, problem_seed
        As in `StudySettings`; `dim` is 64 and `init_std` 1e-3 by default.

    See Also
    --------
    htf.dynamics.study : runs it.
    htf.dynamics.CPStudy, htf.dynamics.HTStudy : other formats.

    Examples
    --------
    >>> import htf
    >>> settings = htf.dynamics.MatrixStudy(depth=4, dim=32, rank=3, observed=512)
    >>> settings.shape, settings.network().runs
    ((32, 32), 10)
    >>> settings.problem().values.shape
    torch.Size([512])
    """

    format = "mf"
    title = "matrix factorization"

    dim: int = 64
    init_std: tuple[float, ...] = (1e-3,)
    depth: int = 3

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dim, self.dim)

    def tracker(self) -> Tracker:
        return singular_values(self.top)

    def _teacher(self) -> dict[str, Any]:
        return {"shape": self.shape, "teacher": "matrix", "rank": self.rank}

    def _network(self, **start: Any) -> Factorization:
        return MatrixFactorization(self.shape, self.depth, runs=len(self.starts), **start)

    def sentence(self) -> str:
        return f"{self.title} of depth {self.depth}: {self._problem_in_words()}"


@dataclass(frozen=True, kw_only=True)
class CPStudy(StudySettings):
    """CP factorization, `CPNetwork`, of a planted CP tensor; see `StudySettings`.

    Parameters
    ----------
    order : int
        Number of modes.
    components : int
        Components of the network.
    rank, dim, observed, noise, init_std, seeds, steps, lr, loss, every, problem_seed
        As in `StudySettings`; `init_std` is 3e-3 by default.

    See Also
    --------
    htf.dynamics.study : runs it.
    htf.dynamics.MatrixStudy, htf.dynamics.HTStudy : other formats.

    Examples
    --------
    >>> import htf
    >>> settings = htf.dynamics.CPStudy(order=4, dim=8, rank=3, components=16, observed=1000)
    >>> settings.shape, settings.network().ranks[0], settings.tracker().name
    ((8, 8, 8, 8), 16, 'component_norms')
    """

    format = "cp"
    title = "tensor factorization"

    init_std: tuple[float, ...] = (3e-3,)
    order: int = 3
    components: int = 64

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dim,) * self.order

    def tracker(self) -> Tracker:
        return component_norms(self.top)

    def _teacher(self) -> dict[str, Any]:
        return {"shape": self.shape, "teacher": "cp", "rank": self.rank}

    def _network(self, **start: Any) -> Factorization:
        return CPNetwork(self.shape, self.components, runs=len(self.starts), **start)

    def sentence(self) -> str:
        return f"{self.title}, {self.components} components: {self._problem_in_words()}"


@dataclass(frozen=True, kw_only=True)
class HTStudy(StudySettings):
    """Hierarchical tensor factorization, `HTNetwork`, of a planted tensor on the balanced tree; see `StudySettings`.

    Parameters
    ----------
    order : int
        Number of modes.
    width : int
        Width of the network at every node.
    rank, dim, observed, noise, init_std, seeds, steps, lr, loss, every, problem_seed
        As in `StudySettings`; `dim` is 8, `init_std` 3e-3 and `steps` 30,000 by default.

    See Also
    --------
    htf.dynamics.study : runs it.
    htf.dynamics.MatrixStudy, htf.dynamics.CPStudy : other formats.

    Notes
    -----
    The planted tensor is that of an HTNetwork of width `rank`, so it has exactly `rank` local components at every node.
    It is not the "ht" of `tensor_completion`, whose full transfer tensors of rank R have ranks R at every node, but up
    to R² local components.

    The matrices of that network have orthonormal columns, so that the weights at the root, 1, then 0.7 falling to 0.4,
    are the singular values at the root's edges.  The first component of the root uses all local components of the nodes
    below, with weights in the proportions 1 to 0.3.  It rises first, and with it all of those, which the others then
    share.  Where it lacks some of them, or where the others rise before they are complete, the same local component
    often rises twice, for different components of the root: with columns at random, one seed in four has six where five
    were planted.  With Gaussian entries the singular values differ tenfold and more, and the last take very long to
    rise.

    Examples
    --------
    >>> import htf
    >>> settings = htf.dynamics.HTStudy(dim=4, rank=2, width=8, observed=128, seeds=range(3))
    >>> settings.shape, settings.tree, settings.network().runs
    ((4, 4, 4, 4), DimensionTree(4, [(0, 1), (2, 3), (4, 5)]), 3)
    """

    format = "ht"
    title = "hierarchical tensor factorization"

    dim: int = 8
    init_std: tuple[float, ...] = (3e-3,)
    steps: int = 30_000
    order: int = 4
    width: int = 64

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dim,) * self.order

    @property
    def tree(self) -> DimensionTree:
        """Tree of the planted tensor and of the network."""
        return DimensionTree.balanced(self.order)

    def tracker(self) -> Tracker:
        return local_component_norms(self.top)

    def _teacher(self) -> dict[str, Any]:
        teacher = HTNetwork(
            self.tree, self.dim, self.rank, init=_orthonormal, seed=self.problem_seed, dtype=torch.float64
        )
        return {"teacher": teacher, "tree": self.tree}

    def _network(self, **start: Any) -> Factorization:
        return HTNetwork(self.tree, self.dim, self.width, runs=len(self.starts), **start)

    def sentence(self) -> str:
        return f"{self.title} of width {self.width}: {self._problem_in_words()}"


SETTINGS_OF: dict[str, type[StudySettings]] = {each.format: each for each in (MatrixStudy, CPStudy, HTStudy)}
"""From "mf", "cp" and "ht" to the settings of their studies."""


def _orthonormal(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
    """An initializer: orthonormal columns (or rows, where those are fewer), falling weights at the root."""
    if isinstance(layout, Layout) and block.nodes == (layout.tree.root,):
        rest = torch.linspace(0.7, 0.4, block.rows - 1, dtype=torch.float64, device="cpu")
        return torch.cat([rest.new_ones(1), rest]).view(1, block.rows, 1)
    drawn = randn((len(block.nodes), block.rows, block.columns), generator)
    if block.level > 0:
        drawn[:, :, 0] = torch.linspace(1.0, 0.3, block.rows, dtype=torch.float64, device="cpu")
    return torch.linalg.qr(drawn)[0] if block.rows >= block.columns else torch.linalg.qr(drawn.mT)[0].mT


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _distinct(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    found = tuple(dict.fromkeys(values))
    if not found:
        raise ValueError(f"{name} is empty; expected at least one value")
    return found
