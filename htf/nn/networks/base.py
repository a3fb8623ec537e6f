"""The one interface of all factorizations: runs, plans, outputs, end tensors and components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from htf._checks import positive
from htf._random import Seed, generators
from htf.engine import Layout
from htf.nn.networks._norms import leading_norms, run_norms
from htf.nn.networks._starts import initializers
from htf.nn.networks.components import ComponentGroup, ComponentRates
from htf.nn.networks.inputs import check_encoded, check_indices, outputs_of_none
from htf.tree import DimensionTree


class Factorization(nn.Module, ABC):
    r"""A factorization of tensors, several independent ones at once: the base of all of them.

    `CPNetwork`, `HTNetwork` and `MatrixFactorization` are its subclasses.  Whatever else is one can be trained with
    `htf.training.fit` and every objective, recorded by the trackers of `htf.dynamics`, and stepped by optimizers that
    treat runs by themselves.

    Parameters
    ----------
    dims : sequence of int
        Dimension of each mode.
    runs : int, optional
        Independent fits held by the module; None stands for one, and no axis of runs where there are several outputs.
    outputs : int
        Outputs of each run.

    Attributes
    ----------
    dims : tuple of int
    runs, outputs : int
    runs_axis : bool
        Whether outputs are (batch, runs), or (batch, runs, outputs) if there are several; otherwise they are (batch,
        outputs), as `torch.nn.functional.cross_entropy` takes them.
    tree : DimensionTree or None
        Tree of a factorization on one; None for others.
    has_end_matrices : bool
        Whether the tensors are matrices with `singular_values` and an `end_gradient`, by which trackers measure them.
    component_kinds : tuple of str
        Trackers that can record the components, by name: some of "singular_values", "component_norms" and
        "local_component_norms"; the one that describes the factorization best comes first.
    plan_type : type
        Type of what `plan` returns.

    Raises
    ------
    TypeError
        From a subclass that lacks one of the methods that it has to provide.
    ValueError
        If a dimension, `runs` or `outputs` is below 1.

    See Also
    --------
    htf.nn.CPNetwork, htf.nn.HTNetwork, htf.nn.MatrixFactorization : those that there are.
    htf.training.fit : trains them.

    Notes
    -----
    A subclass calls this constructor, then registers its parameters, then calls `reset_parameters`.  It has to provide

    - `entries` and `forms`, the outputs of all runs on indices and on vectors, which `forward` hands over;
    - `start_run`, which draws the start of one run;
    - `to_tensor`, the end tensor of one run, and `rescale_`, which multiplies it.

    Where the first axis of every parameter is the runs, that is enough.  With another layout it also overrides
    `parameters_for`, `spread` and `norms_by_run`.

    It may provide `component_kinds` with `component_groups` and `component_rates`; `unbalancedness`; `structure`, if
    the shapes of its parameters do not tell all of it; a `plan` of its own type, with `plan_type` and `check_plan`; and
    for factorizations of matrices `has_end_matrices`, `singular_values` and `end_gradient`.  Trackers and regularizers
    that need one of these refuse a factorization without it, in a TypeError that says so.

    Examples
    --------
    >>> import torch, htf
    >>> from torch import nn
    >>> class Diagonal(htf.nn.Factorization):
    ...     '''A matrix that is zero off its diagonal.'''
    ...
    ...     def __init__(self, dim, *, runs=1, seed=None):
    ...         super().__init__((dim, dim), runs=runs)
    ...         self.diagonal = nn.Parameter(torch.empty(runs, dim))
    ...         self.reset_parameters(seed=seed)
    ...
    ...     def start_run(self, run, init, generator):
    ...         self.diagonal[run].normal_(generator=generator)
    ...
    ...     def entries(self, plan):
    ...         return (self.diagonal[:, plan[:, 0]] * (plan[:, 0] == plan[:, 1])).T
    ...
    ...     def forms(self, vectors):
    ...         return (vectors[:, 0] * vectors[:, 1]) @ self.diagonal.T
    ...
    ...     def to_tensor(self, run=0):
    ...         return self.diagonal[self.check_run(run)].diag()
    ...
    ...     def rescale_(self, factors):
    ...         self.diagonal.data.mul_(factors.unsqueeze(1))
    >>> entries = torch.tensor([[0, 0], [1, 1], [2, 1]]), torch.tensor([0.5, -1.0, 0.0])
    >>> history = htf.training.fit(Diagonal(4, runs=2, seed=0), entries, lr=0.1, steps=200)
    >>> bool((history.loss[-1] < 1e-2).all())
    True
    """

    dims: tuple[int, ...]
    runs: int
    outputs: int
    runs_axis: bool = True
    tree: DimensionTree | None = None
    has_end_matrices: bool = False
    component_kinds: ClassVar[tuple[str, ...]] = ()
    plan_type: ClassVar[type[Any]] = Tensor

    def __init__(self, dims: Sequence[int], *, runs: int | None = None, outputs: int = 1) -> None:
        super().__init__()
        if not isinstance(dims, Iterable):
            raise TypeError(f"dims is {dims!r}; expected the dimension of each mode")
        self.dims = tuple(positive(f"dims[{mode}]", dim) for mode, dim in enumerate(dims))
        self.runs, self.outputs = 1 if runs is None else positive("runs", runs), positive("outputs", outputs)
        # A single output of a single run is (batch, 1) either way.
        self.runs_axis = runs is not None or self.outputs == 1
        self._shape = (self.runs,) if self.outputs == 1 else (self.runs, self.outputs)  # outputs of a sample

    # -- what every subclass provides ---------------------------------------------------------------------

    @abstractmethod
    def entries(self, plan: Any) -> Tensor:
        """Entries of the tensors of all runs; `forward` of indices.

        Parameters
        ----------
        plan
            Made by `plan`: the checked indices, (batch, order) int64, unless a subclass makes plans of its own.

        Returns
        -------
        Tensor
            (batch, runs), or (batch, runs, outputs) if there are several outputs.
        """

    @abstractmethod
    def forms(self, vectors: Tensor) -> Tensor:
        """The tensors of all runs contracted with a vector in every mode; `forward` of encoded vectors.

        Parameters
        ----------
        vectors : Tensor
            (batch, order, largest dimension), checked.  A mode of a smaller dimension reads the first entries.

        Returns
        -------
        Tensor
            (batch, runs), or (batch, runs, outputs) if there are several outputs.
        """

    @abstractmethod
    def start_run(self, run: int, init: Any, generator: Generator | None) -> None:
        """Draw the start of one run and write it to the parameters; called without gradients.

        Parameters
        ----------
        run : int
        init
            The argument of `reset_parameters`, or the run's own if it is a sequence.
        generator : torch.Generator or None
            The run's own, on any device; None for torch's global one.
        """

    @abstractmethod
    def to_tensor(self, run: int = 0) -> Any:
        """The end tensor of one run, dense or in a format of TensorLy; gradients flow."""

    @abstractmethod
    def rescale_(self, factors: Tensor) -> None:
        """Multiply the outputs of each run by a positive factor, (runs,), or each output, (runs, outputs), in place."""

    # -- parameters, by run -------------------------------------------------------------------------------

    def parameters_for(self, run: int) -> dict[int, Tensor]:
        """The parameters of one run, by number: views without the axis of runs, which is the first."""
        self.check_run(run)
        return {number: parameter[run] for number, parameter in enumerate(self.parameters())}

    def n_parameters(self, run: int = 0) -> int:
        """Number of entries of the parameters of one run."""
        return sum(own.numel() for own in self.parameters_for(run).values())

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
        return [values.view(shape) for shape in self._shapes_of_runs]

    def norms_by_run(self, tensor: Tensor, p: float) -> Tensor:
        """The p-norms, p being 2 or infinity, of the runs' parts of a tensor shaped like a parameter, (runs,)."""
        if len(tensor) != self.runs:
            raise self._not_by_run(tensor)
        return leading_norms(tensor, p)

    @cached_property
    def _shapes_of_runs(self) -> list[tuple[int, ...]]:
        """Per parameter, the shape of one value per run that multiplies it; not made anew at every step."""
        for parameter in self.parameters():
            if parameter.shape[:1] != (self.runs,):
                raise self._not_by_run(parameter)
        return [(-1, *[1] * (parameter.ndim - 1)) for parameter in self.parameters()]

    @cached_property
    def _n_tensors(self) -> int:
        """Number of parameters as tensors; not counted anew at every step."""
        return len(list(self.parameters()))

    def _not_by_run(self, parameter: Tensor) -> ValueError:
        return ValueError(
            f"a parameter has shape {tuple(parameter.shape)}; expected the {self.runs} runs as its first axis, or "
            f"parameters_for, spread and norms_by_run of {type(self).__name__}'s own"
        )

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
        return run_norms(tensors, self._n_tensors, self.norms_by_run, self.spread)

    @torch.no_grad()
    def reset_parameters(self, init: Any = "gaussian", seed: Seed = None) -> None:
        """Start again; arguments as in the constructor."""
        starts = zip(initializers(init, self.runs), generators(seed, self.runs), strict=True)
        for run, (start, generator) in enumerate(starts):
            self.start_run(run, start, generator)

    @property
    def order(self) -> int:
        """Number of modes."""
        return len(self.dims)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def n_factors(self) -> int:
        """Number of matrices that an output is a product of, among which a relative step is divided."""
        return len(self.parameters_for(0))

    def check_run(self, run: int) -> int:
        """The number of a run, or an IndexError."""
        if not 0 <= run < self.runs:
            raise IndexError(f"run is {run}; the network has runs 0 to {self.runs - 1}")
        return run

    def structure(self) -> dict[str, Any]:
        """Settings that the shapes of the parameters do not tell, as JSON can hold them; a checkpoint has to agree."""
        return {}

    # -- outputs ------------------------------------------------------------------------------------------

    def plan(self, indices: Tensor) -> Any:
        """Check a batch of discrete inputs, and decide once how to compute the outputs on it.

        Parameters
        ----------
        indices : Tensor
            (batch, order) integers, ``0 <= indices[:, i] < dims[i]``.

        Returns
        -------
        Tensor or plan
            Pass it in place of the indices, to this network or to any of the same shapes.

        Raises
        ------
        IndexError, TypeError, ValueError
            Where indices are out of range, not integers, or not of shape (batch, order); for a batch without samples,
            or on another device.
        """
        return self._checked_indices(indices).long()

    def _checked_indices(self, indices: Tensor) -> Tensor:
        """Indices to plan for, of whatever integer type, or an error."""
        indices = check_indices(indices, self.dims)
        if not len(indices):
            raise ValueError("indices has no samples to plan for")
        if indices.device != self.device:
            raise ValueError(f"indices is on {indices.device}; the network is on {self.device}")
        return indices

    def check_plan(self, plan: Any) -> None:
        """Raise a ValueError for a plan, of `plan_type`, that was made for a network of other shapes."""

    def forward(self, inputs: Any) -> Tensor:
        """Outputs of every run.

        Parameters
        ----------
        inputs : Tensor or plan
            Integer indices (batch, order), encoded vectors (batch, order, dim) of the network's dtype, or the plan of
            a batch of indices.  Where dimensions differ, encoded vectors have the largest, and a mode reads its
            first entries.

        Returns
        -------
        Tensor
            (batch, runs), or (batch, runs, outputs) if the network has several outputs; (batch, outputs) where no runs
            were asked for, neither by `runs` nor by a sequence of widths or ranks.

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
            return self._without_runs(outputs_of_none(inputs, self.dims, self._shape, self.parameters()))
        encoded, checked = self._checked(inputs)
        outputs = self.forms(checked) if encoded else self.entries(checked)
        if outputs.shape[1:] != self._shape:
            # Losses would broadcast them to something else.
            raise ValueError(
                f"{type(self).__name__} gave outputs of shape {tuple(outputs.shape)}; expected (batch, "
                f"{', '.join(map(str, self._shape))}), the runs last but for several outputs"
            )
        return self._without_runs(outputs)

    def _without_runs(self, outputs: Tensor) -> Tensor:
        """Outputs of all runs, without the axis of runs where none were asked for."""
        return outputs if self.runs_axis else outputs.squeeze(1)

    def _checked(self, inputs: Any) -> tuple[bool, Any]:
        """Whether inputs are encoded vectors; these, or a plan of discrete ones, once they are found to fit."""
        if isinstance(inputs, Tensor):
            if inputs.ndim == 3 or inputs.dtype.is_floating_point:
                return True, check_encoded(inputs, self.dims, self.dtype)
            return False, self.plan(inputs)
        if not isinstance(inputs, self.plan_type):
            raise TypeError(f"inputs is a {type(inputs).__name__}; expected a Tensor or a plan of this network")
        self.check_plan(inputs)
        if inputs.device != self.device:
            raise ValueError(f"inputs is a plan on {inputs.device}; the network is on {self.device}")
        return False, inputs

    # -- components and end tensors, where a subclass has them --------------------------------------------

    def component_groups(self) -> dict[str, ComponentGroup]:
        """The components of each run, in groups by name.

        Raises
        ------
        TypeError, ValueError
            If the factorization has no components whose rates are known.
        """
        raise self._lacks("components whose rates are known")

    def component_rates(self, end_gradient: Tensor | None = None) -> dict[str, ComponentRates]:
        """Sizes of the components of all groups, and how fast gradient flow changes them.

        `htf.dynamics.component_rates` says more, and calls it without gradients.

        Parameters
        ----------
        end_gradient : Tensor, optional
            (runs, d, d'), where there are end matrices: what `end_gradient` returned.

        Raises
        ------
        TypeError, ValueError
            As `component_groups`; for parameters without gradients.
        """
        raise self._lacks("components whose rates are known")

    def unbalancedness(self, run: int = 0) -> Tensor:
        """Distance of the parameters of one run from balance, a scalar tensor; gradients flow.

        Raises
        ------
        TypeError
            If no balance is defined for the factorization.
        """
        raise self._lacks("unbalancedness")

    def singular_values(self) -> Tensor:
        """Singular values of the end matrices of all runs, (runs, k), falling; without gradients.

        Raises
        ------
        TypeError
            If there are no end matrices.
        """
        raise self._lacks("end matrices")

    def end_gradient(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Gradient of a loss with respect to the end matrices, (runs, d, d'), as if they were free parameters.

        Raises
        ------
        TypeError
            If there are no end matrices.
        """
        raise self._lacks("end matrices")

    def node_matrices(self, run: int = 0, tree: DimensionTree | None = None) -> dict[int, Tensor]:
        """The matrices of one run, by node of a tree, as of an `HTNetwork`; gradients flow.

        Parameters
        ----------
        run : int
        tree : DimensionTree, optional
            The network's own by default.

        Raises
        ------
        TypeError
            If the factorization is on no tree.
        ValueError
            If it is not on this one.
        """
        raise self._lacks("tree")

    def stacked_matrices(self) -> tuple[Layout, list[Tensor]] | None:
        """The matrices of all runs, per block of a layout (runs, nodes or 1, rows, columns); None if not so stored."""
        return None

    def _lacks(self, what: str) -> TypeError:
        return TypeError(f"the network is a {type(self).__name__}, which has no {what}")
