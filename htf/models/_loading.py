"""Fitted estimators from their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from htf._files import read_tensors
from htf.models._estimator import FILE_KIND
from htf.models.classifier import TensorClassifier
from htf.models.density import TensorDensity
from htf.models.generative import GenerativeClassifier
from htf.models.regressor import TensorRegressor

Estimator = TensorClassifier | TensorRegressor | TensorDensity | GenerativeClassifier
_BY_NAME: dict[str, type[Estimator]] = {
    each.__name__: each for each in (TensorClassifier, TensorRegressor, TensorDensity, GenerativeClassifier)
}


def load(path: str | os.PathLike[str]) -> Any:
    """Make a fitted estimator again from the file that its method `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    TensorClassifier, TensorRegressor, TensorDensity or GenerativeClassifier

    Raises
    ------
    FileNotFoundError, ValueError
        If it is not there, damaged, or holds something else.
    """
    tensors, about = read_tensors(Path(path), FILE_KIND)
    kind = _BY_NAME.get(about.get("model", ""))
    if kind is None:
        raise ValueError(f"{path} holds a model of kind {about.get('model')!r}; known are {', '.join(_BY_NAME)}")
    return kind.from_state(tensors, about)
