"""Which two patches of an image a regularizer relates: drawn at random, by distance, from a list or by a tree.

A sampler is called with the height and width of the images and a CPU generator, and gives two disjoint patches; any
function that does so will serve.  Those here never list the positions of an image: they count them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from torch import Generator

from htf._checks import natural, positive
from htf._random import below, two_of
from htf.patches._placement import corners_at, largest_distance
from htf.tree import DimensionTree


class Patch(NamedTuple):
    """A rectangle of pixels.

    Attributes
    ----------
    top, left : int
        Row and column of its first pixel.
    height, width : int

    See Also
    --------
    htf.regularizers.preset_areas, htf.regularizers.random_patches : what draws patches.
    htf.regularizers.separating_edges : edges of a tree between two patches.

    Examples
    --------
    >>> import torch, htf
    >>> patch = htf.regularizers.Patch(top=0, left=2, height=2, width=3)
    >>> image = torch.arange(48).reshape(6, 8)
    >>> image[patch.rows, patch.columns]
    tensor([[ 2,  3,  4],
            [10, 11, 12]])
    >>> patch.distance(htf.regularizers.Patch(0, 7, 1, 1))
    2
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Its rows in an image."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns in an image."""
        return slice(self.left, self.left + self.width)

    def distance(self, other: Patch) -> int:
        """Pixels between the two, along the axis on which they lie farther apart.

        Returns
        -------
        int
            0 if they touch, at a side or a corner; negative if they overlap.
        """
        down = max(self.top, other.top) - min(self.top + self.height, other.top + other.height)
        across = max(self.left, other.left) - min(self.left + self.width, other.left + other.width)
        return max(down, across)


PatchSampler: TypeAlias = Callable[[int, int, Generator], tuple[Patch, Patch]]


def check_patches(pair: tuple[Patch, Patch], height: int, width: int) -> tuple[Patch, Patch]:
    """Two patches that lie inside an image and do not overlap.

    Raises
    ------
    TypeError, ValueError
        If they do not, or are no patches; it names them and the size of the image.
    """
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise TypeError(
            f"patches gave {pair!r}; expected a sampler, such as random_patches(2), that gives a pair"
        ) from None
    first, second = _patch("patch", first), _patch("patch", second)
    for patch in (first, second):
        if min(patch.height, patch.width) < 1 or min(patch.top, patch.left) < 0:
            raise ValueError(f"{patch} is no patch; expected sides of at least 1 and a corner inside of the image")
        if patch.rows.stop > height or patch.columns.stop > width:
            raise ValueError(f"{patch} reaches outside of an image of {height} x {width} pixels")
    if first.distance(second) < 0:
        raise ValueError(f"{first} and {second} overlap in an image of {height} x {width} pixels; expected two apart")
    return first, second


def preset_areas(*areas: Patch | tuple[int, int, int, int]) -> PatchSampler:
    """Two of a list of areas, in random order, as for Is-Same-Class, whose two images stand at known places.

    Parameters
    ----------
    *areas : Patch or (top, left, height, width)
        At least two, none of which overlap.

    Returns
    -------
    PatchSampler
        The first is drawn uniformly, the second uniformly among the others.

    Raises
    ------
    TypeError, ValueError
        For fewer than two areas, areas that overlap or are not four integers; when called, for areas outside of the
        image.

    See Also
    --------
    htf.regularizers.random_patches, htf.regularizers.far_patches, htf.regularizers.tree_patches : other samplers.
    htf.datasets.is_same_class : data whose ``settings["areas"]`` are such areas.

    Examples
    --------
    >>> import torch, htf
    >>> sampler = htf.regularizers.preset_areas((0, 0, 8, 8), (0, 24, 8, 8))
    >>> first, second = sampler(8, 32, torch.Generator().manual_seed(0))
    >>> sorted([first, second])
    [Patch(top=0, left=0, height=8, width=8), Patch(top=0, left=24, height=8, width=8)]
    >>> reg = htf.regularizers.InputGradientChange(sampler)
    """
    if len(areas) < 2:
        raise ValueError(f"areas holds {len(areas)} patches; expected at least 2")
    found = tuple(_patch(f"areas[{k}]", area) for k, area in enumerate(areas))
    height = max(patch.rows.stop for patch in found)
    width = max(patch.columns.stop for patch in found)
    for k, patch in enumerate(found):
        for other in found[:k]:
            check_patches((other, patch), height, width)
    return PresetAreas(found)


