"""HT tensors taken apart: a tree of arrays whose legs are modes, outputs and bonds, without a root.

Everything that changes the tree (removing, merging and splitting modes, moving the root, other trees) is a few of the
steps here.  A leg is ("mode", number), ("outputs",) or ("bond", number); bonds have two ends, the others one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from htf.linalg.backend import Array, adjoint, backend_of, eye
from htf.linalg.dense import orthonormal
from htf.tensors.arithmetic import renumbered
from htf.tensors.ht_tensor import HTTensor

Leg = tuple[Any, ...]
OUTPUTS: Leg = ("outputs",)


def mode_leg(mode: int) -> Leg:
    """The leg of a mode."""
    return ("mode", mode)


class Network:
    """Arrays on the vertices of a tree, with named legs.

    Attributes
    ----------
    arrays, legs : dict
        Per vertex, the array and the legs of its axes.
    ends : dict
        Per leg, the vertices that hold it; `put` and `drop` keep it up to date.
    units : dict
        From the bonds of finished subtrees to the vertices at their tops; `join` leaves those alone.
    """

    def __init__(self) -> None:
        self.arrays: dict[int, Array] = {}
        self.legs: dict[int, list[Leg]] = {}
        self.ends: dict[Leg, list[int]] = {}
        self.units: dict[Leg, int] = {}
        self._centre: int | None = None
        self._next_vertex = 0
        self._next_bond = 0

    @classmethod
    def of(cls, x: HTTensor) -> Network:
        """The vertices are the nodes of the tree; a root of rank 1 has no outputs' leg."""
        network = cls()
        for node, factor in enumerate(x.factors):
            below: list[Leg] = [("bond", child) for child in x.tree.children(node)] or [mode_leg(node)]
            if node != x.tree.root:
                below.append(("bond", node))
            elif x.outputs > 1:
                below.append(OUTPUTS)
            else:
                factor = factor[..., 0]
            network.put(node, factor, below)
        network._next_vertex = network._next_bond = x.tree.n_nodes
        return network

    # -- finding ---------------------------------------------------------------------------------------

    def put(self, vertex: int, array: Array, legs: Sequence[Leg]) -> None:
        """Give a vertex an array and its legs, in place of those it had."""
        self.drop(vertex)
        self.arrays[vertex], self.legs[vertex] = array, list(legs)
        for leg in legs:
            self.ends.setdefault(leg, []).append(vertex)

    def drop(self, vertex: int) -> None:
        """Take a vertex out, if it is there."""
        for leg in self.legs.pop(vertex, []):
            self.ends[leg].remove(vertex)
        self.arrays.pop(vertex, None)

    def holders(self, leg: Leg) -> list[int]:
        """The vertices that hold a leg: two for a bond."""
        return self.ends.get(leg, [])

    def neighbours(self, vertex: int) -> list[int]:
        """The vertices at the other ends of the bonds of a vertex."""
        return [other for leg in self.legs[vertex] for other in self.ends[leg] if other != vertex]

    def path(self, start: int, goal: int) -> list[int]:
        """Vertices from `start` to `goal`, both included."""
        came: dict[int, int] = {start: start}
        queue = deque([start])
        while goal not in came:
            vertex = queue.popleft()
            for other in self.neighbours(vertex):
                if other not in came:
                    came[other] = vertex
                    queue.append(other)
        walk = [goal]
        while walk[-1] != start:
            walk.append(came[walk[-1]])
        return walk[::-1]

    # -- changing --------------------------------------------------------------------------------------

    def add(self, array: Array, legs: Sequence[Leg]) -> Leg:
        """A new vertex, whose last axis is a bond of its own, which is returned; the others are `legs`."""
        vertex, bond = self._next_vertex, ("bond", self._next_bond)
        self._next_vertex, self._next_bond = self._next_vertex + 1, self._next_bond + 1
        self.put(vertex, array, [*legs, bond])
        return bond

    def rename(self, names: Mapping[Leg, Leg]) -> None:
        """Give legs other names, all at once."""
        for vertex, legs in list(self.legs.items()):
            self.legs[vertex] = [names.get(leg, leg) for leg in legs]
        self.ends = {names.get(leg, leg): ends for leg, ends in self.ends.items() if ends}

    def arranged(self, vertex: int, legs: Sequence[Leg]) -> Array:
        """The array of a vertex with its axes in the order of `legs`."""
        array, own = self.arrays[vertex], self.legs[vertex]
        axes = tuple(own.index(leg) for leg in legs)
        return array if axes == tuple(range(len(axes))) else backend_of(array).transpose(array, axes)

    def absorb(self, vertex: int, into: int) -> None:
        """Contract a vertex with a neighbour, which takes its place: its legs where the bond was."""
        shared = [leg for leg in self.legs[vertex] if leg in self.legs[into]]
        mine = [leg for leg in self.legs[vertex] if leg not in shared]
        at = self.legs[into].index(shared[0])
        theirs = [leg for leg in self.legs[into] if leg not in shared]
        a, b = self.arranged(vertex, mine + shared), self.arranged(into, theirs + shared)
        B = backend_of(a)
        width = prod(tuple(a.shape[len(mine) :]))
        product = B.matmul(B.reshape(a, (-1, width)), B.reshape(b, (-1, width)).T)
        shape = tuple(a.shape[: len(mine)]) + tuple(b.shape[: len(theirs)])
        self.drop(vertex)
        self.put(into, B.reshape(product, shape), mine + theirs)
        legs = theirs[:at] + mine + theirs[at:]
        self.arrays[into], self.legs[into] = self.arranged(into, legs), legs

    def split(self, vertex: int, legs: Sequence[Leg], centred: bool) -> int:
        """Move some legs of a vertex to a new one, with a bond of the lowest rank between them.

        Exact to rounding error.  The new vertex gets an orthonormal matricization, the old one what is left, so an
        orthogonality centre stays with the old one; `centred` says that there is one here.
        """
        rest = [leg for leg in self.legs[vertex] if leg not in legs]
        array = self.arranged(vertex, [*legs, *rest])
        B = backend_of(array)
        rows = prod(tuple(array.shape[: len(legs)]))
        shape = tuple(array.shape)
        left, right = factorized(B.reshape(array, (rows, -1)), exact=not centred)
        bond: Leg = ("bond", self._next_bond)
        new = self._next_vertex
        self._next_bond, self._next_vertex = self._next_bond + 1, self._next_vertex + 1
        self.put(vertex, B.reshape(right, (right.shape[0], *shape[len(legs) :])), [bond, *rest])
        self.put(new, B.reshape(left, (*shape[: len(legs)], left.shape[1])), [*legs, bond])
        return new

    def move(self, leg: Leg, vertex: int, goal: int, centred: bool) -> None:
        """Carry a leg from `vertex` along the path to `goal`."""
        walk = self.path(vertex, goal)
        if centred:
            # Splits tell what is zero from what is not only where all other vertices are orthonormal.
            self.centre(vertex)
        for here, there in itertools.pairwise(walk):
            (bond,) = (own for own in self.legs[here] if own in self.legs[there])
            stay = [own for own in self.legs[here] if own not in (leg, bond)]
            self.absorb(here, there)
            # With one leg left behind there would be a matrix between two vertices, so it stays with the next one.
            if len(stay) > 1:
                self.split(there, stay, centred)
            if centred:
                self._centre = there

    def centre(self, vertex: int) -> None:
        """Make all matricizations towards `vertex` orthonormal, starting from where they are so already."""
        if self._centre is None or self._centre not in self.arrays:
            order = [vertex]
            came: dict[int, int | None] = {vertex: None}
            for current in order:
                for other in self.neighbours(current):
                    if other not in came:
                        came[other] = current
                        order.append(other)
            steps = [(v, came[v]) for v in reversed(order) if came[v] is not None]
        else:
            walk = self.path(self._centre, vertex)
            steps = list(itertools.pairwise(walk))
        for here, there in steps:
            self._pass_on(here, there)  # type: ignore[arg-type]
        self._centre = vertex

    def _pass_on(self, here: int, there: int) -> None:
        (bond,) = (leg for leg in self.legs[here] if leg in self.legs[there])
        rest = [leg for leg in self.legs[here] if leg != bond]
        array = self.arranged(here, [*rest, bond])
        B = backend_of(array)
        Q, R = orthonormal(B, B.reshape(array, (-1, array.shape[-1])))
        self.arrays[here] = B.reshape(Q, (*array.shape[:-1], Q.shape[1]))
        self.legs[here] = [*rest, bond]
        axis = self.legs[there].index(bond)
        own = self.arranged(there, [bond, *(leg for leg in self.legs[there] if leg != bond)])
        product = B.matmul(R, B.reshape(own, (own.shape[0], -1)))
        product = B.reshape(product, (R.shape[0], *own.shape[1:]))
        self.arrays[there] = B.moveaxis(product, 0, axis)

    def join(self, legs: Sequence[Leg], centred: bool) -> tuple[int, Leg]:
        """Bring legs together on a vertex of their own: that vertex, and its bond to the rest."""
        holders = {leg: self.outer(leg) for leg in legs}
        goal = max(holders.values(), key=lambda vertex: sum(other == vertex for other in holders.values()))
        for leg, vertex in holders.items():
            if leg not in self.legs[goal]:
                # An earlier move may have merged the vertex into another.
                holder = vertex if vertex in self.arrays and leg in self.legs[vertex] else self.outer(leg)
                self.move(leg, holder, goal, centred)
        rest = [leg for leg in self.legs[goal] if leg not in legs]
        if len(rest) == 1 and rest[0][0] == "bond":
            return goal, rest[0]
        if not rest:
            return goal, ("none",)
        if centred:
            self.centre(goal)
        new = self.split(goal, list(legs), centred)
        return new, self.legs[new][-1]

    def mode(self, mode: int) -> Leg:
        """The leg that stands for a mode in `join`: the bond of its leaf, or its own where it has no leaf to itself."""
        own = mode_leg(mode)
        (vertex,) = self.holders(own)
        others = [leg for leg in self.legs[vertex] if leg != own]
        if len(others) != 1 or others[0][0] != "bond":
            return own
        self.units[others[0]] = vertex
        return others[0]

    def outer(self, leg: Leg) -> int:
        """The end of a leg that is not the subtree it stands for: the one joined later, or the only one."""
        inside = self.units.get(leg)
        return next(vertex for vertex in self.holders(leg) if vertex != inside)

    def insert_on(self, bond: Leg) -> int:
        """A vertex with the identity in the middle of a bond."""
        a, b = list(self.holders(bond))
        array = self.arrays[a]
        size = array.shape[self.legs[a].index(bond)]
        new, fresh = self._next_vertex, ("bond", self._next_bond)
        self._next_vertex, self._next_bond = self._next_vertex + 1, self._next_bond + 1
        self.put(b, self.arrays[b], [fresh if leg == bond else leg for leg in self.legs[b]])
        self.put(new, eye(backend_of(array), size, array), [bond, fresh])
        return new

    # -- back ------------------------------------------------------------------------------------------

    def simplify(self, root: int) -> int:
        """Contract vertices that join nothing: vectors, and matrices between bonds.  Returns the root that is left."""
        waiting = list(self.legs)
        while waiting:
            vertex = waiting.pop()
            if vertex not in self.legs or len(self.legs) == 1:
                continue
            legs = self.legs[vertex]
            own = [leg for leg in legs if leg[0] != "bond"]
            if len(legs) == 1 and not own:
                useless = True
            elif vertex == root:
                # A root of one child; with outputs too, they move to the child.
                useless = len([leg for leg in legs if leg != OUTPUTS]) == 1 and mode_legs(own) == 0
            else:
                useless = len(legs) == 2 and not own
            if not useless:
                continue
            into = min(self.neighbours(vertex), key=lambda other: prod(tuple(self.arrays[other].shape)))
            self.absorb(vertex, into)
            waiting.append(into)
            if vertex == root:
                root = into
        return root

    def to_ht(self, root: int) -> HTTensor:
        """The HT tensor whose root is a vertex; children are in the order of its legs.

        Where there are outputs, the root is the vertex that holds them.
        """
        outputs = self.holders(OUTPUTS)
        root = self.simplify(outputs[0] if outputs else root)
        modes = sorted(leg[1] for legs in self.legs.values() for leg in legs if leg[0] == "mode")
        order = len(modes)
        children: list[tuple[int, ...]] = []
        factors: list[Array] = [None] * order
        # Post-order without recursion: trees can be a thousand levels deep.
        number: dict[int, int] = {}
        stack: list[tuple[int, Leg | None, bool]] = [(root, None, False)]
        while stack:
            vertex, above, ready = stack.pop()
            below = [leg for leg in self.legs[vertex] if leg not in (above, OUTPUTS)]
            if not ready:
                stack.append((vertex, above, True))
                stack.extend(
                    (other, leg, False)
                    for leg in below
                    if leg[0] == "bond"
                    for other in self.ends[leg]
                    if other != vertex
                )
                continue
            last = [OUTPUTS] if vertex == root and outputs else [] if above is None else [above]
            array = self.arranged(vertex, below + last)
            B = backend_of(array)
            if not last:
                array = B.reshape(array, (*array.shape, 1))
            if len(below) == 1 and below[0][0] == "mode":
                factors[below[0][1]] = array
                number[vertex] = below[0][1]
                continue
            group = []
            for axis, leg in enumerate(below):
                if leg[0] == "mode":
                    factors[leg[1]] = eye(B, array.shape[axis], array)
                    group.append(leg[1])
                else:
                    (child,) = (other for other in self.ends[leg] if other != vertex)
                    group.append(number[child])
            number[vertex] = order + len(children)
            children.append(tuple(group))
            factors.append(array)
        return renumbered(order, children, factors)


def mode_legs(legs: Sequence[Leg]) -> int:
    """How many of the legs are modes."""
    return sum(leg[0] == "mode" for leg in legs)


def factorized(matrix: Array, exact: bool) -> tuple[Array, Array]:
    """``matrix = L R`` of its numerical rank, L orthonormal; if `exact`, one of the two the identity.

    What is zero may be dropped where all surroundings are orthonormal.  It may not where gradients are recorded: what
    is zero now need not stay so, and its derivative counts.
    """
    B = backend_of(matrix)
    if exact:
        rows, columns = matrix.shape
        return (eye(B, rows, matrix), matrix) if rows <= columns else (matrix, eye(B, columns, matrix))
    U, S, _ = B.svd(matrix, full_matrices=False)
    cut = float(S[0]) * float(B.eps(matrix.dtype)) * max(matrix.shape)
    rank = max(sum(s > cut for s in S.tolist()), 1)
    return U[:, :rank], B.matmul(adjoint(U[:, :rank]), matrix)
