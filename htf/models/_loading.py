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

    See Also
    --------
    htf.models.TensorClassifier, htf.models.TensorRegressor, htf.models.TensorDensity, htf.models.GenerativeClassifier
    htf.load : HTTensors.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, htf
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> model = htf.models.TensorRegressor(width=4, epochs=2).fit(x, x[:, 0] * x[:, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model.safetensors")
    ...     again = htf.models.load(f"{folder}/model.safetensors")
    >>> bool((again.predict(x) == model.predict(x)).all())
    True
    """
    tensors, about = read_tensors(Path(path), FILE_KIND)
    kind = _BY_NAME.get(str(about.get("model", "")))
    if kind is None:
        raise ValueError(f"{path} holds a model of kind {about.get('model')!r}; known are {', '.join(_BY_NAME)}")
    try:
        return kind.from_state(tensors, about)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} does not describe a {kind.__name__} ({error!r})") from error
