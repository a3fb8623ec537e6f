"""Result of a training on a classification task: accuracies by epoch, and those at the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from htf._files import read_json, write_json
from htf._repr import brief

_KIND = "the result of a training"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    Attributes
    ----------
    train_loss : float
        Mean over the epoch's batches, before each step, without the regularizer.
    train_accuracy : float
        Likewise, in training mode.
    penalty : float
        Mean of what the regularizer added to the loss.
    validation_accuracy : float or None
        After the epoch; None without validation images.
    seconds : float
        Since the start, evaluations included.

    See Also
    --------
    htf.training.ClassifyResult : its ``history`` has one for each epoch.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> settings = htf.training.ClassifySettings(epochs=20, lr=0.1)
    >>> result = htf.training.classify(torch.nn.Linear(5, 1), [(x[:40], y[:40]), (x[40:], y[40:])], settings=settings)
    >>> last = result.history[-1]
    >>> last.train_loss < result.history[0].train_loss, last.penalty
    (True, 0.0)
    """

    train_loss: float
    train_accuracy: float
    penalty: float
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class ClassifyResult:
    """The record of `classify`.

    Attributes
    ----------
    test_last : float or None
        Test accuracy of the last epoch's model; None without test images.
    test_best_validation : float or None
        Test accuracy of the model of `best_epoch`.
    best_epoch : int
        Number, from 1, of the epoch whose validation accuracy is the highest, the first of equals; the last epoch
        without validation images.
    history : tuple of Epoch
    stopped : str
        "epochs", "time" or "perfect": which of the settings ended it; or what a rule said.
    settings : dict
        All that made it: model, data, regularizer, training.
    machine : dict
        Device, threads and versions.

    See Also
    --------
    htf.training.classify : returns it.
    htf.training.load_trained : the weights of the run.

    Examples
    --------
    >>> import tempfile, torch, htf
    >>> x = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> data = dict(zip(("train", "validation", "test"), zip(x.split(200), y.split(200))))
    >>> settings = htf.training.ClassifySettings(epochs=10, batch_size=20, lr=0.1)
    >>> _ = torch.manual_seed(0)
    >>> result = htf.training.classify(torch.nn.Linear(5, 1), data, settings=settings)
    >>> result.epochs, result.stopped, result.test_best_validation > 0.8
    (10, 'epochs', True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(f"{folder}/result.json")
    ...     again = htf.training.ClassifyResult.load(f"{folder}/result.json")
    >>> again == result
    True
    """

    test_last: float | None
    test_best_validation: float | None
    best_epoch: int
    history: tuple[Epoch, ...]
    stopped: str
    settings: dict[str, Any]
    machine: dict[str, Any]

    __repr__ = brief

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time of training, evaluations included."""
        return self.history[-1].seconds

    @property
    def validation_best(self) -> float | None:
        """Validation accuracy of `best_epoch`."""
        return self.history[self.best_epoch - 1].validation_accuracy

    def save(self, path: str | Path) -> None:
        """Write JSON with a checksum, beside, then rename."""
        write_json(Path(path), asdict(self), _KIND)

    @classmethod
    def load(cls, path: str | Path) -> ClassifyResult:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, damaged or something else.
        """
        content = read_json(Path(path), _KIND)
        try:
            return cls.from_content(content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} does not describe a training ({error})") from error

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> ClassifyResult:
        """The inverse of ``dataclasses.asdict``; TypeError, KeyError or AttributeError for anything else."""
        history = tuple(Epoch(**epoch) for epoch in content.pop("history"))
        if not history or set(content) != {field.name for field in fields(cls)} - {"history"}:
            raise TypeError(f"it has {sorted(content)}, and {len(history)} epochs")
        if type(content["best_epoch"]) is not int or not 1 <= content["best_epoch"] <= len(history):
            raise TypeError(f"its best epoch is {content['best_epoch']!r} of {len(history)}")
        return cls(**content, history=history)
