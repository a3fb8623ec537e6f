"""Models that are fitted to data of one's own, with the interface of scikit-learn's estimators."""

from htf.models._loading import load
from htf.models.classifier import TensorClassifier
from htf.models.density import TensorDensity
from htf.models.generative import GenerativeClassifier
from htf.models.regressor import TensorRegressor

__all__ = ["GenerativeClassifier", "TensorClassifier", "TensorDensity", "TensorRegressor", "load"]
