"""Every figure of the library, drawn from saved results alone.

``import htf`` leaves it out: it is imported, and matplotlib with it, when ``htf.plotting`` is first asked for.
"""

from htf.plotting.dynamics import (
    plot_components,
    plot_error_against_init,
    plot_history,
    plot_norms_and_rank,
    plot_rates,
    plot_study,
)
from htf.plotting.link import plot_link
from htf.plotting.long_range import plot_long_range
from htf.plotting.randomization import plot_randomization
from htf.plotting.rank_fit import plot_rank_fit
from htf.plotting.samples import plot_samples
from htf.plotting.separation import plot_separation_profile
from htf.plotting.simplicity import plot_effective_ranks, plot_kernels, plot_rank_penalties, plot_recovery
from htf.plotting.trees import draw_tree

__all__ = [
    "draw_tree",
    "plot_components",
    "plot_effective_ranks",
    "plot_error_against_init",
    "plot_history",
    "plot_kernels",
    "plot_link",
    "plot_long_range",
    "plot_norms_and_rank",
    "plot_randomization",
    "plot_rank_fit",
    "plot_rank_penalties",
    "plot_rates",
    "plot_recovery",
    "plot_samples",
    "plot_separation_profile",
    "plot_study",
]
