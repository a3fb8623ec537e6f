"""What CP and HT networks share: inputs to plans, plans to outputs, runs, seeds."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from htf._checks import check_dtype, positive
from htf._random import beside
from htf.engine import Layout, Plan, contract
from htf.nn.networks._inputs import check_encoded, check_indices, outputs_of_none
from htf.nn.networks._norms import run_norms
from htf.nn.networks._outputs import sign_and_logarithm
from htf.nn.networks.init import Initializer, TreeInitializer, keeps_near_one, resolve
from htf.tree import DimensionTree

# Outputs at the start are of the size of 1 within this factor, or the user is told.
SMALLEST_START = 0.1

Init = str | Initializer


class TreeNetwork(nn.Module):
    """A ConvAC on a dimension tree, several independent ones at once; use `CPNetwork` or `HTNetwork`.

    Attributes
    ----------
    tree : DimensionTree
    dims : tuple of int
        Dimension of each mode.
    runs : int
        Independent fits held by the module.
    outputs : int
        Outputs of each run.
    """

    tree: DimensionTree
    dims: tuple[int, ...]
    runs: int
    outputs: int
    _layout: Layout
    _channels: int  # "runs" as the engine sees them
    _components_added: tuple[int, int] | None = None  # see `Plan`

    @abstractmethod
    def _leaf_matrices(self, met: bool = False) -> list[Tensor]:
        """Per leaf block, (nodes, dim, engine runs, width); (nodes, dim, runs, width) for a plan that meets."""

    @abstractmethod
    def _inner_matrices(self, met: bool = False) -> list[Tensor | None]:
        """Per inner block, (engine runs, nodes or 1, rows, columns); with `runs` for a plan that meets."""

    @abstractmethod
    def _read_out(self, values: Tensor) -> Tensor:
        """From the engine's (batch, engine runs, columns) to (batch, runs, outputs), where the root has not met."""

    @abstractmethod
    def spread(self, values: Tensor) -> list[Tensor]:
        """One value per run, shaped to multiply each parameter.

        Parameters
        ----------
        values : Tensor
            (runs,).

        Returns
        -------
        list of Tensor
            In the order of `parameters`, each broadcastable to its parameter.
        """

    @property
    @abstractmethod
    def _n_tensors(self) -> int:
        """How many parameters the module has; they are not counted anew at every step."""

    @abstractmethod
    def _norms_by_run(self, tensor: Tensor, p: float) -> Tensor:
        """The p-norms of the runs' parts of a tensor shaped like a parameter, (runs,)."""

    def run_norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of each run's part of tensors shaped like the parameters, as gradients are.

        Parameters
        ----------
        tensors : sequence of Tensor
            In the order of `parameters`.

        Returns
        -------
        Tensor
            (runs,).  Right to rounding wherever the norm itself is a normal number of the dtype, although its square
            may not be: from 1e-38 to 3e38 in float32.
        """
        return run_norms(tensors, self._n_tensors, self._norms_by_run, self.spread)

    @abstractmethod
    def rescale_(self, factors: Tensor) -> None:
        """Multiply the outputs of each run by a positive factor, (runs,), or each output, (runs, outputs), in place."""

    @abstractmethod
    def n_parameters(self, run: int = 0) -> int:
        """Number of entries of one run's matrices."""

    @property
    def order(self) -> int:
        """Number of modes."""
        return self.tree.order

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def plan(self, indices: Tensor) -> Plan:
        """Decide once how to compute the outputs on a batch of discrete inputs.

        Parameters
        ----------
        indices : Tensor
            (batch, order) integers, ``0 <= indices[:, i] < dims[i]``.

        Returns
        -------
        Plan
            Pass it in place of the indices, to this network or to any of the same tree, dimensions and pattern of
            equal widths.  ``print(plan)`` shows its steps, multiplications and peak memory.

        Raises
        ------
        IndexError, TypeError, ValueError
            Where indices are out of range, not integers, or not of shape (batch, order).
        """
        indices = check_indices(indices, self.dims)
        if not len(indices):
            raise ValueError("indices has no samples to plan for")
        if indices.device != self.device:
            raise ValueError(f"indices is on {indices.device}; the network is on {self.device}")
        return Plan(self._layout, indices, runs=self._channels, dtype=self.dtype, components=self._components_added)

    def forward(self, inputs: Tensor | Plan) -> Tensor:
        """Outputs of every run.

        Parameters
        ----------
        inputs : Tensor or Plan
            Integer indices (batch, order), encoded vectors (batch, order, dim) of the network's dtype, or the plan of
            a batch of indices.  Where dimensions differ, encoded vectors have the largest, and a mode reads its
            first entries.

        Returns
        -------
        Tensor
            (batch, runs), or (batch, runs, outputs) if the network has several outputs.

        Raises
        ------
        IndexError, TypeError, ValueError
            Where inputs do not fit the network, or encoded vectors are not finite.

        Notes
        -----
        With encoded vectors the network can be exported (`torch.export`, any batch), compiled, and differentiated
        sample by sample (`torch.func.vmap`); whether they are finite is then not checked.  What is computed for indices
        depends on their values, which cannot be traced: a ValueError says so.
        """
        if isinstance(inputs, Tensor) and inputs.shape[:1] == (0,):
            shape = (self.runs,) if self.outputs == 1 else (self.runs, self.outputs)
            return outputs_of_none(inputs, self.dims, shape, self.parameters())
        plan, leaves = self._read(inputs)
        values = contract(plan, leaves, self._inner_matrices(plan.meets))
        if not plan.meets:
            values = self._read_out(values)
        if self._as_drawn is not None and not isinstance(inputs, Plan) and inputs.ndim == 3:
            self._look_at_start(values)
        return values.squeeze(-1) if self.outputs == 1 else values

    def _read(self, inputs: Tensor | Plan) -> tuple[Plan, list[Tensor]]:
        """Check inputs; a plan for them, and what it reads of the leaves."""
        if isinstance(inputs, Plan):
            if not inputs.serves(self._layout):
                raise ValueError("inputs is a plan of a network with another tree, dimensions or pattern of widths")
            if inputs.device != self.device:
                raise ValueError(f"inputs is a plan on {inputs.device}; the network is on {self.device}")
            plan, leaves = inputs, self._leaf_matrices(inputs.meets)
        elif not isinstance(inputs, Tensor):
            raise TypeError(f"inputs is a {type(inputs).__name__}; expected a Tensor, or a Plan made by this network")
        elif inputs.ndim == 3 or inputs.dtype.is_floating_point:
            vectors = check_encoded(inputs, self.dims, self.dtype)
            plan, leaves = self._encoded_plan(), self._apply_leaves(vectors)
        else:
            plan = self.plan(inputs)
            leaves = self._leaf_matrices(plan.meets)
        return plan, leaves

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
        plan, leaves = self._read(inputs)
        sign, log = sign_and_logarithm(self, plan, leaves, self._inner_matrices(plan.meets))
        return (sign.squeeze(-1), log.squeeze(-1)) if self.outputs == 1 else (sign, log)

    def _common_exponents(self, value: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor | None]:
        """Exponents of the runs, (batch, runs), and what is left of those of the engine's runs, if they are others."""
        return exponent, None

    _as_drawn: list[int] | None = None  # versions of the parameters at the start, until vectors are read
    _near_one: bool = False  # whether the start promises outputs near 1

    def _remember_start(self, init: Init | Sequence[Init]) -> None:
        self._as_drawn = [parameter._version for parameter in self.parameters()]
        self._near_one = all(keeps_near_one(each) for each in initializers(init, self.runs))

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
                stacklevel=5,
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

    def _check_run(self, run: int) -> int:
        if not 0 <= run < self.runs:
            raise IndexError(f"run is {run}; the network has runs 0 to {self.runs - 1}")
        return run


def per_run(name: str, value: object, runs: int | None) -> tuple[list[object], int]:
    """Spread an argument that is one value, or a sequence with one value per run."""
    runs = None if runs is None else positive("runs", runs)
    if isinstance(value, Iterable) and not isinstance(value, Mapping | str):
        values = list(value)
        if not values:
            raise ValueError(f"{name} is empty; expected at least one value")
        if runs is not None and runs != len(values):
            raise ValueError(f"{name} has {len(values)} values, one per run; runs is {runs}")
        return values, len(values)
    runs = 1 if runs is None else runs
    return [value] * runs, runs


def parameter_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of parameters: torch's default for None."""
    check_dtype(dtype)
    return torch.get_default_dtype() if dtype is None else dtype


def initializers(init: Any, runs: int) -> list[Any]:
    """One initializer, or name of one, per run."""
    if isinstance(init, Sequence) and not isinstance(init, str):
        if len(init) != runs:
            raise ValueError(f"init has {len(init)} values; the network has {runs} runs")
        return list(init)
    return [init] * runs


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
