"""Factorizations on a dimension tree, CP and hierarchical: the engine that evaluates them, and their starts."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from htf._random import Seed, beside
from htf.engine import Layout, Plan, contract
from htf.engine.unscaled import contract_unscaled
from htf.nn.networks._starts import initializers
from htf.nn.networks.base import Factorization
from htf.nn.networks.init import Initializer, TreeInitializer, keeps_near_one, resolve
from htf.nn.networks.outputs import sign_and_logarithm
from htf.tree import DimensionTree

# Outputs at the start are of the size of 1 within this factor, or the user is told.
SMALLEST_START = 0.1

Init = str | Initializer


class TreeNetwork(Factorization):
    """A ConvAC on a dimension tree, several independent ones at once; use `CPNetwork` or `HTNetwork`.

    Attributes
    ----------
    tree : DimensionTree
    dims, runs, outputs
        As of every `Factorization`.
    """

    tree: DimensionTree
    plan_type = Plan
    _layout: Layout
    _channels: int  # "runs" as the engine sees them
    _components_added: tuple[int, int] | None = None  # see `Plan`

    @abstractmethod
    def _leaf_matrices(self) -> list[Tensor]:
        """Per leaf block, (nodes, dim, engine runs, width)."""

    @abstractmethod
    def _inner_matrices(self) -> list[Tensor | None]:
        """Per inner block, (engine runs, nodes or 1, rows, columns)."""

    @abstractmethod
    def _read_out(self, values: Tensor) -> Tensor:
        """From the engine's (batch, engine runs, columns) to (batch, runs, outputs)."""

    def _matrices_by_run(self, evened: bool = False) -> tuple[list[Tensor], list[Tensor | None]]:
        """Leaf and inner matrices with `runs` in place of the engine's, for a plan that `meets`: its root adds.

        With `evened`, vectors of components that share a scale are of about one size.
        """
        return self._leaf_matrices(), self._inner_matrices()

    def structure(self) -> dict[str, Any]:
        return {"children": [list(self.tree.children(node)) for node in self.tree.inner_nodes]}

    @property
    def n_factors(self) -> int:
        return self.tree.n_nodes if len(self.tree.inner_nodes) > 1 else self.order

    def reset_parameters(self, init: Init | Sequence[Init] = "scale_preserving", seed: Seed = None) -> None:
        """Start again; arguments as in the constructor."""
        super().reset_parameters(init, seed)
        self._as_drawn = [parameter._version for parameter in self.parameters()]
        self._near_one = all(keeps_near_one(each) for each in initializers(init, self.runs))

    def plan(self, indices: Tensor) -> Plan:
        """Decide once how to compute the outputs on a batch of discrete inputs; see `Factorization.plan`.

        Returns
        -------
        Plan
            Pass it in place of the indices, to this network or to any of the same tree, dimensions and pattern of
            equal widths.  ``print(plan)`` shows its steps, multiplications and peak memory.
        """
        indices = self._checked_indices(indices)
        return Plan(self._layout, indices, runs=self._channels, dtype=self.dtype, components=self._components_added)

    def check_plan(self, plan: Plan) -> None:
        if not plan.serves(self._layout):
            raise ValueError("inputs is a plan of a network with another tree, dimensions or pattern of widths")

    def entries(self, plan: Plan) -> Tensor:
        if plan.meets:
            values = contract_unscaled(plan, *self._matrices_by_run())
            if values is None:
                values = contract(plan, *self._matrices_by_run(evened=True))
        else:
            values = self._read_out(contract(plan, self._leaf_matrices(), self._inner_matrices()))
        return values.squeeze(-1) if self.outputs == 1 else values

    def forms(self, vectors: Tensor) -> Tensor:
        values = self._read_out(contract(self._encoded_plan(), self._apply_leaves(vectors), self._inner_matrices()))
        if self._as_drawn is not None:
            self._look_at_start(values)
        return values.squeeze(-1) if self.outputs == 1 else values

    def log_abs(self, inputs: Tensor | Plan) -> tuple[Tensor, Tensor]:
        """Signs of the outputs and natural logarithms of their sizes, which may be beyond all floats.

        Parameters
        ----------
        inputs : Tensor or Plan
            As for `forward`; at least one sample.

        Returns
        -------
        sign, logarithm : Tensor
            Each of the shape of the outputs.  The sign of zero is 0 and its logarithm -inf, without a gradient;
            gradients flow through the logarithms of others, and are exact.

        Raises
        ------
        IndexError, TypeError, ValueError
            As `forward`.
        """
        encoded, checked = self._checked(inputs)
        if encoded:
            plan, leaves, weights = self._encoded_plan(), self._apply_leaves(checked), self._inner_matrices()
        elif checked.meets:
            plan, (leaves, weights) = checked, self._matrices_by_run(evened=True)
        else:
            plan, leaves, weights = checked, self._leaf_matrices(), self._inner_matrices()
        sign, log = sign_and_logarithm(self, plan, leaves, weights)
        if self.outputs == 1:
            return sign.squeeze(-1), log.squeeze(-1)
        return self._without_runs(sign), self._without_runs(log)

    def _common_exponents(self, value: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor | None]:
        """Exponents of the runs, (batch, runs), and what is left of those of the engine's runs, if they are others."""
        return exponent, None

    _as_drawn: list[int] | None = None  # versions of the parameters at the start, until vectors are read
    _near_one: bool = False  # whether the start promises outputs near 1

    def _look_at_start(self, values: Tensor) -> None:
        """Warn if outputs on the first vectors after a start are not finite, or not of the size that it promises."""
        if torch.compiler.is_compiling():
            return
        try:
            rms = float(values.detach().double().square().mean().sqrt())
        except RuntimeError:  # under a transform such as vmap, or on a device without values
            return
        untouched = self._as_drawn == [parameter._version for parameter in self.parameters()]
        self._as_drawn = None
        fine = SMALLEST_START <= rms <= 1 / SMALLEST_START if self._near_one else math.isfinite(rms)
        if untouched and not fine:
            warnings.warn(
                f"the outputs of this {type(self).__name__} have a root mean square of {rms:.1e} on its first encoded "
                "vectors, which its start does not suit.  One that knows its inputs keeps outputs near 1: "
                "init=htf.nn.init.scale_preserving(inputs=vectors)",
                RuntimeWarning,
                stacklevel=6,
            )

    _for_encoded: Plan | None = None

    def _encoded_plan(self) -> Plan:
        """The plan for encoded vectors, which serves batches of any size."""
        known = self._for_encoded
        if known is None or known.device != self.device or known.dtype != self.dtype:
            known = Plan(self._layout, batch=1, runs=self._channels, dtype=self.dtype, device=self.device)
            if not torch.compiler.is_compiling():  # a traced tensor is no tensor afterwards
                self._for_encoded = known
        return known

    def _apply_leaves(self, vectors: Tensor) -> list[Tensor]:
        blocks = [block for block in self._layout.blocks if block.level == 0]
        applied = []
        for block, matrices in zip(blocks, self._leaf_matrices(), strict=True):
            nodes = (
                list(block.nodes)
                if vectors.device.type == "cpu"
                else beside(torch.tensor(block.nodes, device="cpu"), vectors)
            )
            x = vectors[:, nodes, : block.rows].transpose(0, 1)
            applied.append(torch.matmul(x, matrices.flatten(2)).unflatten(2, matrices.shape[2:]))
        return applied


def draw(
    init: Init, layout: Layout, generator: Generator | None, shared: bool = False
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Starting matrices of one run: (nodes, matrices) per block of its own layout."""
    initializer: Any = resolve(init)
    blocks = [block for block in layout.blocks if not (layout.root_adds and block.level)]
    joint = initializer.tree(layout, generator, shared) if isinstance(initializer, TreeInitializer) else None
    if joint is not None and len(joint) != len(blocks):
        raise ValueError(f"init returned {len(joint)} blocks of matrices; expected {len(blocks)}")
    for number, block in enumerate(blocks):
        matrices = initializer(layout, block, generator) if joint is None else joint[number]
        expected = (len(block.nodes), block.rows, block.columns)
        if tuple(matrices.shape) != expected:
            raise ValueError(f"init returned shape {tuple(matrices.shape)}; expected {expected}")
        yield block.nodes, matrices
