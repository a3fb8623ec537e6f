"""Fitted estimators from their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from htf._files import read_tensors
from htf.models._estimator import FILE_KIND, TensorEstimator, as_tuples
from htf.models.classifier import TensorClassifier
from htf.models.regressor import TensorRegressor
from htf.tree import DimensionTree

_ESTIMATORS: dict[str, type[TensorEstimator]] = {each.__name__: each for each in (TensorClassifier, TensorRegressor)}


def load(path: str | os.PathLike[str]) -> Any:
    """Make a fitted estimator again from the file that its method `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    TensorClassifier or TensorRegressor
        On the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is not there, damaged, or holds something else.
    """
    tensors, about = read_tensors(Path(path), FILE_KIND)
    kind = _ESTIMATORS.get(about.get("estimator", ""))
    if kind is None:
        raise ValueError(f"{path} holds a model of kind {about.get('estimator')!r}; known are {', '.join(_ESTIMATORS)}")
    parameters = dict(about["parameters"])
    if parameters.get("tree") is not None:
        parameters["tree"] = DimensionTree.from_nested(as_tuples(parameters["tree"]))
    return kind(**parameters)._restore(tensors, about)
