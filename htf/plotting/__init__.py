"""Every figure of the library, drawn from saved results alone."""

from htf.plotting.dynamics import (
    plot_components,
    plot_error_against_init,
    plot_history,
    plot_norms_and_rank,
    plot_rates,
    plot_study,
)
from htf.plotting.rank_fit import plot_rank_fit
from htf.plotting.trees import draw_tree

__all__ = [
    "draw_tree",
    "plot_components",
    "plot_error_against_init",
    "plot_history",
    "plot_norms_and_rank",
    "plot_rank_fit",
    "plot_rates",
    "plot_study",
]
