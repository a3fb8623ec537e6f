"""The plan of a computation on given inputs: which distinct rows every node computes, and where it finds them.

A plan is made once per batch of a data set (`htf.engine.build`) and serves every step on it, for every network with the
same tree, dimensions and pattern of equal widths.  `htf.engine.cost` counts and prints its cost.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from htf.engine import cost
from htf.engine.build import Builder
from htf.engine.layout import Layout
from htf.engine.steps import FACTORS_IN_RANGE, Gather, Outer, Pairs, Step


class Plan:
    """The computation of a network's outputs on one batch of inputs, decided before anything runs.

    Parameters
    ----------
    layout : Layout
        Shapes of the network's matrices.
    indices : Tensor, optional
        (batch, order) integers, the discrete inputs.  Without them the plan is for encoded vectors and
        nothing is shared.
    batch : int, optional
        Samples of an encoded batch.
    runs : int
        Independent fits, for the printed costs.
    dtype : torch.dtype
        The network's, for the printed costs.
    device : torch.device, optional
        Device of an encoded batch.
    components : (int, int), optional
        Where each of `runs` is a component that is added to others after the engine, as in CP: how many fits the
        components belong to, and the most of one fit.  In a plan that `meets` the root adds them.

    Attributes
    ----------
    steps : tuple of Step
        From the leaves to the root.
    discrete : bool
        Whether the inputs are indices.

    See Also
    --------
    htf.engine.contract : computes it.
    htf.nn.HTNetwork : its method ``plan`` makes one.

    Notes
    -----
    Print a plan to see its steps, multiplications and peak memory.  O(batch N) integer operations to make for indices,
    O(N) for encoded vectors: these steps serve a batch of any size.

    Examples
    --------
    >>> import torch, htf
    >>> layout = htf.engine.Layout.build(htf.DimensionTree.balanced(4), dims=3, width=2)
    >>> x = torch.randint(0, 3, (1000, 4), generator=torch.Generator().manual_seed(0))
    >>> plan = htf.engine.Plan(layout, x)
    >>> plan.multiplications, htf.engine.Plan(layout, batch=1000).multiplications  # rows shared by samples, and not
    (288, 40000)
    """

    def __init__(
        self,
        layout: Layout,
        indices: Tensor | None = None,
        *,
        batch: int | None = None,
        runs: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        components: tuple[int, int] | None = None,
    ) -> None:
        if indices is not None:
            batch, device = indices.shape[0], indices.device
        elif batch is None:
            raise ValueError("neither indices nor batch is given; a plan needs one of them")
        self.layout, self.batch, self.runs, self.dtype = layout, batch, runs, dtype
        self.device = torch.device("cpu") if device is None else device
        self.components = (runs, layout.widths[-1]) if components is None else components
        self.discrete = indices is not None
        self.steps = Builder(self, indices).build()

    @classmethod
    def of_steps(
        cls,
        layout: Layout,
        steps: tuple[Step, ...],
        batch: int,
        runs: int,
        dtype: torch.dtype,
        device: torch.device,
        components: tuple[int, int],
    ) -> Plan:
        """A plan for indices whose steps are known, as from a file."""
        plan = cls.__new__(cls)
        plan.layout, plan.batch, plan.runs, plan.dtype = layout, batch, runs, dtype
        plan.device, plan.components, plan.discrete, plan.steps = device, components, True, steps
        return plan

    def serves(self, layout: Layout) -> bool:
        """Whether a network of this layout can run the plan: same tree, dims and blocks of equal shapes."""
        return self.layout is layout or (
            self.layout.tree == layout.tree
            and self.layout.dims == layout.dims
            and [b.nodes for b in self.layout.blocks] == [b.nodes for b in layout.blocks]
        )

    @property
    def meets(self) -> bool:
        """Whether the root multiplies all pairs of rows of two groups and adds, rather than sample by sample."""
        return isinstance(self.steps[-1].inputs, Pairs)

    @cached_property
    def stepwise(self) -> bool:
        """Whether it `meets`, and every step takes its own rows, of few enough factors to be multiplied at once."""
        *steps, root = (step.inputs for step in self.steps)
        return isinstance(root, Pairs) and all(_takes_its_own(each) for each in (*steps, root.left, root.right))

    @cached_property
    def largest_table(self) -> int:
        """Entries of the largest table of a run, of a plan that `meets`."""
        *steps, root = self.steps
        assert isinstance(root.inputs, Pairs)
        sizes = [max(root.inputs.left.rows, root.inputs.right.rows) * self.components[1]]
        for step in steps:
            block = self.layout.blocks[step.block]
            sizes.append(len(step.nodes) * step.rows * max(block.rows, block.columns))
        return max(sizes)

    @property
    def n_bytes(self) -> int:
        """Memory that the plan itself holds."""
        return sum(step.n_bytes for step in self.steps)

    @property
    def multiplications(self) -> int:
        """Scalar multiplications of one forward pass over all runs."""
        return cost.multiplications(self)

    @property
    def peak_bytes(self) -> int:
        """Memory at the peak of a forward and backward pass: the plan, and all that the pass keeps."""
        return cost.peak_bytes(self)

    def __str__(self) -> str:
        return cost.table(self)

    def __repr__(self) -> str:
        return f"Plan(batch={self.batch}, steps={len(self.steps)}, multiplications={self.multiplications})"

    def __len__(self) -> int:
        return self.batch


def _takes_its_own(inputs: object) -> bool:
    if isinstance(inputs, Gather):
        return inputs.whole is None and len(inputs.index) <= FACTORS_IN_RANGE
    return isinstance(inputs, Outer)
