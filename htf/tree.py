"""Dimension trees: which modes of a tensor are joined, and in which order.

A tree is pure structure: no tensors, no ranks, no weights.  Everything else in the library (networks,
tensor formats, ranks, plots) is a reading of one of these.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from htf._checks import positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Nested = Any  # an int, or a tuple of Nested: recursive aliases are not expressible for mypy here


class DimensionTree:
    """A tree over the modes of a tensor, which are numbered from 0.

    Nodes are numbered: node ``i < order`` is the leaf of mode ``i``; the inner nodes follow, level by
    level, and the root is the last.  Trees are immutable, hashable and equal when they join the same
    modes in the same order.

    Parameters
    ----------
    order : int
        Number of modes (leaves), at least 1.
    children : sequence of sequences of int
        The children of node ``order``, ``order + 1``, ...; every inner node has at least two, and each
        node but the root is the child of exactly one other.  Any numbering in which children come before
        their parents is accepted and brought to the canonical one.

    Raises
    ------
    ValueError
        If a mode is missing or repeated, a node has fewer than two children, or there is not exactly
        one root.

    See Also
    --------
    htf.DimensionTree.balanced, htf.DimensionTree.grid : neighbours first, in a line or in an image.
    htf.DimensionTree.interleaved, htf.DimensionTree.linear : far modes first, and tensor trains.
    htf.DimensionTree.from_nested : written as nested tuples.
    htf.optimize_tree, htf.arrange : trees found from data.
    htf.plotting.draw_tree : pictures.

    References
    ----------
    .. [1] W. Hackbusch and S. Kühn, "A new scheme for the tensor representation", J. Fourier Anal.
       Appl. 15 (2009).
    .. [2] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal.
       Appl. 31 (2010).

    Examples
    --------
    >>> import htf
    >>> tree = htf.DimensionTree.balanced(4)
    >>> tree.children(tree.root)
    (4, 5)
    >>> tree.modes(5)
    (2, 3)
    """

    _order: int
    _children: tuple[tuple[int, ...], ...]

    def __init__(self, order: int, children: Sequence[Sequence[int]]) -> None:
        order = positive("order", order)
        inner = tuple(tuple(int(c) for c in node) for node in children)
        _validate(order, inner)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_children", _canonical(order, inner))

    # -- constructors ---------------------------------------------------------------------------------

    @classmethod
    def balanced(cls, order: int, arity: int = 2) -> DimensionTree:
        """Join ``arity`` neighbours at every level (the papers' "checkerboard" pattern).

        Where the number of nodes on a level is not a multiple of `arity`, the last group is smaller.

        Parameters
        ----------
        order : int
            Number of modes.
        arity : int
            Children of a node, at least 2.  ``arity >= order`` gives the depth-one tree of CP.

        Examples
        --------
        >>> import htf
        >>> print(htf.DimensionTree.balanced(4))
        {0, 1, 2, 3}
        ├─ {0, 1}
        │  ├─ {0}
        │  └─ {1}
        └─ {2, 3}
           ├─ {2}
           └─ {3}
        >>> htf.DimensionTree.balanced(9, arity=3).depth
        2
        """
        arity = _at_least_two("arity", arity)
        return cls._from_levels(order, lambda nodes: [nodes[i : i + arity] for i in range(0, len(nodes), arity)])

    @classmethod
    def interleaved(cls, order: int, arity: int = 2) -> DimensionTree:
        """Join far modes first: mode ``i`` with ``i + order/2`` (the papers' "half" pattern).

        Parameters
        ----------
        order : int
            Number of modes.
        arity : int
            Children of a node, at least 2: nodes ``i``, ``i + s``, ``i + 2s``, ... are joined, where
            ``s`` is the number of groups on the level.

        Examples
        --------
        >>> import htf
        >>> tree = htf.DimensionTree.interleaved(4)
        >>> [tree.modes(node) for node in tree.children(tree.root)]
        [(0, 2), (1, 3)]
        """
        arity = _at_least_two("arity", arity)

        def strided(nodes: list[int]) -> list[list[int]]:
            stride = -(-len(nodes) // arity)
            return [nodes[i::stride] for i in range(stride)]

        return cls._from_levels(order, strided)

    @classmethod
    def linear(cls, order: int) -> DimensionTree:
        """The tree of the tensor train: mode 2 joins (0, 1), mode 3 joins (0, 1, 2), and so on.

        Examples
        --------
        >>> import htf
        >>> tree = htf.DimensionTree.linear(4)
        >>> [tree.modes(node) for node in tree.inner_nodes]
        [(0, 1), (0, 1, 2), (0, 1, 2, 3)]
        """
        order = positive("order", order)
        children: list[tuple[int, ...]] = []
        left = 0
        for mode in range(1, order):
            children.append((left, mode))
            left = order + mode - 1
        return cls(order, children)

    @classmethod
    def grid(
        cls,
        height: int,
        width: int,
        window: int | tuple[int, int] | Sequence[int | tuple[int, int]] = 2,
    ) -> DimensionTree:
        """Join square patches of an image, as two-dimensional pooling does.

        Modes are pixels in row-major order.  Sizes need not be powers of the window: windows that reach
        over the edge are cut, and a window of a single node passes it on to the next level.

        Parameters
        ----------
        height, width : int
            Pixels in a column and in a row.
        window : int, (int, int) or sequence of them
            Window of every level, square or (rows, columns); a sequence gives one window per level, from
            the pixels up, and its last entry serves for all further levels.  Two integers are one window
            in a tuple, and two square ones in a list.

        Examples
        --------
        >>> import htf
        >>> tree = htf.DimensionTree.grid(4, 4)  # of the 16 pixels, row by row
        >>> [tree.modes(node) for node in tree.children(tree.root)]
        [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)]
        """
        height, width = positive("height", height), positive("width", width)
        pairs = _windows(window)
        rows, columns, level = height, width, 0

        def patches(nodes: list[int]) -> list[list[int]]:
            nonlocal rows, columns, level
            down, across = pairs[min(level, len(pairs) - 1)]
            if level >= len(pairs) and (rows <= 1 or down == 1) and (columns <= 1 or across == 1):
                raise ValueError(f"window {pairs[-1]} repeated never joins the remaining {rows} x {columns} nodes")
            groups = [
                [
                    nodes[i * columns + j]
                    for i in range(top, min(top + down, rows))
                    for j in range(left, min(left + across, columns))
                ]
                for top in range(0, rows, down)
                for left in range(0, columns, across)
            ]
            rows, columns, level = -(-rows // down), -(-columns // across), level + 1
            return groups

        return cls._from_levels(height * width, patches)

    @classmethod
    def from_nested(cls, nested: Nested) -> DimensionTree:
        """A tree written as nested tuples, for example ``((0, 1), (2, 3))``.

        Parameters
        ----------
        nested : nested tuples (or lists) of int
            The modes, each once; a tuple is a node.

        Examples
        --------
        >>> import htf
        >>> tree = htf.DimensionTree.from_nested(((0, 2), (1, 3)))
        >>> tree.modes(4), tree.modes(5)
        ((0, 2), (1, 3))
        """
        leaves: list[int] = []
        groups: list[list[Any]] = []  # the children of each tuple, in order of closing
        root: list[Any] = []
        stack: list[tuple[Any, list[Any]]] = [(nested, root)]
        # Explicit stack: a linear tree of order 1,024 is deeper than Python's recursion allows.
        while stack:
            item, parent = stack.pop()
            if isinstance(item, (tuple, list)):
                own: list[Any] = []
                groups.append(own)
                parent.append(own)
                stack.extend((child, own) for child in reversed(item))
            elif hasattr(item, "__index__") and not isinstance(item, bool):
                leaves.append(int(item))
                parent.append(int(item))
            else:
                raise TypeError(f"nested holds {item!r}; expected integers and tuples of them")
        order = len(leaves)
        missing = set(range(order)).difference(leaves)
        strange = set(leaves).difference(range(order))
        if strange and all(len(own) > 1 for own in groups):
            raise ValueError(f"nested joins {order} modes, and holds {min(strange)} but not {min(missing)}")
        # A tuple is opened before the ones inside it, so the reversed opening order is bottom-up.
        number = {id(own): order + k for k, own in enumerate(reversed(groups))}
        children = [[number[id(c)] if isinstance(c, list) else c for c in own] for own in reversed(groups)]
        return cls(order, children)

    @classmethod
    def _from_levels(cls, order: int, join: Any) -> DimensionTree:
        order = positive("order", order)
        nodes = list(range(order))
        children: list[tuple[int, ...]] = []
        while len(nodes) > 1:
            joined = []
            for group in join(nodes):
                if len(group) == 1:
                    joined.append(group[0])
                else:
                    joined.append(order + len(children))
                    children.append(tuple(group))
            nodes = joined
        return cls(order, children)

    # -- structure ------------------------------------------------------------------------------------

    @property
    def order(self) -> int:
        """Number of modes."""
        return self._order

    @property
    def n_nodes(self) -> int:
        """Number of nodes, leaves and root included."""
        return self._order + len(self._children)

    @property
    def root(self) -> int:
        """The node of all modes."""
        return self.n_nodes - 1

    @property
    def leaves(self) -> range:
        """The leaves; leaf ``i`` is the node of mode ``i``."""
        return range(self._order)

    @property
    def inner_nodes(self) -> range:
        """The nodes that have children, level by level, the root last."""
        return range(self._order, self.n_nodes)

    def children(self, node: int) -> tuple[int, ...]:
        """The children of `node`, in order; empty for a leaf."""
        node = self._check(node)
        return () if node < self._order else self._children[node - self._order]

    def parent(self, node: int) -> int | None:
        """The parent of `node`, or None for the root."""
        return self._parents[self._check(node)]

    def modes(self, node: int) -> tuple[int, ...]:
        """The modes below `node`, in the order of its leaves."""
        start, stop = self._spans[self._check(node)]
        return self._walk[start:stop]

    def node(self, modes: Iterable[int]) -> int:
        """The node of a set of modes; the inverse of `modes`.

        Raises
        ------
        ValueError
            If no node of the tree joins just these modes.
        """
        wanted = sorted(operator.index(mode) for mode in modes)
        found = self.find(wanted)
        if found is None:
            raise ValueError(f"no node of the tree joins just the modes {wanted}")
        return found

    def find(self, modes: Iterable[int]) -> int | None:
        """The node of a set of modes, or None if the tree has none; see `node`."""
        # Numbers of torch are equal to Python's, but have other hashes.
        wanted = set(map(operator.index, modes))
        if not wanted or min(wanted) < 0 or max(wanted) >= self._order:
            return None
        places = [self._spans[mode][0] for mode in wanted]
        start, stop = min(places), max(places) + 1
        return self._nodes.get((start, stop)) if stop - start == len(wanted) else None

    def level(self, node: int) -> int:
        """The height of `node`: 0 for a leaf, otherwise one more than its highest child."""
        return self._heights[self._check(node)]

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """The nodes of each level, from the leaves up to the root."""
        levels: list[list[int]] = [[] for _ in range(self.depth + 1)]
        for node in range(self.n_nodes):
            levels[self._heights[node]].append(node)
        return tuple(tuple(level) for level in levels)

    @property
    def depth(self) -> int:
        """The level of the root; 1 for CP."""
        return self._heights[self.root]

    def matricization(self, node: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The matricization that belongs to the edge above `node`.

        Returns
        -------
        rows, columns : tuple of int
            The modes below `node`, and all the others, both ascending.

        Examples
        --------
        >>> import htf, numpy as np
        >>> tree = htf.DimensionTree.interleaved(4)
        >>> rows, columns = tree.matricization(4)
        >>> np.ones((2, 3, 4, 5)).transpose(rows + columns).reshape(8, -1).shape, rows, columns
        ((8, 15), (0, 2), (1, 3))
        """
        rows = set(self.modes(node))
        return tuple(sorted(rows)), tuple(m for m in range(self._order) if m not in rows)

    @property
    def edges(self) -> Iterator[int]:
        """Every node but the root: each stands for the edge to its parent."""
        return iter(range(self.n_nodes - 1))

    def by_level(self, values: Sequence[int]) -> dict[int, int]:
        """Spread one value per level of inner nodes over the nodes, for widths that differ by level.

        Parameters
        ----------
        values : sequence of int
            ``depth`` values, for level 1 (just above the leaves) up to the root.

        Returns
        -------
        dict
            From each inner node to the value of its level.

        Examples
        --------
        >>> import htf
        >>> tree = htf.DimensionTree.balanced(8)
        >>> widths = tree.by_level([4, 8, 16])  # of pairs, of fours, of the root
        >>> htf.nn.HTNetwork(tree, dims=3, width=widths, seed=0).widths[0]
        {8: 4, 9: 4, 10: 4, 11: 4, 12: 8, 13: 8, 14: 16}
        """
        if len(values) != self.depth:
            raise ValueError(f"values has {len(values)} entries; the tree has {self.depth} inner levels")
        return {node: values[self.level(node) - 1] for node in self.inner_nodes}

    @property
    def nested(self) -> Nested:
        """The tree as nested tuples; the inverse of `from_nested`."""
        built: list[Nested] = list(range(self._order))
        for group in self._children:
            built.append(tuple(built[c] for c in group))
        return built[-1]

    # -- showing --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self._order <= 8:
            return f"DimensionTree({self._order}, {list(self._children)})"
        arities = sorted({len(group) for group in self._children})
        # By what they say of themselves, checkpoints tell trees apart.
        digest = hashlib.sha256(repr(self._children).encode()).hexdigest()[:8]
        return f"DimensionTree(order={self._order}, depth={self.depth}, arities={arities}, sha256={digest}...)"

    def __str__(self) -> str:
        return self.format()

    def format(self, labels: Mapping[int, object] | None = None, max_lines: int = 80) -> str:
        """The tree as indented text, root first.

        Parameters
        ----------
        labels : mapping, optional
            Text to put behind a node (its rank, for example).
        max_lines : int
            Where the whole tree would take more, only the upper levels are shown.
        """
        shown, count = self.depth, self.n_nodes
        while shown > 1 and count > max_lines:
            shown -= 1
            count -= len(self.levels[self.depth - shown - 1])
        lowest = self.depth - shown
        lines: list[str] = []
        stack: list[tuple[int, str, str]] = [(self.root, "", "")]
        while stack and len(lines) < max_lines:
            node, lead, below = stack.pop()
            label = f"  {labels[node]}" if labels and node in labels else ""
            lines.append(f"{lead}{_span(self.modes(node))}{label}")
            group = self.children(node) if self.level(node) > lowest else ()
            for k in reversed(range(len(group))):
                last = k == len(group) - 1
                stack.append((group[k], below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
        if stack or lowest:
            lines.append(f"… ({self.n_nodes - len(lines)} more nodes)")
        return "\n".join(lines)

    def draw(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the tree; see `htf.plotting.draw_tree` for the options."""
        from htf.plotting import draw_tree

        return draw_tree(self, ax=ax, **kwargs)

    # -- identity -------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DimensionTree):
            return NotImplemented
        return self._order == other._order and self._children == other._children

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return DimensionTree, (self._order, self._children)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"DimensionTree is immutable; cannot set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"DimensionTree is immutable; cannot delete {name}")

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Iterate by level, from the leaves up."""
        return iter(self.levels)

    def _check(self, node: int) -> int:
        if not 0 <= node < self.n_nodes:
            raise IndexError(f"node {node} is not in the tree; expected 0 to {self.n_nodes - 1}")
        return int(node)

    @cached_property
    def _hash(self) -> int:
        return hash((self._order, self._children))

    @cached_property
    def _parents(self) -> tuple[int | None, ...]:
        parents: list[int | None] = [None] * self.n_nodes
        for node, group in enumerate(self._children, self._order):
            for child in group:
                parents[child] = node
        return tuple(parents)

    @cached_property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        """Where the modes below each node start and stop in the walk over all leaves; linear in the order."""
        sizes = [1] * self._order
        for group in self._children:
            sizes.append(sum(sizes[child] for child in group))
        starts = [0] * self.n_nodes
        for node in reversed(self.inner_nodes):
            start = starts[node]
            for child in self._children[node - self._order]:
                starts[child] = start
                start += sizes[child]
        return tuple((start, start + size) for start, size in zip(starts, sizes, strict=True))

    @cached_property
    def _walk(self) -> tuple[int, ...]:
        """The leaves in the order in which a walk meets them."""
        return tuple(sorted(range(self._order), key=lambda mode: self._spans[mode][0]))

    @cached_property
    def _nodes(self) -> dict[tuple[int, int], int]:
        return {span: node for node, span in enumerate(self._spans)}

    @cached_property
    def _heights(self) -> tuple[int, ...]:
        return tuple(_heights(self._order, self._children))


def _heights(order: int, children: Sequence[Sequence[int]]) -> list[int]:
    heights = [0] * order
    for group in children:
        heights.append(1 + max(heights[c] for c in group))
    return heights


def _validate(order: int, children: tuple[tuple[int, ...], ...]) -> None:
    seen: dict[int, int] = {}
    for node, group in enumerate(children, order):
        if len(group) < 2:
            raise ValueError(f"children of node {node} are {group}; an inner node joins at least two")
        for child in group:
            if not 0 <= child < order + len(children):
                raise ValueError(
                    f"node {node} has child {child}, which is not among the modes 0 to {order - 1} "
                    "or the nodes above them"
                )
            if child >= node:
                raise ValueError(f"node {node} has child {child}; children come before their parent")
            if child in seen:
                what = f"mode {child}" if child < order else f"node {child}"
                raise ValueError(f"{what} is repeated: it is a child of node {seen[child]} and of {node}")
            seen[child] = node
    root = order + len(children) - 1
    missing = [node for node in range(root) if node not in seen]
    if missing:
        what = "mode" if missing[0] < order else "node"
        raise ValueError(f"{what} {missing[0]} is not joined to the tree ({len(missing)} such nodes)")


def _canonical(order: int, children: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Renumber the inner nodes by height, and within a level in the order in which a walk meets them."""
    heights = _heights(order, children)
    met: dict[int, int] = {}
    stack = [order + len(children) - 1]
    while stack:
        node = stack.pop()
        met[node] = len(met)
        if node >= order:
            stack.extend(reversed(children[node - order]))
    inner = sorted(range(order, order + len(children)), key=lambda node: (heights[node], met[node]))
    number = {node: order + k for k, node in enumerate(inner)} | {mode: mode for mode in range(order)}
    return tuple(tuple(number[c] for c in children[node - order]) for node in inner)


def _at_least_two(name: str, value: int) -> int:
    if positive(name, value) < 2:
        raise ValueError(f"{name} is {value}; expected at least 2")
    return int(value)


def _windows(window: Any) -> list[tuple[int, int]]:
    """One window for all levels, or one per level."""
    # Arrays without axes look iterable and are not.
    if not isinstance(window, Iterable) or getattr(window, "shape", None) == ():
        return [_window(window)]
    parts = list(window)
    if not parts:
        raise ValueError("window is empty; expected at least one window")
    one = isinstance(window, tuple) and not any(isinstance(part, Iterable) for part in parts)
    return [_window(tuple(parts))] if one else [_window(part) for part in parts]


def _window(window: Any) -> tuple[int, int]:
    several = isinstance(window, Iterable) and getattr(window, "shape", None) != ()
    pair = tuple(window) if several else (window, window)
    if len(pair) != 2:
        raise ValueError(f"window is {window!r}; expected an integer or a pair (rows, columns)")
    down, across = positive("window", pair[0]), positive("window", pair[1])
    if down * across < 2:
        raise ValueError(f"window is {window!r}; a window of one node joins nothing")
    return down, across


def _span(modes: Sequence[int]) -> str:
    if len(modes) <= 6:
        return "{" + ", ".join(map(str, modes)) + "}"
    return "{" + f"{modes[0]}, {modes[1]}, …, {modes[-1]}" + f"}} ({len(modes)} modes)"
