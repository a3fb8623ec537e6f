"""Initializers of factorization networks.

An initializer is called once per run and block of alike matrices, as ``init(layout, block, generator)``, and
returns the block's matrices, shape ``(len(block.nodes), block.rows, block.columns)``; any function of that form will
do.  The layout is the run's own, so a run starts the same alone or among others.

A deep linear network has a `Chain` for a layout, whose blocks are its layers.  An initializer whose layers are drawn
jointly has a method ``chain(layout, generator)``, called once per run, that returns all matrices, W_1 first.  One
whose matrices on a tree depend on each other has a method ``tree(layout, generator, shared)``, that returns them per
block; `shared` says whether the first matrix of a block serves all its nodes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from htf._moments import Moments, check_vectors
from htf._random import rand, randn
from htf.engine.layout import Block, Layout
from htf.nn.networks._start_scale import SAMPLES, nearly_constant, outputs, typical_log_rms
from htf.nn.networks.inputs import check_indices


@dataclass(frozen=True)
class Chain:
    """Shapes of the matrices of a deep linear network W_L···W_1, which has no tree.

    Attributes
    ----------
    sizes : tuple of int
        d_0, ..., d_L; W_l is d_l x d_{l-1}.

    See Also
    --------
    htf.nn.MatrixFactorization : the network that has one for a layout.
    htf.nn.init.JointInitializer : starts of whole chains.

    Examples
    --------
    >>> import htf
    >>> chain = htf.nn.init.Chain((4, 3, 6))  # two layers, from 4 to 3 to 6 dimensions
    >>> [(block.rows, block.columns) for block in chain.blocks]
    [(3, 4), (6, 3)]
    """

    sizes: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One block per layer, W_1 first; layer l is its node and its level."""
        layers = enumerate(zip(self.sizes[1:], self.sizes, strict=False), 1)
        return tuple(Block((layer,), layer, rows, columns) for layer, (rows, columns) in layers)


# Below it, relative to the root mean square, the median output at a start is as good as zero.
NEXT_TO_NOTHING = 1e-8

Initializer = Callable[[Layout | Chain, Block, Generator | None], Tensor]


@runtime_checkable
class JointInitializer(Protocol):
    """An initializer that draws all layers of a deep linear network at once.

    See Also
    --------
    htf.nn.init.TreeInitializer : of networks on a tree.
    htf.nn.init.balanced : one of them.

    Examples
    --------
    >>> import torch, htf
    >>> class Orthogonal:
    ...     def __call__(self, layout, block, generator):
    ...         raise TypeError("for deep linear networks alone")
    ...
    ...     def chain(self, layout, generator):
    ...         blank = [torch.empty(block.rows, block.columns) for block in layout.blocks]
    ...         return [torch.nn.init.orthogonal_(each, generator=generator) for each in blank]
    >>> net = htf.nn.MatrixFactorization((4, 4), depth=3, init=Orthogonal(), seed=0)
    >>> torch.allclose(net.singular_values(), torch.ones(1, 4), atol=1e-5)
    True
    """

    def chain(self, layout: Chain, generator: Generator | None) -> list[Tensor]:
        """The matrices of one run, W_1 first."""
        ...


@runtime_checkable
class TreeInitializer(Protocol):
    """An initializer that draws all matrices of a network on a tree at once.

    See Also
    --------
    htf.nn.init.JointInitializer : of deep linear networks.
    htf.nn.init.scale_preserving : one of them.

    Examples
    --------
    >>> import torch, htf
    >>> class Ones:
    ...     def __call__(self, layout, block, generator):
    ...         raise TypeError("for trees alone")
    ...
    ...     def tree(self, layout, generator, shared=False):
    ...         return [torch.ones(len(block.nodes), block.rows, block.columns) for block in layout.blocks]
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(2), dims=3, width=2, init=Ones())
    >>> net(torch.tensor([[0, 1], [2, 2]])).tolist()
    [[2.0], [2.0]]
    """

    def tree(self, layout: Layout, generator: Generator | None, shared: bool = False) -> list[Tensor]:
        """The matrices of one run, per block; without the root's, where it adds."""
        ...


