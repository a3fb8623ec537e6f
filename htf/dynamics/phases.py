"""Phases of learning: which components rise, and when."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htf._repr import brief
from htf.dynamics._trajectories import Trajectories, trajectories
from htf.training.history import History

LEVELS = (0.1, 0.5, 0.9)
GROWTH = 2.0  # of a component that rises, at least: it began below its half
LEAST_FALL = 1e-3  # of the loss of a run that has left its start, relative to the first


@dataclass(frozen=True, eq=False)
class Phases:
    """How the components of one group rose in one run.

    Attributes
    ----------
    group : str
    run : int
    components : tuple of int
        Those that rose, by size at the end, falling; see `phases`.
    sizes : Tensor
        (n,) float64, their values at the end.
    steps : Tensor
        (n, 3) float64, when they reached 10 %, 50 % and 90 % of their size, between recorded steps by interpolation.
    rest : float
        The largest of those that did not rise at the end, relative to the largest of all; 0 if there are none, and NaN
        if none of them was recorded.

    See Also
    --------
    htf.dynamics.phases : finds them.
    htf.dynamics.study : fits from many starts.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=2, observed=60, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=3, init=htf.nn.init.balanced(1e-3), seed=0)
    >>> history = htf.training.fit(net, problem, lr=0.05, steps=300, track=htf.dynamics.singular_values())
    >>> (found,) = htf.dynamics.phases(history)
    >>> found.count, found.overlap, bool(found.steps[0, 2] < found.steps[1, 0])  # one after the other
    (2, 0.0, True)
    """

    group: str
    run: int
    components: tuple[int, ...]
    sizes: Tensor
    steps: Tensor
    rest: float

    __repr__ = brief

    @property
    def count(self) -> int:
        """Number of components that rose."""
        return len(self.components)

    @property
    def overlap(self) -> float:
        """Overlap in time of components that rose, from 0 (one after another) to 1 (together).

        The stretch from 10 % to 90 % of each and of the next to reach its half, in common, relative to the shorter; the
        mean over such pairs, 0 if there are none.
        """
        if self.count < 2:
            return 0.0
        begin, _, end = self.steps[self.steps[:, 1].argsort(stable=True)].T
        common = (torch.minimum(end[1:], end[:-1]) - torch.maximum(begin[1:], begin[:-1])).clamp(min=0)
        shorter = torch.minimum((end - begin)[1:], (end - begin)[:-1])
        # A jump between two recorded steps has no length; it is in common if it lies inside the other.
        inside = (torch.minimum(end[1:], end[:-1]) >= torch.maximum(begin[1:], begin[:-1])).double()
        return float(torch.where(shorter > 0, common / shorter.clamp(min=1e-300), inside).mean())


def phases(history: History, tracker: str | None = None, share: float = 0.05) -> list[Phases]:
    """Find the components that rise, and when they do.

    Parameters
    ----------
    history : History
        Record of a fit that tracked `singular_values`, `component_norms` or `local_component_norms`.
    tracker : str, optional
        The tracker's name, if there are several.
    share : float
        A component rises if it ends above this share of its run's largest, and at twice its first value at least;
        between 0 and 1.

    Returns
    -------
    list of Phases
        One for each group and run.

    Raises
    ------
    ValueError
        If the history has no such tracker, or several and none is named; or for a share that is not between 0 and 1.

    See Also
    --------
    htf.dynamics.Phases : what it returns.
    htf.dynamics.singular_values, htf.dynamics.component_norms, htf.dynamics.local_component_norms : what to track.

    Notes
    -----
    Trackers record the largest components of each moment; a component is followed by its index, and singular values by
    position.  Where a component was not recorded, it is taken to be below every level that it has not reached yet.
    Nothing has risen in a run that has not left its start: one whose loss has fallen by less than a thousandth.

    Examples
    --------
    >>> import htf
    >>> from htf.dynamics import phases, singular_values
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), depth=3, init="balanced", seed=0)
    >>> (found,) = phases(htf.training.fit(net, problem, lr=0.05, steps=300, track=singular_values()))
    >>> found.count, found.rest < 0.01
    (1, True)
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected between 0 and 1")
    _, groups = trajectories(history, tracker)
    steps = history.steps.double()
    # A loss that is not known, NaN, does not count against a run.
    stayed = history.loss[-1] > (1 - LEAST_FALL) * history.loss[0]
    return [_phases(own, run, steps, share, bool(stayed[run])) for own in groups for run in range(history.runs)]


def _phases(own: Trajectories, run: int, steps: Tensor, share: float, stayed: bool) -> Phases:
    values, end = own.values[:, run], own.last[run].nan_to_num(-1.0)
    largest = end.max().clamp(min=0)
    order = end.argsort(descending=True, stable=True)
    # Components not recorded at first were below those that were.
    grew = ~(end < GROWTH * values[0]) & (not stayed)
    risen = (end > share * largest) & grew
    rose, others = order[risen[order]], end[order[~risen[order]]]
    if len(others) and others[0] >= 0:
        rest = float(others[0] / largest) if largest > 0 else 0.0
    else:
        rest = 0.0 if len(rose) == own.counts[run] else float("nan")
    crossings = [[_crossing(values[:, c], level * end[c], steps) for level in LEVELS] for c in rose.tolist()]
    return Phases(
        group=own.group,
        run=run,
        components=tuple(own.components[rose].tolist()),
        sizes=end[rose],
        steps=torch.tensor(crossings, dtype=torch.float64, device="cpu").view(-1, len(LEVELS)),
        rest=rest,
    )


def _crossing(values: Tensor, level: Tensor, steps: Tensor) -> float:
    """The step at which values first reach a level, which the last one does."""
    at = int((values >= level).to(torch.uint8).argmax())
    if at == 0 or bool(values[at - 1].isnan()):
        return float(steps[at])
    part = (level - values[at - 1]) / (values[at] - values[at - 1])
    return float(steps[at - 1] + part * (steps[at] - steps[at - 1]))
