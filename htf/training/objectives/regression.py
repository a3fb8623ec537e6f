"""Squared errors of samples, in batches drawn anew each epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from htf._checks import positive
from htf._modes import evaluated
from htf.training.digests import digest
from htf.training.objectives.base import Found, Objective, Order, Place, first_outputs, input_dtype
from htf.training.sample_weights import factors

Pair = tuple[Tensor, Tensor]


class Regression(Objective):
    """The mean squared error; made by `regression`.

    Attributes
    ----------
    train : (Tensor, Tensor)
    validation : (Tensor, Tensor) or None
    batch_size : int

    See Also
    --------
    htf.training.objectives.regression : makes it.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> objective = htf.training.objectives.regression((x[:40], x[:40, :1]), (x[40:], x[40:, :1]), batch_size=10)
    >>> objective.batches, objective.judge
    (4, 'validation/r2')
    """

    def __init__(
        self,
        train: Pair,
        validation: Pair | None = None,
        *,
        batch_size: int = 64,
        sample_weight: Tensor | None = None,
    ) -> None:
        self.train = _checked("train", train)
        self.validation = None if validation is None else _checked("validation", validation)
        self.batch_size = positive("batch_size", batch_size)
        samples = len(self.train[1])
        self.batches = max(1, math.ceil(samples / self.batch_size))
        self._weights = None if sample_weight is None else factors(sample_weight, samples)
        self.judge = "" if validation is None else "validation/r2"

    def prepare(self, model: nn.Module, place: Place) -> None:
        super().prepare(model, place)
        dtype = input_dtype(model, place)
        self.train = _placed(self.train, place, dtype)
        if self.validation is not None:
            self.validation = _placed(self.validation, place, dtype)
        if self._weights is not None:
            self._weights = self._weights.to(place.device, place.dtype)
        for name, (x, y) in (("train", self.train), ("validation", self.validation or self.train)):
            out = first_outputs(model, x[:1], name)
            if not isinstance(out, Tensor):
                raise TypeError(f"model gives a {type(out).__name__}; expected a tensor of outputs")
            if out.shape != y[:1].shape:
                raise ValueError(
                    f"model gives outputs of shape {tuple(out.shape)} for one sample of {name}; expected "
                    f"{tuple(y[:1].shape)}, as the targets have it"
                )
        self._order = Order(len(self.train[1]), self.batches, place.seed, place.processes)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        indices = self._order.indices(epoch, batch).to(self.place.device)
        x, y = self.train[0][indices], self.train[1][indices]
        out = model(x)
        errors = (out - y).square().mean(1)
        loss = errors.mean() if self._weights is None else (errors * self._weights[indices]).mean()
        return Found(loss, len(y), (x, y, out))

    @torch.no_grad()
    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        if self.validation is None:
            return {}
        x, y = self.validation
        with evaluated(model):
            out = torch.cat([model(part) for part in x.split(max(self.batch_size, 256))])
        rest = (out - y).double().square().sum()
        return {"validation/r2": 1 - rest / (y - y.mean(0)).double().square().sum().clamp(min=1e-300)}

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {"objective": "regression", "batch_size": self.batch_size}
        about |= {"train": digest(self.train), "validation": digest(self.validation or ())}
        return about if self._weights is None else about | {"sample_weight": digest(self._weights)}


def regression(
    train: Pair, validation: Pair | None = None, *, batch_size: int = 64, sample_weight: Tensor | None = None
) -> Regression:
    """Train a model by squared errors, in batches drawn anew each epoch.

    Parameters
    ----------
    train : (Tensor, Tensor)
        Inputs (n, ...) as the model takes them, and targets (n, outputs); floats are brought to the model's dtype.
    validation : (Tensor, Tensor), optional
        After each epoch "validation/r2", the share of the variance that is explained, is measured; it chooses the best
        epoch.
    batch_size : int
        At most; an epoch is split into as few batches as that allows.
    sample_weight : Tensor, (n,), optional
        Factors of the losses of the samples of `train`, none below zero; their mean is brought to 1.

    Returns
    -------
    Objective

    Raises
    ------
    TypeError, ValueError
        For other kinds or shapes; when a training is made of it, for a model that does not take the inputs, or whose
        outputs have another shape.

    See Also
    --------
    htf.models.TensorRegressor : as an estimator.
    htf.training.objectives.least_squares : fixed batches, and several runs.
    htf.training.objectives.classification : classes in place of numbers.

    Examples
    --------
    >>> import torch, htf
    >>> from torch import nn
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> _ = torch.manual_seed(0)
    >>> objective = htf.training.objectives.regression((x, x[:, :1]), batch_size=10)
    >>> history = htf.training.Training(nn.Linear(5, 1), objective, lr=0.05).run(epochs=20)
    >>> bool(history.loss[-1] < 0.01 * history.loss[0])
    True
    """
    return Regression(train, validation, batch_size=batch_size, sample_weight=sample_weight)


def _placed(pair: Pair, place: Place, dtype: torch.dtype) -> Pair:
    x, y = pair
    return x.to(place.device, dtype if x.is_floating_point() else x.dtype), y.to(place.device, place.dtype)


def _checked(name: str, pair: Any) -> Pair:
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(f"{name} is a {type(pair).__name__}; expected a pair of tensors, inputs and targets")
    x, y = pair
    if y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"{name} has inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}; expected (n, ...) and "
            "(n, outputs)"
        )
    if not y.dtype.is_floating_point:
        raise TypeError(f"{name} has targets of dtype {y.dtype}; expected floats")
    for what, part in (("inputs", x), ("targets", y)):
        if part.is_floating_point() and not bool(part.isfinite().all()):
            raise ValueError(f"{name} has {what} that are NaN or infinite")
    return x.detach(), y.detach()
