"""Every figure of the library, drawn from saved results alone.

``import htf`` leaves it out: it is imported, and matplotlib with it, when ``htf.plotting`` is first asked for.
"""

from typing import NoReturn

from htf.plotting.arrangement import plot_arrangement, plot_data_entanglement
from htf.plotting.dynamics import (
    plot_components,
    plot_error_against_init,
    plot_history,
    plot_norms_and_rank,
    plot_rates,
    plot_study,
)
from htf.plotting.models import plot_completions, plot_confusion, plot_images, plot_learned, plot_missing_data
from htf.plotting.rank_fit import plot_rank_fit
from htf.plotting.samples import plot_samples
from htf.plotting.separation import plot_separation_profile
from htf.plotting.trees import draw_tree

__all__ = [
    "draw_tree",
    "plot_arrangement",
    "plot_completions",
    "plot_components",
    "plot_confusion",
    "plot_data_entanglement",
    "plot_error_against_init",
    "plot_history",
    "plot_images",
    "plot_learned",
    "plot_missing_data",
    "plot_norms_and_rank",
    "plot_rank_fit",
    "plot_rates",
    "plot_samples",
    "plot_separation_profile",
    "plot_study",
]

# Figures of files that only benchmarks write are drawn there.
_MOVED = dict.fromkeys(("plot_link", "plot_long_range"), "long_range") | {"plot_randomization": "randomization"}
_MOVED |= dict.fromkeys(("plot_effective_ranks", "plot_kernels", "plot_rank_penalties", "plot_recovery"), "simplicity")


def __getattr__(name: str) -> NoReturn:
    moved = f"; it is benchmarks.{_MOVED[name]}.plots.{name} in a checkout of htf" if name in _MOVED else ""
    raise AttributeError(f"module 'htf.plotting' has no attribute {name!r}{moved}")
