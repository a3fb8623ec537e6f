"""The interface of objectives: batches, the losses of one, and what is measured after an epoch."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from htf._checks import positive
from htf._modes import evaluated
from htf.training._callables import describe_callable
from htf.training._processes import Alone
from htf.training._seeds import order_of_epoch, seed_of_step
from htf.training.digests import digest


class Found(NamedTuple):
    """Losses that an objective finds on one batch.

    Attributes
    ----------
    losses : Tensor
        (runs,), or a scalar for a model of one run; differentiable.
    samples : int
        The weight of the batch in the mean loss of an epoch.
    batch : (Tensor, Tensor, Tensor) or None
        Inputs, targets and outputs, for a regularizer.
    counts : mapping of Tensor
        Scalars to be added over the epoch and divided by its samples, such as the number of right answers.

    See Also
    --------
    htf.training.objectives.Objective : its method ``find`` returns it.

    Examples
    --------
    >>> import torch
    >>> from htf.training import Training, objectives
    >>> class Columns(objectives.Objective):
    ...     '''Autoencoding of the rows of a matrix, a column of it left out at each step.'''
    ...
    ...     def __init__(self, x):
    ...         self.x, self.batches = x, x.shape[1]
    ...
    ...     def find(self, model, epoch, batch):
    ...         given = self.x.index_fill(1, torch.tensor([batch]), 0.0)
    ...         return objectives.Found((model(given) - self.x)[:, batch].square().mean(), samples=len(self.x))
    ...
    ...     def describe(self):
    ...         return {"rows": len(self.x)}
    >>> x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 4)
    >>> history = Training(torch.nn.Linear(4, 4), Columns(x), lr=0.05).run(epochs=20)
    >>> bool(history.loss[-1] < 0.1 * history.loss[0])
    True
    """

    losses: Tensor
    samples: int = 1
    batch: tuple[Tensor, Tensor, Tensor] | None = None
    counts: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """Where and how a model is trained.

    Attributes
    ----------
    device : torch.device
    dtype : torch.dtype
        Of the model's first trainable parameter.
    seed : int
    processes : Alone or Several
        Those that share every batch.
    differentiate_inputs : bool
        Whether a regularizer differentiates at all inputs of a batch, which then are to require gradients.

    See Also
    --------
    htf.training.objectives.Objective : its method ``prepare`` is given it.

    Examples
    --------
    >>> import torch
    >>> from htf.training import Training, objectives
    >>> x = torch.arange(8, dtype=torch.float64)[:, None]
    >>> objective = objectives.regression((x, 2 * x))
    >>> training = Training(torch.nn.Linear(1, 1, dtype=torch.float64), objective, seed=3)
    >>> objective.place.dtype, objective.place.device, objective.place.seed  # of the model and the training
    (torch.float64, device(type='cpu'), 3)
    """

    device: torch.device
    dtype: torch.dtype
    seed: int
    processes: Alone
    differentiate_inputs: bool = False


class Objective(ABC):
    """Base of objectives, which a training minimizes.

    Attributes
    ----------
    batches : int
        Steps of an epoch.
    place : Place
        Once it is prepared.
    judge : str
        The measured quantity, as "validation/accuracy", by which the best epoch is chosen; "" for none.

    See Also
    --------
    htf.training.objectives.function : from a function, in ten lines.
    htf.training.objectives.entries, htf.training.objectives.classification, htf.training.objectives.regression : some.
    htf.training.Training : minimizes it.

    Examples
    --------
    >>> import torch
    >>> from htf.training import Training, objectives
    >>> class AbsoluteErrors(objectives.Objective):
    ...     '''Least absolute errors of a regression, which outliers hardly change.'''
    ...
    ...     judge = "validation/error"
    ...
    ...     def __init__(self, train, validation):
    ...         self.train, self.validation = train, validation
    ...
    ...     def find(self, model, epoch, batch):
    ...         return objectives.Found((model(self.train[0]) - self.train[1]).abs().mean())
    ...
    ...     def measure(self, model, epoch):
    ...         return {"validation/error": (model(self.validation[0]) - self.validation[1]).abs().median()}
    ...
    ...     def describe(self):
    ...         return {"samples": len(self.train[0])}
    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x.sum(1, keepdim=True)
    >>> y[::10] += 100  # outliers
    >>> objective = AbsoluteErrors((x[:40], y[:40]), (x[40:], y[40:]))
    >>> history = Training(torch.nn.Linear(3, 1), objective, optimizer="adam", lr=0.1).run(epochs=100)
    >>> bool(history["validation"]["error"][-1] < 0.2)
    True
    """

    batches: int = 1
    judge: str = ""
    place: Place

    def prepare(self, model: nn.Module, place: Place) -> None:
        """Bring data to where the model is, and check that they fit it; called once, before anything else.

        Raises
        ------
        ValueError, TypeError
            If they do not.
        """
        self.place = place

    @abstractmethod
    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        """The losses on a batch, by number; the same for the same epoch and batch."""

    def replayable(self, epoch: int, batch: int) -> Hashable:
        """A name of the batch if `find` reads the same memory and does the same whenever it comes; None otherwise.

        Steps on such batches are replayed on a GPU, as CUDA graphs.
        """
        return None

    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        """Quantities after an epoch, such as "validation/accuracy", each (runs,) or a scalar."""
        return {}

    def advise(self, attempt: Callable[[Found, bool], None], model: nn.Module, at: tuple[int, int], reg: bool) -> str:
        """Advice where a batch did not fit into the memory.

        Parameters
        ----------
        attempt : callable
            Differentiates the losses on a batch, with the regularizer or without, and may fail again.
        model : nn.Module
        at : (int, int)
            Epoch and batch.
        reg : bool
            Whether there is a regularizer.
        """
        return f"batch {at[1]} did not fit into the memory"

    def describe(self) -> dict[str, Any]:
        """Settings that determine the losses, with a digest of the data, as JSON can hold them."""
        return {"objective": type(self).__name__}


Function = Callable[[nn.Module, Generator], Tensor]


class FunctionObjective(Objective):
    """A function of model and generator; made by `function`."""

    def __init__(self, of: Function, *, data: object = (), batches: int = 1) -> None:
        if not callable(of):
            raise TypeError(f"objective is a {type(of).__name__}; expected one of objectives, or a callable")
        self.function, self.batches = of, positive("batches", batches)
        self._data = digest(data)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        generator = Generator().manual_seed(seed_of_step(self.place.seed, epoch * self.batches + batch))
        losses = self.function(model, generator)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"objective returned a {type(losses).__name__}; expected a tensor: a scalar, or a loss for each run"
            )
        return Found(losses)

    def describe(self) -> dict[str, Any]:
        return {"objective": describe_callable(self.function), "batches": self.batches, "data_sha256": self._data}


def function(of: Function, *, data: object = (), batches: int = 1) -> Objective:
    """An objective from a function of one's own.

    Parameters
    ----------
    of : callable
        From the model and a CPU generator, which is seeded anew for each step, to the loss: a scalar, or (runs,) for a
        factorization of several runs.  What it draws from the generator, such as the samples of a batch, is the same
        when a training goes on.
    data : Tensor, sequence or dataclass of them, optional
        What the function reads, for the digest by which a checkpoint of other data is refused.  Of the function itself
        its name is known, with the numbers, strings and arrays of its closure, defaults or partial arguments.
    batches : int
        Steps of an epoch.

    Returns
    -------
    Objective

    Raises
    ------
    TypeError, ValueError
        If `of` cannot be called, or `batches` is no integer of at least 1; in training, for what is not a tensor of
        such a shape.

    See Also
    --------
    htf.training.objectives.Objective : with quantities of its own, measured after each epoch.
    htf.training.Training : minimizes it.

    Examples
    --------
    >>> import torch, htf
    >>> from htf.training import Training, objectives
    >>> x = torch.randint(0, 2, (64, 8), generator=torch.Generator().manual_seed(0))
    >>> y = x.sum(1).float()
    >>> def ranking(model, generator):
    ...     i, j = torch.randint(len(x), (2, 32), generator=generator)
    ...     margin = (model(x[i]) - model(x[j])).squeeze(1) * (y[i] - y[j]).sign()
    ...     return torch.nn.functional.softplus(-margin).mean()
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), 2, 4, seed=0)
    >>> objective = objectives.function(ranking, data=(x, y), batches=4)
    >>> history = Training(net, objective, optimizer="adamw", lr=0.02, schedule="one_cycle").run(epochs=10)
    >>> bool(history.loss[-1] < history.loss[0])
    True
    """
    return FunctionObjective(of, data=data, batches=batches)


def as_objective(given: Objective | Function) -> Objective:
    """An objective as it is, or one made of a function."""
    return given if isinstance(given, Objective) else FunctionObjective(given)


def input_dtype(model: nn.Module, place: Place) -> torch.dtype:
    """Dtype to which inputs that are floats are brought: the model's, unless it says which it takes."""
    given: torch.dtype = getattr(model, "input_dtype", place.dtype)
    return given


