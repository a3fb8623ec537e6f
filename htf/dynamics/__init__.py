"""Trackers of a factorization in training, and the rates and phases that theory predicts."""

from htf.dynamics.balance import unbalancedness
from htf.dynamics.components import component_rates
from htf.dynamics.end_norms import norm_lower_bound, norms
from htf.dynamics.end_ranks import effective_ranks
from htf.dynamics.rates import Exponent, RateComparison, RateRecords, compare_rates
from htf.dynamics.rising import Phases, phases
from htf.dynamics.settings import CPStudy, HTStudy, MatrixStudy, StudySettings
from htf.dynamics.studies import ScaleSummary, Study, study
from htf.dynamics.trackers import component_norms, local_component_norms, singular_values
from htf.nn import ComponentRates

__all__ = [
    "CPStudy",
    "ComponentRates",
    "Exponent",
    "HTStudy",
    "MatrixStudy",
    "Phases",
    "RateComparison",
    "RateRecords",
    "ScaleSummary",
    "Study",
    "StudySettings",
    "compare_rates",
    "component_norms",
    "component_rates",
    "effective_ranks",
    "local_component_norms",
    "norm_lower_bound",
    "norms",
    "phases",
    "singular_values",
    "study",
    "unbalancedness",
]
