"""Log-likelihoods of discrete samples over fixed batches: the objective of densities."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from htf._checks import positive
from htf.engine import Plan
from htf.nn.networks.gramians import log_norm
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.normal_leaves import NormalNetwork
from htf.training._seeds import order_of_epoch
from htf.training.digests import digest
from htf.training.graphs import is_replayable
from htf.training.objectives.base import Found, Objective, Place
from htf.training.sample_weights import factors

# Bytes of gradients that replayed steps may hold on a GPU.
REPLAYED = 2**31

Part = tuple[Tensor, Tensor | None, Tensor | None]


class _Batch:
    """Samples of a batch, a plan of them once it was needed, the outputs that count and the weights."""

    def __init__(self, part: Part) -> None:
        self.indices, self.labels, self.weights = part
        self._plan: Plan | Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def move(self, device: torch.device, dtype: torch.dtype) -> None:
        self.indices = self.indices.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        self.weights = None if self.weights is None else self.weights.to(device, dtype)
        self._plan = None

    def plan(self, model: HTNetwork | NormalNetwork) -> Plan | Tensor:
        if self._plan is None:
            self._plan = model.plan(self.indices)
        return self._plan


class Likelihood(Objective):
    """The mean negative log-likelihood, in nats; made by `likelihood`.

    Attributes
    ----------
    batch_size : int
    squared : bool
    priors : Tensor or None
        (outputs,), by which labels are told from outputs.

    See Also
    --------
    htf.training.objectives.likelihood : makes it.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0))
    >>> objective = htf.training.objectives.likelihood(x[:150], validation=x[150:], batch_size=50)
    >>> objective.batches, objective.judge
    (3, 'validation/log_likelihood')
    """

    def __init__(
        self,
        train: Part,
        validation: Part | None,
        batch_size: int,
        squared: bool,
        seed: int,
        priors: Tensor | None = None,
    ) -> None:
        self.batch_size, self.squared, self.priors = positive("batch_size", batch_size), squared, priors
        self._digests = {"train": digest(train), "validation": digest(validation or ())}
        self.batches = max(1, math.ceil(len(train[0]) / self.batch_size))
        # Fixed batches, of samples in an order of their own, as data sets may be sorted.
        order = order_of_epoch(len(train[0]), seed, -1)
        self._train = [_Batch(_taken(train, at)) for at in torch.tensor_split(order, self.batches)]
        self._validation = [] if validation is None else [_Batch(part) for part in _split(validation, self.batch_size)]
        judge = "log_likelihood" if priors is None else "accuracy"
        self.judge = f"validation/{judge}" if self._validation else ""
        self._latest: tuple[int, list[int]] = (-1, [])

    def prepare(self, model: nn.Module, place: Place) -> None:
        super().prepare(model, place)
        if not isinstance(model, HTNetwork | NormalNetwork) or getattr(model, "runs", 1) != 1:
            raise TypeError(f"model is a {type(model).__name__}; a likelihood is that of an HTNetwork of one run")
        if self.squared and isinstance(model, NormalNetwork):
            raise ValueError("squared is True and the model has normal leaves, whose squares are not normalized")
        for batch in (*self._train, *self._validation):
            if batch.labels is None and model.outputs > 1:
                raise ValueError(
                    f"model has {model.outputs} outputs and labels is None; expected the output of each sample"
                )
            if batch.labels is not None and not 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < model.outputs:
                low, high = int(batch.labels.min()), int(batch.labels.max())
                raise ValueError(
                    f"labels has {low if low < 0 else high}; the model has outputs 0 to {model.outputs - 1}"
                )
            batch.move(place.device, place.dtype)
        # Each graph keeps gradients of its own, and for large networks launches are not what takes the time.
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        self._worth_replays = size * self.batches <= REPLAYED

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        found = self._train[self._order(epoch)[batch]]
        return Found(-self._mean(model, found).reshape(1), samples=len(found))

    def replayable(self, epoch: int, batch: int) -> Hashable:
        number = self._order(epoch)[batch]
        plan = self._train[number]._plan
        return number if self._worth_replays and isinstance(plan, Plan) and is_replayable(plan) else None

    def _logs(self, model: Any, batch: _Batch) -> Tensor:
        """Logarithms of the outputs, (samples, outputs)."""
        log: Tensor = model.log_abs(batch.plan(model))[1]
        return log.reshape(len(batch), -1)

    def _mean(self, model: Any, batch: _Batch, logs: Tensor | None = None) -> Tensor:
        log = self._logs(model, batch) if logs is None else logs
        log = log[:, 0] if batch.labels is None else log.gather(1, batch.labels[:, None])[:, 0]
        if self.squared:
            log = 2 * log - log_norm(model)
        return log.mean() if batch.weights is None else (log * batch.weights).mean()

    def _order(self, epoch: int) -> list[int]:
        if self._latest[0] != epoch:
            self._latest = epoch, order_of_epoch(self.batches, self.place.seed, epoch).tolist()
        return self._latest[1]

    @torch.no_grad()
    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        """The mean log-likelihood of the validation samples, in nats, and the share of labels that are told."""
        if not self._validation:
            return {}
        totals, right = [], []
        for batch in self._validation:
            logs = self._logs(model, batch)
            totals.append(self._mean(model, batch, logs).double() * len(batch))
            if self.priors is not None and batch.labels is not None:
                told = (logs.double() + self.priors.to(logs.device).log()).argmax(1)
                right.append((told == batch.labels).sum().double())
        samples = sum(map(len, self._validation))
        found = {"validation/log_likelihood": torch.stack(totals).sum() / samples}
        return found | ({"validation/accuracy": torch.stack(right).sum() / samples} if right else {})

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {"batch_size": self.batch_size, "squared": self.squared}
        about |= {} if self.priors is None else {"priors": self.priors.tolist()}
        return {"objective": "likelihood", **about, **self._digests}


def likelihood(
    samples: Tensor,
    labels: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    validation: Tensor | Sequence[Tensor] | None = None,
    batch_size: int = 256,
    squared: bool = False,
    seed: int = 0,
    priors: Tensor | None = None,
) -> Likelihood:
    """Fit a density to discrete samples by their mean log-likelihood.

    The model is an `HTNetwork` of one run whose outputs are probabilities, as those of one with distributions as
    columns, to be trained by `ExpectationMaximization`, or one of any entries with `squared`; or a `NormalNetwork`, a
    density of real numbers.

    Parameters
    ----------
    samples : Tensor
        (n, order) integers; real numbers for normal leaves, NaN where a value is not known.
    labels : Tensor, optional
        (n,) integers: the output whose probability is meant, for a network of several outputs.
    weights : Tensor, optional
        (n,) of at least 0, of the samples; divided by their mean.
    validation : Tensor or (Tensor, Tensor), optional
        Other samples, or samples and labels.  Their mean log-likelihood is measured after each epoch as
        "validation/log_likelihood" and chooses the best epoch.
    batch_size : int
        At most.  Batches are fixed, so that what is to be computed for them is planned once; their order is drawn anew
        each epoch.
    squared : bool
        The probability is the square of the output over the sum of all squares (a Born machine).
    seed : int
        Of the division into batches.
    priors : Tensor, optional
        (outputs,): probabilities of the labels.  Then the share of validation labels that are told from their samples,
        by Bayes' rule, is measured as "validation/accuracy", and chooses the best epoch.

    Returns
    -------
    Objective

    Raises
    ------
    ValueError, TypeError
        For weights that are negative or all zero, and parts of different lengths; when a training is made of it, for
        another model, or samples that it does not take.

    See Also
    --------
    htf.training.ExpectationMaximization : what minimizes it for distributions.
    htf.models.TensorDensity, htf.models.GenerativeClassifier : estimators.

    Notes
    -----
    A plan of a batch takes up to 10 bytes per pixel and sample.

    Examples
    --------
    >>> import torch, htf
    >>> from htf.training import Training, objectives
    >>> x = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0))
    >>> x[:, 1] = x[:, 0]
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 2, 3, init=htf.nn.init.distributions(x[:150]), seed=0)
    >>> objective = objectives.likelihood(x[:150], validation=x[150:], batch_size=50)
    >>> history = Training(net, objective, optimizer="expectation_maximization", lr=0.5).run(epochs=20)
    >>> history["validation"]["log_likelihood"].shape, bool(history.loss[-1] < history.loss[0])
    (torch.Size([20, 1]), True)
    """
    if not isinstance(samples, Tensor) or samples.ndim != 2 or not len(samples):
        got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"samples is {got}; expected a tensor (n, order) of at least one sample")
    if labels is not None and tuple(labels.shape) != (len(samples),):
        raise ValueError(f"labels has shape {tuple(labels.shape)}; expected ({len(samples)},), one for each sample")
    if weights is not None:
        weights = factors(weights.double(), len(samples), "weights")
    held: Part | None = None
    if validation is not None:
        parts = (validation,) if isinstance(validation, Tensor) else tuple(validation)
        if labels is not None and len(parts) != 2:
            raise ValueError("validation has no labels; expected samples and labels")
        held = (parts[0], parts[1] if labels is not None else None, None)
    if priors is not None and labels is None:
        raise ValueError("priors are given and labels is None; expected the labels whose probabilities they are")
    return Likelihood((samples, labels, weights), held, batch_size, squared, seed, priors)


def _taken(part: Part, at: Tensor) -> Part:
    x, y, w = part
    return x[at], None if y is None else y[at], None if w is None else w[at]


def _split(part: Part, size: int) -> list[Part]:
    return [_taken(part, at) for at in torch.arange(len(part[0]), device="cpu").split(size)]
