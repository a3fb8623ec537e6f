"""Changing the layers of a model: over-parameterized, factorized, cut to a lower rank, and plain again."""

from htf.surgery.collapse import collapse
from htf.surgery.factorize import factorize
from htf.surgery.overparameterize import overparameterize
from htf.surgery.report import Change, Report
from htf.surgery.truncate import truncate

__all__ = ["Change", "Report", "collapse", "factorize", "overparameterize", "truncate"]
