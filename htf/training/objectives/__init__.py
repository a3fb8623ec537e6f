"""Objectives of a `Training`: entries of tensors, squared errors, cross entropy, functions of one's own."""

from htf.training.objectives.base import Found, Objective, Place, function
from htf.training.objectives.classification import Classes, classification
from htf.training.objectives.entries import Entries, entries
from htf.training.objectives.least_squares import LeastSquares, least_squares
from htf.training.objectives.likelihood import Likelihood, likelihood
from htf.training.objectives.regression import Regression, regression

__all__ = [
    "Classes",
    "Entries",
    "Found",
    "LeastSquares",
    "Likelihood",
    "Objective",
    "Place",
    "Regression",
    "classification",
    "entries",
    "function",
    "least_squares",
    "likelihood",
    "regression",
]
