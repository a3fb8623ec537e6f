"""Rank-fit probes: how low a rank fits a data set, against its randomized twins."""

from htf.probes.rank_fit import rank_fit
from htf.probes.result import FitRecord, RankFit

__all__ = ["FitRecord", "RankFit", "rank_fit"]