def random_patches(size: int | tuple[int, int], distance: int = 0, adjacent: bool = False) -> PatchSampler:
    """Two patches of a size at random, at least a distance apart, as in the paper.

    Parameters
    ----------
    size : int or (int, int)
        Height and width in pixels.
    distance : int
        Least number of pixels between the two; see `Patch.distance`.
    adjacent : bool
        Whether the distance is to be met exactly.

    Returns
    -------
    PatchSampler
        The first patch is drawn uniformly among all positions that leave room for a second, the second uniformly among
        all positions that are far enough from it.

    Raises
    ------
    TypeError, ValueError
        For sizes or distances that are no integers or negative; when called, for a distance that does not fit the
        image, naming the largest that does.

    See Also
    --------
    htf.regularizers.far_patches : far pairs as often as near ones.
    htf.regularizers.preset_areas, htf.regularizers.tree_patches : other samplers.
    htf.regularizers.InputGradientChange : takes them.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, section 6 and appendix G.

    Examples
    --------
    >>> import torch, htf
    >>> sampler = htf.regularizers.random_patches(2, distance=10)
    >>> first, second = sampler(32, 32, torch.Generator().manual_seed(0))
    >>> first, second
    (Patch(top=1, left=18, height=2, width=2), Patch(top=18, left=28, height=2, width=2))
    >>> first.distance(second) >= 10
    True
    """
    return RandomPatches(_size(size), _distance(distance), bool(adjacent))


def far_patches(size: int | tuple[int, int], distance: int = 0) -> PatchSampler:
    """Two patches of a size at a random distance: far pairs come as often as near ones.

    Under `random_patches` most pairs are at middling distances, and few are as far apart as the image allows.

    Parameters
    ----------
    size : int or (int, int)
        Height and width in pixels.
    distance : int
        Least number of pixels between the two.

    Returns
    -------
    PatchSampler
        The number of pixels between the two is drawn uniformly from `distance` to the largest that the image allows;
        then the patches as by ``random_patches(size, that number, adjacent=True)``.

    Raises
    ------
    TypeError, ValueError
        As `random_patches`.

    See Also
    --------
    htf.regularizers.random_patches : all pairs of places alike.
    htf.regularizers.preset_areas, htf.regularizers.tree_patches : other samplers.

    Examples
    --------
    >>> import torch, htf
    >>> generator = torch.Generator().manual_seed(0)
    >>> def mean_distance(sampler):
    ...     pairs = [sampler(32, 32, generator) for _ in range(200)]
    ...     return sum(first.distance(second) for first, second in pairs) / len(pairs)
    >>> mean_distance(htf.regularizers.far_patches(2)) > mean_distance(htf.regularizers.random_patches(2))
    True
    """
    return FarPatches(_size(size), _distance(distance))


def tree_patches(tree: DimensionTree | int = 2, nodes: Iterable[int] | None = None) -> PatchSampler:
    """The areas of two children of a node of a dimension tree over the pixels.

    Parameters
    ----------
    tree : DimensionTree or int
        Over the pixels in row-major order; or the window of `DimensionTree.grid`, for images of any size.
    nodes : iterable of int, optional
        Inner nodes to draw from, each once; by default all of them.  Those of a level are ``tree.levels[level]``.

    Returns
    -------
    PatchSampler
        The node is drawn uniformly, then two of its children in random order.

    Raises
    ------
    TypeError, ValueError, IndexError
        For nodes that have no children; when called, for a tree that does not fit the image, and a child whose pixels
        are no rectangle.

    See Also
    --------
    htf.regularizers.random_patches, htf.regularizers.far_patches, htf.regularizers.preset_areas : other samplers.
    htf.regularizers.separating_edges : the other way, from patches to edges.

    Examples
    --------
    >>> import torch, htf
    >>> tree = htf.DimensionTree.grid(8, 8)
    >>> sampler = htf.regularizers.tree_patches(tree, nodes=[tree.root])
    >>> first, second = sampler(8, 8, torch.Generator().manual_seed(0))
    >>> first.height, first.width, first.distance(second)  # quarters of the image, which the root joins
    (4, 4, 0)
    """
    chosen = None if nodes is None else tuple(nodes)
    if chosen is not None and not chosen:
        raise ValueError("nodes is empty; expected at least one inner node")
    if not isinstance(tree, DimensionTree):
        return TreePatches(_at_least_two(tree), chosen)
    _check_inner(tree, chosen)
    return TreePatches(tree, chosen)