def gaussian(mean: float = 0.0, std: float = 1e-2) -> Initializer:
    """Independent Gaussian entries, the papers' initialization.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation of every entry; `std` is at least 0.

    See Also
    --------
    htf.nn.init.balanced, htf.nn.init.scale_preserving : other starts.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.CPNetwork((8, 8, 8), rank=64, init=htf.nn.init.gaussian(std=0.01), seed=0)
    >>> round(net.factor(0).std().item(), 3)
    0.01
    """
    if not std >= 0:
        raise ValueError(f"std is {std}; expected at least 0")

    def init(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        return mean + std * _normal(block, generator)

    return init


def balanced(scale: float = 1e-2) -> Initializer:
    """Near-zero start with an unbalancedness of zero, which gradient flow keeps.

    In a tensor factorization all vectors of each local component have equal norms (Razin, Maman & Cohen 2022,
    lemma 1).  In a deep linear network W_{l+1}^T W_{l+1} = W_l W_l^T, to rounding (Arora et al. 2019, procedure 1).

    Parameters
    ----------
    scale : float
        In a tensor factorization, the norm of each local component's vectors at the root; where widths change from
        level to level, the norms below change with the square root of their ratio.  In a deep linear network, the
        Frobenius norm of the end matrix.

    See Also
    --------
    htf.nn.init.gaussian, htf.nn.init.identity : other starts near zero.
    htf.dynamics.unbalancedness : what stays near 0 from there.

    Notes
    -----
    On a tree, rows and columns of Gaussian matrices are rescaled in turn (Sinkhorn) until all norms agree to rounding.

    For a deep linear network the SVD :math:`U S V^T` of a Gaussian end matrix, cut to the smallest width, is spread
    over the layers: :math:`W_L = U S^{1/L}`, :math:`W_1 = S^{1/L} V^T` and :math:`S^{1/L}` between, padded with zeros.
    Hidden units beyond the rank of the end matrix are zero, as balance demands, and gradient descent leaves them so.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.
    .. [2] S. Arora, N. Cohen, N. Golowich, W. Hu, "A convergence analysis of gradient descent for deep linear neural
       networks", ICLR 2019.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.MatrixFactorization((6, 4), depth=3, init=htf.nn.init.balanced(1e-3), seed=0)
    >>> round(net.to_tensor().norm().item(), 6), bool(net.unbalancedness() < 1e-6)
    (0.001, True)
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected above 0")
    return _Balanced(scale)


@dataclass(frozen=True)
class _Balanced:
    scale: float

    def __call__(self, layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if isinstance(layout, Chain):
            raise TypeError("the layers of a balanced chain depend on each other; draw them with `chain`")
        if block.nodes == (layout.tree.root,):
            w = _normal(block, generator)
            return self.scale * w / w.norm(dim=2, keepdim=True)
        columns = torch.tensor(
            [_balanced_norm(layout, n, self.scale) for n in block.nodes], dtype=torch.float64, device="cpu"
        )
        w = _normal(block, generator)
        if block.level:
            w = _sinkhorn(w)
        return w / w.norm(dim=1, keepdim=True) * columns[:, None, None]

    def chain(self, layout: Chain, generator: Generator | None) -> list[Tensor]:
        sizes, rank = layout.sizes, min(layout.sizes)
        end = randn((sizes[-1], sizes[0]), generator)
        u, s, vh = torch.linalg.svd(end, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
        # Each layer's share of the scale is taken before it is multiplied: a tiny one must not underflow.
        share = (s / s.norm()) ** (1 / len(layout.blocks)) * self.scale ** (1 / len(layout.blocks))
        matrices = [
            torch.zeros(block.rows, block.columns, dtype=torch.float64, device="cpu") for block in layout.blocks
        ]
        if len(matrices) == 1:
            matrices[0][:] = (u * share) @ vh
            return matrices
        matrices[0][:rank] = share[:, None] * vh
        matrices[-1][:, :rank] = u * share
        for matrix in matrices[1:-1]:
            matrix[:rank, :rank] = share.diag()
        return matrices


def identity(scale: float = 1e-2) -> Initializer:
    """Every layer of a deep linear network a multiple of the identity; where it is not square, of its leading part.

    Parameters
    ----------
    scale : float
        On the diagonals.

    See Also
    --------
    htf.nn.init.balanced, htf.nn.init.gaussian : other starts near zero.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.MatrixFactorization((3, 3), depth=2, init=htf.nn.init.identity(0.1), seed=0)
    >>> net.to_tensor().diagonal().detach()
    tensor([0.0100, 0.0100, 0.0100])
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected above 0")

    def init(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if not isinstance(layout, Chain):
            raise ValueError("init identity is for matrix factorizations; a network on a tree takes scale_preserving")
        return scale * torch.eye(block.rows, block.columns, dtype=torch.float64, device="cpu").unsqueeze(0)

    return init


def scale_preserving(noise: float = 1.0, mixing: float = 0.1, inputs: Tensor | Moments | None = None) -> Initializer:
    """Start near the average of R rank-one terms: outputs near 1 at any order, depth and width.

    Leaf entries are 1 plus noise, inner matrices the identity plus noise, the root averages.  The network then begins
    close to a CP factorization whose rank is its width.  That suits discrete inputs.  For encoded vectors, `inputs`
    takes the place of the ones: leaves map each mode's vectors to about 1, with the least variance.

    Parameters
    ----------
    noise : float
        Standard deviation of the logarithm of a rank-one term, to first order: leaf entries have standard deviation
        ``noise / sqrt(order)``, divided by the root mean square length of `inputs`.
    mixing : float
        Standard deviation of a row of an inner matrix's noise: entries have ``mixing / sqrt(rows)``.
    inputs : Tensor or Moments, optional
        What the network will read: encoded vectors (samples, order, dim), or indices (samples, order), of which up to
        1,024 samples spread evenly are kept; or the moments of an encoding, see `htf.datasets.encoding_moments`.

    Raises
    ------
    ValueError, TypeError
        If `noise` or `mixing` is below 0; for `inputs` of another kind or shape, or not finite.  Drawing raises where
        their order or dimension is not the network's, and where every product of them is zero.

    Warns
    -----
    RuntimeWarning
        If products of `inputs` vary so much from sample to sample that most outputs are next to nothing.

    See Also
    --------
    htf.nn.init.gaussian, htf.nn.init.balanced : starts near zero.
    htf.datasets.encoding_moments : moments of an encoding, in place of samples.

    Notes
    -----
    With samples, their outputs have a root mean square of 1.  With moments, so have some hundred typical samples whose
    modes are independent; modes that depend on each other, as pixels do, can lie far off: give samples.  Without
    either, the root of a network whose outputs on random indices are carried beyond 0.2 to 5 by the noise of very many
    matrices is multiplied by a power of two.

    No start makes the outputs of all samples alike where no vector w makes ⟨w, φ⟩ alike in each mode: of 1,024
    independent pixels in [0, 1], encoded by (cos πx/2, sin πx/2), their logarithms have a standard deviation of 3.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits")
    >>> vectors = htf.datasets.trigonometric(digits.train_images, digits.maximum)
    >>> start = htf.nn.init.scale_preserving(inputs=vectors)
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.grid(8, 8), 2, 16, outputs=10, init=start, seed=0)
    >>> 0.5 < net(vectors).square().mean().sqrt().item() < 2
    True
    """
    for name, value in (("noise", noise), ("mixing", mixing)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected at least 0")
    return _ScalePreserving(noise, mixing, None if inputs is None else _kept(inputs))


def _kept(inputs: Tensor | Moments) -> Tensor | Moments:
    """Moments, or at most `SAMPLES` samples: vectors in float64 or indices, on the CPU."""
    if isinstance(inputs, Moments):
        return inputs
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; expected a Tensor of encoded vectors (samples, order, dim) or of "
            "indices (samples, order), or Moments, as htf.datasets.encoding_moments returns"
        )
    few = torch.linspace(0, len(inputs) - 1, min(len(inputs), SAMPLES), device=inputs.device).round().long()
    discrete = inputs.ndim == 2 and not inputs.dtype.is_floating_point
    if discrete and not inputs.numel():
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}; expected (samples, order)")
    kept = inputs.detach() if discrete else check_vectors("inputs", inputs).detach()
    return kept[few].cpu() if discrete else kept[few].cpu().double()


@dataclass(frozen=True, eq=False)
class _ScalePreserving:
    noise: float
    mixing: float
    inputs: Tensor | Moments | None

    def __call__(self, layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if self.inputs is not None:
            raise TypeError("the matrices of a start from inputs depend on each other; draw them with `tree`")
        return self._matrices(layout, block, generator)

    def tree(self, layout: Layout, generator: Generator | None, shared: bool = False) -> list[Tensor]:
        """The matrices of one run, per block; without the root's, where it adds."""
        blocks = [block for block in layout.blocks if not (layout.root_adds and block.level)]
        moments = None if self.inputs is None else self._moments(layout, shared)
        drawn = [self._matrices(layout, block, generator, moments) for block in blocks]
        used = [matrices[:1].expand_as(matrices) for matrices in drawn] if shared else drawn
        if self.inputs is None:
            # Noise of so few matrices cannot carry outputs far.
            if self.mixing * math.sqrt(len(layout.tree.inner_nodes)) > 0.75:
                _, log_size = outputs(layout, used, _evenly_spread(layout.dims))
                if math.isfinite(log_size) and abs(log_size) > math.log(5):
                    drawn[-1] *= 2.0 ** -round(log_size / math.log(2))
            return drawn
        self._scale(layout, drawn, used, generator)
        return drawn

    def _scale(self, layout: Layout, drawn: list[Tensor], used: list[Tensor], generator: Generator | None) -> None:
        """Divide all matrices by the share of each in the size of the outputs."""
        if isinstance(self.inputs, Moments):
            found, log_size = outputs(layout, used, self.inputs.drawn(layout.tree.order, generator))
            log_size = typical_log_rms(found, log_size)
        else:
            found, log_size = outputs(layout, used, self._vectors(layout))
        if not math.isfinite(log_size):
            raise ValueError("inputs of init scale_preserving have a zero vector in every sample: all products are 0")
        if float(found.abs().median()) < NEXT_TO_NOTHING:
            warnings.warn(
                "init scale_preserving: products of these inputs over all modes differ by many orders of magnitude "
                f"from sample to sample (the median |output| is {float(found.abs().median()):.0e} where their root "
                "mean square is 1); use an encoding of more even products, such as complementary or affine",
                RuntimeWarning,
                stacklevel=2,
            )
        share = math.exp(-log_size / sum(len(matrices) for matrices in drawn))
        for matrices in drawn:
            matrices *= share

    def _matrices(
        self, layout: Layout | Chain, block: Block, generator: Generator | None, moments: Moments | None = None
    ) -> Tensor:
        if isinstance(layout, Chain):
            raise ValueError(
                "init scale_preserving is for trees; a matrix factorization takes gaussian, balanced or identity"
            )
        if block.level == 0:
            noise = self.noise / math.sqrt(layout.tree.order) * _normal(block, generator)
            if moments is None:
                leaves = 1 + noise
            else:
                nodes, rows = list(block.nodes), block.rows
                own = Moments(moments.mean[nodes, :rows], moments.second[nodes, :rows, :rows])
                lengths = own.second.diagonal(dim1=1, dim2=2).sum(1).sqrt().view(-1, 1, 1)
                leaves = nearly_constant(own).unsqueeze(2) + noise / lengths
            # Without a root matrix to average the components, their vectors do.
            return leaves * block.columns ** (-1 / layout.tree.order) if layout.root_adds else leaves
        if block.nodes == (layout.tree.root,):
            return torch.full((1, block.rows, block.columns), 1 / block.rows, dtype=torch.float64, device="cpu")
        # Where widths differ, channels are folded onto (or copied to) the parent's in turn.
        eye = torch.zeros(block.rows, block.columns, dtype=torch.float64, device="cpu")
        longer = torch.arange(max(block.rows, block.columns), device="cpu")
        eye[longer % block.rows, longer % block.columns] = 1
        return eye / eye.sum(0) + self.mixing / math.sqrt(block.rows) * _normal(block, generator)

    def _vectors(self, layout: Layout) -> Tensor:
        """The samples as vectors, checked against the network."""
        kept = self.inputs
        assert isinstance(kept, Tensor)
        order, dim = layout.tree.order, max(layout.dims)
        if kept.ndim == 2:
            return one_hot(check_indices(kept, layout.dims).long(), dim).double()
        if kept.shape[1:] != (order, dim):
            raise ValueError(
                f"inputs of init scale_preserving has shape {(len(kept), *kept.shape[1:])}; the network expects "
                f"(samples, {order}, {dim})"
            )
        return kept

    def _moments(self, layout: Layout, shared: bool) -> Moments:
        """The moments of each mode; of all together where they share a matrix."""
        order, dim = layout.tree.order, max(layout.dims)
        moments = self.inputs if isinstance(self.inputs, Moments) else Moments.of(self._vectors(layout))
        if moments.mean.shape[-1] != dim or (moments.mean.ndim == 2 and len(moments.mean) != order):
            raise ValueError(
                f"inputs of init scale_preserving has moments of shape {tuple(moments.mean.shape)}; the network "
                f"expects ({dim},) or ({order}, {dim})"
            )
        mean, second = moments.mean, moments.second
        if shared and mean.ndim == 2:
            mean, second = mean.mean(0), second.mean(0)
        for mode, own in enumerate(layout.dims):
            where = second if second.ndim == 2 else second[mode]
            if not bool(where[:own, :own].any()):
                raise ValueError(
                    f"inputs of init scale_preserving are zero in mode {mode}; every product over all modes is then 0"
                )
        return Moments(mean.expand(order, dim), second.expand(order, dim, dim))


BY_NAME: dict[str, Callable[[], Initializer]] = {
    "gaussian": gaussian,
    "balanced": balanced,
    "identity": identity,
    "scale_preserving": scale_preserving,
}


def resolve(init: str | Initializer) -> Initializer:
    """The initializer of a name, or `init` itself if it is callable."""
    if callable(init):
        return init
    if init not in BY_NAME:
        raise ValueError(f"init is {init!r}; known names are {', '.join(sorted(BY_NAME))}, or pass a callable")
    return BY_NAME[init]()


def _evenly_spread(dims: tuple[int, ...]) -> Tensor:
    """One-hot vectors of a few random indices, (32, order, largest dimension)."""
    uniform = rand((32, len(dims)), Generator().manual_seed(0))
    indices = (uniform * torch.tensor(dims, device="cpu")).long()
    return one_hot(indices, max(dims)).double()


def keeps_near_one(init: str | Initializer) -> bool:
    """Whether a start promises outputs near 1."""
    return isinstance(resolve(init), _ScalePreserving)


def _normal(block: Block, generator: Generator | None) -> Tensor:
    return randn((len(block.nodes), block.rows, block.columns), generator)


def _balanced_norm(layout: Layout, node: int, scale: float) -> float:
    """Common norm of the columns of `node`, which is that of the rows of its parent."""
    parent = layout.tree.parent(node)
    assert parent is not None
    norm = scale
    while parent != layout.tree.root:
        rows, columns = layout.shape(parent)
        norm *= math.sqrt(columns / rows)
        parent = layout.tree.parent(parent)
        assert parent is not None
    return norm


def _sinkhorn(w: Tensor) -> Tensor:
    ratio = math.sqrt(w.shape[1] / w.shape[2])  # column norm over row norm
    for _ in range(1000):
        w = w / w.norm(dim=2, keepdim=True)
        norms = w.norm(dim=1, keepdim=True)
        w = w / norms * ratio
        if bool(((norms / ratio - 1).abs() < 1e-13).all()):
            break
    return w
