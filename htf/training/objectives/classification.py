"""Cross entropy of labelled samples, in batches drawn anew each epoch: the objective of `htf.training.classify`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from htf._checks import finite, positive
from htf.training._class_outputs import check_outputs, class_loss, count_hits, hits, use_channels_last
from htf.training._memory import largest_fitting
from htf.training._samples import Samples, Stored, as_samples
from htf.training.digests import digest
from htf.training.objectives.base import Found, Objective, Order, Place, first_outputs, input_dtype
from htf.training.sample_weights import factors


class Classes(Objective):
    """The mean cross entropy; made by `classification`.

    Attributes
    ----------
    parts : dict of Samples
        Those that there are of "train", "validation" and "test".
    batch_size : int

    See Also
    --------
    htf.training.objectives.classification : makes it.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :3].argmax(1)
    >>> objective = htf.training.objectives.classification((x[:40], y[:40]), (x[40:], y[40:]), batch_size=10)
    >>> training = htf.training.Training(torch.nn.Linear(5, 3), objective)
    >>> objective.batches, list(objective.parts), 0 <= objective.accuracy(training.model, "validation", epoch=0) <= 1
    (4, ['train', 'validation'], True)
    """

    def __init__(
        self,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        batch_size: int = 64,
        sample_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        given = {"train": train, "validation": validation, "test": test}
        self.parts: dict[str, Samples] = {
            name: as_samples(name, part) for name, part in given.items() if part is not None
        }
        self.batch_size = positive("batch_size", batch_size)
        self.batches = max(1, math.ceil(len(self.parts["train"]) / self.batch_size))
        self.judge = "validation/accuracy" if len(self.parts.get("validation", ())) else ""
        if not 0 <= finite("label_smoothing", label_smoothing) < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected from 0 to below 1")
        self._weights = None if sample_weight is None else factors(sample_weight, len(self.parts["train"]))
        self.label_smoothing = float(label_smoothing)
        self._warned = False
        # Read before anything is brought to a device.
        self._digests = {name: part.fingerprint() for name, part in self.parts.items()}

    def prepare(self, model: nn.Module, place: Place) -> None:
        super().prepare(model, place)
        # Where gradients at most images are differentiated in turn, channels last gain nothing.
        channels_last = not place.differentiate_inputs and use_channels_last(model)
        for part in self.parts.values():
            part.place(place.device, input_dtype(model, place), channels_last)
        train, world = self.parts["train"], place.processes.world
        # The smallest batches count, and some may be larger by one.
        size, larger = divmod(len(train), self.batches)
        if size < 2 * world:
            raise ValueError(
                f"{'some ' * (larger > 0)}batches have {size} images for {world} process{'es' * (world > 1)}; "
                "expected at least 2 for each: a larger batch_size, or more training images"
            )
        first = train.batch(slice(0, 2))[0]
        out = first_outputs(model, first, "train")
        for name, part in self.parts.items():
            # Items of a data set are not read twice: they may be drawn.
            others = part.batch(slice(0, 2))[0] if isinstance(part, Stored) and len(part) else first
            if others.shape[1:] != first.shape[1:]:
                first_outputs(model, others, name)
        check_outputs(out, 2, max(part.labels_below for part in self.parts.values()))
        if self._weights is not None:
            self._weights = self._weights.to(place.device, place.dtype)
        self._order = Order(len(train), self.batches, place.seed, place.processes)

    def find(self, model: nn.Module, epoch: int, batch: int) -> Found:
        indices = self._order.indices(epoch, batch)
        x, y = self.parts["train"].batch(indices)
        return self._found(model, x, y, None if self._weights is None else self._weights[indices.to(x.device)])

    def _found(self, model: nn.Module, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Found:
        # With a graph of gradients at the inputs, the regularizer needs no pass of its own for them.
        x.requires_grad_(self.place.differentiate_inputs)
        out = model(x)
        loss = class_loss(out, y, weights, self.label_smoothing)
        return Found(loss, len(y), (x, y, out), {"accuracy": hits(out.detach(), y)})

    def measure(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        found = self.accuracy(model, "validation", epoch)
        return {} if found is None else {"validation/accuracy": torch.tensor(found, dtype=torch.float64, device="cpu")}

    def accuracy(self, model: nn.Module, part: str, epoch: int) -> float | None:
        """Share of right labels in evaluation mode; None if there are no samples.

        Warns
        -----
        RuntimeWarning
            Once, for outputs that are not finite; such samples count as wrong.
        """
        samples = self.parts.get(part)
        if samples is None or not len(samples):
            return None
        processes = self.place.processes
        found = count_hits(model, samples, self.batch_size, (processes.rank, processes.world), self.place.device)
        right, unusual = processes.total(found).tolist()
        if unusual and not self._warned and processes.rank == 0:
            self._warned = True
            warnings.warn(
                f"the model's outputs are not finite for {unusual} of {len(samples)} {part} images after epoch "
                f"{epoch}; they count as wrong, here and from now on",
                RuntimeWarning,
                stacklevel=2,
            )
        accuracy: float = right / len(samples)
        return accuracy

    def advise(self, attempt: Callable[[Found, bool], None], model: nn.Module, at: tuple[int, int], reg: bool) -> str:
        x, y = self.parts["train"].batch(self._order.indices(*at))
        size = largest_fitting(lambda n: attempt(self._found(model, x[:n], y[:n]), reg), len(x) // 2, least=2)
        plain = reg and largest_fitting(
            lambda n: attempt(self._found(model, x[:n], y[:n]), False), len(x), least=len(x)
        )
        advice = f"{size} fitted: take batch_size={size * self.place.processes.world}" if size else "nor did 2"
        if plain:
            advice += "; all of them fit without the regularizer, whose own samples may be too many"
        return f"a batch of {len(x)} images did not fit into the memory of {self.place.device}; {advice}"

    def fingerprint(self) -> str:
        """Digest of all parts."""
        return digest(*sorted(self._digests.items()))

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {"objective": "classification", "batch_size": self.batch_size, **self._digests}
        if self.label_smoothing:
            about["label_smoothing"] = self.label_smoothing
        if self._weights is not None:
            about["sample_weight"] = digest(self._weights)
        return about


def classification(
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    batch_size: int = 64,
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Classes:
    """Train a classifier by cross entropy.

    The model has one logit, (n,) or (n, 1), for labels 0 and 1, or one per class, (n, classes).

    Parameters
    ----------
    train : pair of tensors, or Dataset
        Inputs (n, ...) and integer labels (n,), or a torch Dataset of known length of such pairs, which is read item by
        item in this process.  Floats are cast to the model's dtype; images of bytes, (n, channels, height, width), are
        divided by 255.
    validation, test : likewise, optional
        After each epoch "validation/accuracy" is measured; it chooses the best epoch.
    batch_size : int
        At most; an epoch is split into as few batches as that allows, of sizes that differ by no more than one.
    sample_weight : Tensor, (n,), optional
        Factors of the losses of the samples of `train`, none below zero; their mean is brought to 1.
    label_smoothing : float
        Share of each target that is spread evenly over the classes, from 0 to below 1.

    Returns
    -------
    Objective

    Raises
    ------
    TypeError, ValueError
        For another kind of data, or labels that are not integers from 0; when a training is made of it, for a model of
        fewer outputs than classes, or batches of fewer than 2 samples.

    See Also
    --------
    htf.training.classify : the same with settings and a test at the end.
    htf.training.objectives.regression : numbers in place of classes.
    htf.models.TensorClassifier : as an estimator.

    Notes
    -----
    Of a torch Dataset, 64 items spread evenly determine the digest by which a checkpoint of other data is refused.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :3].argmax(1)
    >>> objective = htf.training.objectives.classification((x[:40], y[:40]), (x[40:], y[40:]), batch_size=10)
    >>> model = torch.nn.Linear(5, 3)
    >>> history = htf.training.Training(model, objective, lr=0.05).run(epochs=20)
    >>> history["validation"]["accuracy"].shape, bool(history.loss[-1] < history.loss[0])
    (torch.Size([20, 1]), True)
    """
    return Classes(
        train,
        validation,
        test,
        batch_size=batch_size,
        sample_weight=sample_weight,
        label_smoothing=label_smoothing,
    )
