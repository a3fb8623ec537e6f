"""Trajectories of single components, put together from the records of a component tracker."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htf._repr import brief
from htf.training.history import History


@dataclass(frozen=True, eq=False)
class Trajectories:
    """One group of components over time.

    Attributes
    ----------
    group : str
    order : int
    counts : list of int
        Components that each run has, recorded or not.
    components : Tensor
        (C,) int64, those that were recorded at any moment in any run, rising.
    values, alignments : Tensor
        (T, runs, C) float64; NaN where a component was not among the recorded.
    """

    group: str
    order: int
    counts: list[int]
    components: Tensor
    values: Tensor
    alignments: Tensor

    __repr__ = brief

    @property
    def first(self) -> Tensor:
        """(runs, C); the earliest recorded value of each component, NaN if there is none."""
        seen = ~self.values.isnan()
        where = seen.to(torch.uint8).argmax(0, keepdim=True)
        return self.values.gather(0, where)[0]

    @property
    def last(self) -> Tensor:
        """(runs, C); the value at the end, NaN for a component that is not among the recorded there."""
        return self.values[-1]


def trajectories(history: History, tracker: str | None) -> tuple[str, list[Trajectories]]:
    """The name of a history's component tracker, and all its groups.

    Raises
    ------
    ValueError
        If there is none, several and none is named, or the named one is not of components.
    """
    name = _chosen(history, tracker)
    about, record = history.about(name)["groups"], history[name]
    return name, [
        _put_together(group, own["order"], own["components"], *(record[f"{group}/{part}"] for part in _PARTS))
        for group, own in about.items()
    ]


_PARTS = ("indices", "values", "alignments")


def _chosen(history: History, tracker: str | None) -> str:
    known = [name for name, record in history.tracked.items() if any(key.endswith("/alignments") for key in record)]
    wanted = "singular_values(), component_norms() or local_component_norms() of htf.dynamics"
    if not known:
        raise ValueError(f"history has no record of components; track {wanted} in the fit")
    if tracker is None:
        if len(known) > 1:
            raise ValueError(f"history has several component trackers, {', '.join(known)}; name one as tracker")
        return known[0]
    if tracker not in known:
        raise ValueError(f"tracker is {tracker!r}; history has the component trackers {', '.join(known)}")
    return tracker


def _put_together(
    group: str, order: int, counts: list[int], indices: Tensor, values: Tensor, alignments: Tensor
) -> Trajectories:
    components = indices[indices >= 0].unique()
    # Places without a component go to a column of their own, the last, which is dropped.
    place = torch.where(indices >= 0, torch.searchsorted(components, indices.contiguous()), len(components))
    nothing = torch.full(
        (*indices.shape[:2], len(components) + 1), torch.nan, dtype=torch.float64, device=indices.device
    )
    spread = [nothing.scatter(2, place, part.double())[..., :-1] for part in (values, alignments)]
    return Trajectories(group, order, counts, components, *spread)
