"""Training: the loop for many fits at once, its optimizer, and files that survive a crash."""

from htf.training.loop import Fit, FitSettings
from htf.training.optimizer import RelativeAdam, center_outputs

__all__ = ["Fit", "FitSettings", "RelativeAdam", "center_outputs"]
