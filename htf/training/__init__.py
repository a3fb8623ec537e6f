"""Training: one core for every objective, `Training`, and fits, probes and classifiers that are made of it."""

from htf._moved import moved
from htf.training import objectives
from htf.training._classification import Classification
from htf.training.centering import center_outputs
from htf.training.classification import classify, load_trained
from htf.training.classify_result import ClassifyResult, Epoch
from htf.training.classify_settings import ClassifySettings
from htf.training.curriculum import Stage, curriculum
from htf.training.curriculum_result import CurriculumResult
from htf.training.expectation_maximization import ExpectationMaximization
from htf.training.fitting import fit
from htf.training.flow import gradient_flow
from htf.training.group_rmsprop import GroupRMSprop
from htf.training.history import History
from htf.training.least_squares_fit import FitSettings, LeastSquaresFit
from htf.training.levenberg_marquardt import LevenbergMarquardt
from htf.training.losses import Loss
from htf.training.relative_adam import RelativeAdam
from htf.training.resumable import adopt
from htf.training.run import Training
from htf.training.stopping import LossBelow, NoProgress, TimeLimit, early_stopping, reached
from htf.training.tracking import Moment, Tracker

__all__ = [
    "Classification",
    "ClassifyResult",
    "ClassifySettings",
    "CurriculumResult",
    "Epoch",
    "ExpectationMaximization",
    "FitSettings",
    "GroupRMSprop",
    "History",
    "LeastSquaresFit",
    "LevenbergMarquardt",
    "Loss",
    "LossBelow",
    "Moment",
    "NoProgress",
    "RelativeAdam",
    "Stage",
    "TimeLimit",
    "Tracker",
    "Training",
    "adopt",
    "center_outputs",
    "classify",
    "curriculum",
    "early_stopping",
    "fit",
    "gradient_flow",
    "load_trained",
    "objectives",
    "reached",
]

__getattr__ = moved(__name__, {"Fit": "LeastSquaresFit"})
