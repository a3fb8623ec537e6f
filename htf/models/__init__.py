"""Models for data of one's own, with the interface of scikit-learn."""

from htf.models.density import TensorDensity
from htf.models.generative import GenerativeClassifier

__all__ = ["GenerativeClassifier", "TensorDensity"]