@torch.no_grad()
def first_outputs(model: nn.Module, inputs: Tensor, name: str) -> Any:
    """Outputs of a model in evaluation mode on some of its inputs, before it is trained on all of them.

    Raises
    ------
    TypeError, ValueError
        If PyTorch refuses the inputs; the message says whose they are.
    """
    try:
        with evaluated(model):
            return model(inputs)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # out of memory, or not implemented
            raise
        kind = TypeError if re.search("dtype|scalar type", str(error)) else ValueError
        raise kind(
            f"model does not take inputs of shape {tuple(inputs.shape)} and dtype {inputs.dtype}, as {name} has them: "
            f"{error}"
        ) from error


class Order:
    """The batches of an epoch: all samples in an order drawn from seed and epoch, in even batches.

    Parameters
    ----------
    samples, batches, seed : int
    processes : Alone or Several
        Each takes an equal share of every batch.
    """

    def __init__(self, samples: int, batches: int, seed: int, processes: Alone) -> None:
        self.samples, self.batches, self.seed, self.processes = samples, batches, seed, processes
        self._latest: tuple[int, tuple[Tensor, ...]] = (-1, ())

    def indices(self, epoch: int, batch: int) -> Tensor:
        """Numbers of this process's samples of a batch, on the CPU."""
        if self._latest[0] != epoch:
            order = order_of_epoch(self.samples, self.seed, epoch)
            self._latest = epoch, torch.tensor_split(order, self.batches)
        found = self._latest[1][batch]
        # Equal shares, so that random numbers of all processes' regularizers stay in step.
        share = len(found) // self.processes.world
        return found[self.processes.rank * share :][:share]
