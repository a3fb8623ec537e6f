"""Separation profiles: interactions against distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from htf.plotting.style import bars, look, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.ranks.separation_profile import SeparationProfile


@styled
def plot_separation_profile(
    profile: SeparationProfile, ax: Axes | None = None, *, strength: bool = False, label: str | None = None
) -> Axes:
    """Shares against distance, with standard errors.

    Parameters
    ----------
    profile : SeparationProfile
    ax : matplotlib Axes, optional
        Where to draw, for several profiles in one figure; by default on a new figure, not attached to any window:
        ``ax.figure.savefig(path)`` writes it.
    strength : bool
        Whether to draw strengths, on a logarithmic axis, in place of shares.
    label : str, optional
        For a legend.

    Returns
    -------
    matplotlib Axes

    See Also
    --------
    htf.ranks.separation_profile : what it draws.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.rand(50, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> profile = htf.ranks.separation_profile(htf.nn.small_resnet(seed=0), x, [0, 4, 8], samples=16, grid=2)
    >>> ax = htf.plotting.plot_separation_profile(profile, label="untrained")
    >>> ax.get_lines()[0].get_xdata().tolist()
    [0, 4, 8]
    """
    if ax is None:
        ax = Figure(figsize=(4.6, 3.2), layout="constrained").subplots()
    values, errors = (profile.strengths, profile.strength_errors) if strength else (profile.shares, profile.errors)
    lengths = bars(values, errors, errors, 0, np.inf if strength else 1)
    ax.errorbar(profile.distances, values, yerr=lengths, label=label, **look(len(ax.containers)))
    if strength:
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylabel("interaction, relative to the output's variance")
    else:
        ax.set_ylim(bottom=0)
        ax.set_ylabel("share of interaction")
    ax.set_xlabel("pixels between the patches")
    ax.spines[["top", "right"]].set_visible(False)
    if label is not None:
        ax.legend()
    return ax
