"""Training of classifiers, with a regularizer or without."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from htf._files import read_tensors, saved_before
from htf.training._classification import Classification, DataLike
from htf.training.classify_result import ClassifyResult
from htf.training.classify_settings import ClassifySettings, Regularizer
from htf.training.optimizers import OptimizerLike
from htf.training.resumable import CHECKPOINT, CHECKPOINT_KIND
from htf.training.schedules import ScheduleLike
from htf.training.state_dicts import load_weights, part_of
from htf.training.stopping import StoppingRule


def classify(
    model: nn.Module,
    data: DataLike,
    *,
    regularizer: Regularizer | None = None,
    settings: ClassifySettings | None = None,
    optimizer: OptimizerLike | None = None,
    schedule: ScheduleLike = "constant",
    rules: StoppingRule | Iterable[StoppingRule] = (),
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    fabric: Any = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> ClassifyResult:
    """Train a classifier, and test it.

    Parameters
    ----------
    model : nn.Module
        From images (n, channels, height, width) to one logit, (n, 1), or one per class, (n, classes).  Trained in
        place; it ends with the parameters of the last epoch.
    data : LongRangeData, ImageData, mapping or sequence of data sets
        Training samples and, if there are any, those for validation and test: a mapping with the keys "train",
        "validation" and "test", or a sequence in that order.  A data set is a pair of tensors, inputs (n, ...) and
        integer labels (n,), or a torch Dataset of known length of such pairs; see `objectives.classification`.
    regularizer : callable, optional
        Of model, images, labels and outputs; what it returns is added to the loss.  One with ``state()`` and
        ``load_state()`` goes on, after an interrupt, where it was.
    settings : ClassifySettings, optional
    optimizer, schedule : str or callable
        As for `Training`, in place of gradient descent with momentum at a constant rate; the settings' `lr` is passed
        on, their `momentum` and `weight_decay` are not.
    rules : callable or sequence of them
        Rules that end the training before the settings do: `early_stopping`, `reached`, or others as for `Training`.
    out : str or Path, optional
        Folder of the run: checkpoint.safetensors and, at the end, result.json.  A run that was stopped goes on, to bit
        for bit the same parameters on the same CPU; a finished one is loaded, or continued if more epochs are asked
        for.  One of another architecture, as far as modules tell by ``extra_repr``, or of another start is refused; a
        regularizer that is a function is known by its name and the values that it holds.
    device : str or torch.device, optional
        Where to train; by default where the model is.
    fabric : lightning_fabric.Fabric, optional
        Launched, for several devices or nodes; it decides the device.  See the notes.
    save_every : float
        Seconds between checkpoints.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    ClassifyResult

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; for a model without trainable parameters, or of fewer outputs than classes; for
        a folder with a run of another model, start, data or setting, or of more epochs, which is kept, or with a
        damaged checkpoint and no good one before it.  The message names what differs.
    OSError
        If the folder cannot be written, before the training; if it becomes so later, what was saved before is kept.
    BlockingIOError
        If another process is writing to the folder; the message names it.
    FloatingPointError
        If the loss is not finite; it names epoch and step, and the last checkpoint is kept.
    torch.OutOfMemoryError
        If the device's memory does not hold a batch; it names the size that would fit.
    RuntimeError
        In the other processes, if one of several fails.
    KeyboardInterrupt
        After the step in which it came, with a checkpoint saved.

    Warns
    -----
    RuntimeWarning
        Once, if outputs for validation or test images are not finite; such images count as wrong.

    See Also
    --------
    htf.training.ClassifySettings, htf.training.ClassifyResult : what it takes and returns.
    htf.training.curriculum : in stages.
    htf.models.TensorClassifier : tensor networks as estimators.
    htf.training.load_trained : weights from the folder of a run.

    Notes
    -----
    Modules that are in evaluation mode within a model in training mode, as frozen batch normalization is, stay so.

    A regularizer that was called before goes on drawing from there: take a new one for each training.

    Images are visited in an order drawn from seed and epoch.  Dropout draws from torch's global generator, which is
    seeded for each step and put back after it.  Convolution kernels are stored with channels last, which is faster,
    except with `InputGradientChange` of all samples, where it is slower.

    With a Fabric, each process takes an equal share of every batch (up to ``world_size - 1`` images of a batch are left
    out), adds the regularizer of its share, and gradients and the buffers of batch normalization are averaged.  As all
    processes' regularizers draw the same patches, a step equals that of one process which averages loss and regularizer
    over the shares.  Folders must be shared by all nodes; only the first process writes.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.pathfinder(path_length=3, size=32, train=64, validation=32, test=32, seed=0)
    >>> model = htf.nn.small_resnet(channels=1)
    >>> settings = htf.training.ClassifySettings(epochs=2, batch_size=32)
    >>> result = htf.training.classify(model, data, settings=settings)
    >>> result.epochs, 0 <= result.test_last <= 1
    (2, True)
    """
    training = Classification(
        model,
        data,
        settings or ClassifySettings(),
        regularizer=regularizer,
        optimizer=optimizer,
        schedule=schedule,
        rules=rules,
        out=out,
        device=device,
        fabric=fabric,
    )
    training.run_to_end(save_every=save_every, progress=progress)
    return training.result()


def load_trained(model: nn.Module, folder: str | Path, which: str = "best") -> None:
    """Give a model the weights that a training left in its folder.

    Parameters
    ----------
    model : nn.Module
        Of the architecture that was trained; changed in place.
    folder : str or Path
        The `out` of `classify`.
    which : {"best", "last"}
        The weights of the epoch that is best on validation, or those of the last one.

    Raises
    ------
    ValueError
        For another `which`, a damaged checkpoint, or a model of another architecture.
    FileNotFoundError
        If there is no checkpoint.

    See Also
    --------
    htf.training.classify : writes the folder.

    Examples
    --------
    >>> import tempfile, torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> data, settings = [(x[:40], y[:40]), (x[40:], y[40:])], htf.training.ClassifySettings(epochs=3)
    >>> model, again = torch.nn.Linear(5, 1), torch.nn.Linear(5, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = htf.training.classify(model, data, settings=settings, out=folder)
    ...     htf.training.load_trained(again, folder, which="last")
    >>> bool((again.weight == model.weight).all())
    True
    """
    if which not in ("best", "last"):
        raise ValueError(f"which is {which!r}; expected 'best' or 'last'")
    path = Path(folder) / CHECKPOINT
    if not saved_before(path):
        raise FileNotFoundError(f"folder {folder} has no {CHECKPOINT}; expected the folder of a training")
    weights = part_of(
        "recording/best/" if which == "best" else "model/", read_tensors(path, CHECKPOINT_KIND, previous=True)[0]
    )
    try:
        load_weights(getattr(model, "_orig_mod", model), weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} was written by a model of another architecture ({error})") from error