@dataclass(frozen=True)
class PresetAreas:
    """Sampler made by `preset_areas`."""

    areas: tuple[Patch, ...]

    def __call__(self, height: int, width: int, generator: Generator) -> tuple[Patch, Patch]:
        first, second = two_of(len(self.areas), generator)
        return check_patches((self.areas[first], self.areas[second]), height, width)


@dataclass(frozen=True)
class RandomPatches:
    """Sampler made by `random_patches`."""

    size: tuple[int, int]
    distance: int
    adjacent: bool

    def __call__(self, height: int, width: int, generator: Generator) -> tuple[Patch, Patch]:
        largest_distance(self.size, self.distance, height, width)
        return _pair(self.size, self.distance, self.adjacent, height, width, generator)


@dataclass(frozen=True)
class FarPatches:
    """Sampler made by `far_patches`."""

    size: tuple[int, int]
    distance: int

    def __call__(self, height: int, width: int, generator: Generator) -> tuple[Patch, Patch]:
        largest = largest_distance(self.size, self.distance, height, width)
        distance = self.distance + below(largest - self.distance + 1, generator)
        return _pair(self.size, distance, True, height, width, generator)


@dataclass(frozen=True)
class TreePatches:
    """Sampler made by `tree_patches`."""

    tree: DimensionTree | int
    nodes: tuple[int, ...] | None
    # Building a tree and finding rectangles is done once for a size of images.
    _trees: dict[tuple[int, int], DimensionTree] = field(default_factory=dict, repr=False, compare=False)
    _areas: dict[tuple[int, int, int], Patch] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, height: int, width: int, generator: Generator) -> tuple[Patch, Patch]:
        tree = self._tree(height, width)
        nodes = tree.inner_nodes if self.nodes is None else self.nodes
        children = tree.children(nodes[below(len(nodes), generator)])
        first, second = (self._area(tree, children[k], height, width) for k in two_of(len(children), generator))
        return first, second

    def _tree(self, height: int, width: int) -> DimensionTree:
        if isinstance(self.tree, DimensionTree):
            if self.tree.order != height * width:
                raise ValueError(f"tree joins {self.tree.order} modes; the image has {height} x {width} pixels")
            return self.tree
        if (height, width) not in self._trees:
            tree = DimensionTree.grid(height, width, self.tree)
            _check_inner(tree, self.nodes)
            self._trees[height, width] = tree
        return self._trees[height, width]

    def _area(self, tree: DimensionTree, node: int, height: int, width: int) -> Patch:
        # Numbers of nodes depend on both sides of the image.
        if (height, width, node) not in self._areas:
            pixels = [divmod(mode, width) for mode in tree.modes(node)]
            rows, columns = [row for row, _ in pixels], [column for _, column in pixels]
            area = Patch(min(rows), min(columns), max(rows) - min(rows) + 1, max(columns) - min(columns) + 1)
            if area.height * area.width != len(pixels):
                raise ValueError(f"node {node} of the tree joins {len(pixels)} pixels that are no rectangle")
            self._areas[height, width, node] = area
        return self._areas[height, width, node]


def _patch(name: str, area: object) -> Patch:
    sides = list(area) if isinstance(area, Iterable) else []
    if len(sides) != 4:
        raise TypeError(f"{name} is {area!r}; expected a Patch, or (top, left, height, width)")
    try:
        return Patch(*map(operator.index, sides))
    except TypeError:
        raise TypeError(f"{name} is {area!r}; expected integers") from None


def _pair(
    size: tuple[int, int], distance: int, exactly: bool, height: int, width: int, generator: Generator
) -> tuple[Patch, Patch]:
    first, second = corners_at(size, distance, exactly, (height, width), generator)
    return Patch(*first, *size), Patch(*second, *size)


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise ValueError(f"size is {size!r}; expected an integer or (height, width)")
        return positive("size", size[0]), positive("size", size[1])
    return positive("size", size), positive("size", size)


def _distance(distance: int) -> int:
    return natural("distance", distance)


def _at_least_two(window: int) -> int:
    if positive("tree", window) < 2:
        raise ValueError(f"tree is {window}; expected a DimensionTree, or a window of at least 2")
    return int(window)


def _check_inner(tree: DimensionTree, nodes: tuple[int, ...] | None) -> None:
    for node in nodes or ():
        if not tree.children(node):
            raise ValueError(f"nodes holds {node}, a leaf; expected inner nodes, {tree.order} to {tree.root}")
