"""Measured rates of components against those that theory gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from htf._repr import brief
from htf.dynamics._trajectories import Trajectories, trajectories
from htf.nn.networks.components import flow_rate
from htf.training.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SELDOM = "no component was recorded often enough on its way up"


@dataclass(frozen=True, eq=False)
class RateRecords:
    """Rates of one group of components: every tensor is flat, with one entry per component, run and pair of steps.

    Attributes
    ----------
    order : int
        Number K of matrices or vectors in a component.
    step, run, component : Tensor
        (n,) int64; the earlier step of the pair, and whose rate it is.
    value : Tensor
        (n,) float64, a quarter of the way from its size at the first step to that at the second.
    measured : Tensor
        Difference over the flow time between the two steps.
    predicted : Tensor
        K γ σ^(2 - 2/K) at `value` and `alignment`.
    alignment : Tensor
        γ at the first step, whose gradient is followed to the second.
    start, end : Tensor
        The component's value where it was first and last recorded; `end` is 0 if it was not among the recorded then.
    largest : Tensor
        The run's largest value at the end.

    See Also
    --------
    htf.dynamics.compare_rates : makes them, for each group of components.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 3, init=htf.nn.init.balanced(1e-3), seed=0, dtype=torch.float64)
    >>> track = htf.dynamics.singular_values(3)
    >>> history = htf.training.fit(net, problem, lr=0.02, steps=125, every=5, track=track)
    >>> records = htf.dynamics.compare_rates(history).groups["end matrix"]
    >>> rising = records.rising()
    >>> bool((records.measured[rising] / records.predicted[rising] - 1).abs().max() < 0.1)
    True
    """

    order: int
    step: Tensor
    run: Tensor
    component: Tensor
    value: Tensor
    measured: Tensor
    predicted: Tensor
    alignment: Tensor
    start: Tensor
    end: Tensor
    largest: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.step)

    def rising(self, share: float = 0.05, above: float = 3.0, below: float = 0.5) -> Tensor:
        """Which records are of components that rise, on their way up.

        Parameters
        ----------
        share : float
            A component rises if it ends above this share of its run's largest.
        above : float
            Its value is more than so many times the first.
        below : float
            And less than this share of its last.

        Returns
        -------
        Tensor
            (n,) bool.
        """
        up = (self.value > above * self.start) & (self.value < below * self.end)
        return (self.end > share * self.largest) & up


@dataclass(frozen=True)
class Exponent:
    r"""The law :math:`\dot\sigma / \gamma = c \sigma^a` fitted to one component.

    Attributes
    ----------
    group : str
    run, component : int
    order : int
    slope, constant : float
        a and c, by least squares in logarithms.
    points : int
        Pairs of steps that they come from.

    See Also
    --------
    htf.dynamics.RateComparison.exponents : fits them.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 3, init=htf.nn.init.balanced(1e-3), seed=0, dtype=torch.float64)
    >>> track = htf.dynamics.singular_values(3)
    >>> history = htf.training.fit(net, problem, lr=0.02, steps=125, every=5, track=track)
    >>> (found,) = htf.dynamics.compare_rates(history).exponents()
    >>> round(found.slope, 1), round(found.expected_slope, 1), found.expected_constant
    (1.3, 1.3, 3.0)
    """

    group: str
    run: int
    component: int
    order: int
    slope: float
    constant: float
    points: int

    @property
    def expected_slope(self) -> float:
        """2 - 2/K, K being the order."""
        return 2 - 2 / self.order

    @property
    def expected_constant(self) -> float:
        """The order."""
        return float(self.order)


@dataclass(frozen=True, eq=False)
class RateComparison:
    """Measured and predicted rates of components; made by `compare_rates`.

    Attributes
    ----------
    tracker : str
    groups : dict
        From the name of each group to its `RateRecords`.

    See Also
    --------
    htf.dynamics.compare_rates : makes it.
    htf.plotting.plot_rates : draws it.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 3, init=htf.nn.init.balanced(1e-3), seed=0, dtype=torch.float64)
    >>> track = htf.dynamics.singular_values(3)
    >>> history = htf.training.fit(net, problem, lr=0.02, steps=125, every=5, track=track)
    >>> comparison = htf.dynamics.compare_rates(history)
    >>> list(comparison.groups), len(comparison.exponents()), comparison.reasons()
    (['end matrix'], 1, {})
    """

    tracker: str
    groups: dict[str, RateRecords]

    __repr__ = brief

    def exponents(self, share: float = 0.05, above: float = 3.0, below: float = 0.5, points: int = 5) -> list[Exponent]:
        r"""Fit :math:`\log(\dot\sigma / \gamma) = \log c + a \log\sigma` to each component that rises, on its way up.

        Parameters
        ----------
        share, above, below : float
            See `RateRecords.rising`.
        points : int
            How many pairs of steps a fit takes at least; components with fewer are left out.

        Returns
        -------
        list of Exponent
            By group, run and component.  Theory says a = 2 - 2/K and c = K.

        Notes
        -----
        Pairs at which the rate or the alignment is not positive have no logarithm and are left out.
        """
        found = []
        for group, records in self.groups.items():
            chosen = records.rising(share, above, below) & (records.alignment > 0) & (records.measured > 0)
            chosen = chosen.nonzero().flatten()
            x, y = records.value[chosen].log(), (records.measured[chosen] / records.alignment[chosen]).log()
            run, component = records.run[chosen], records.component[chosen]
            for pair in torch.stack([run, component], 1).unique(dim=0).tolist():
                own = (run == pair[0]) & (component == pair[1])
                count = int(own.sum())
                if count < max(points, 2):
                    continue
                slope, intercept = _line(x[own], y[own])
                found.append(Exponent(group, pair[0], pair[1], records.order, slope, float(intercept.exp()), count))
        return found

    def reasons(self, share: float = 0.05, above: float = 3.0, below: float = 0.5, points: int = 5) -> dict[str, str]:
        """Why `exponents` fitted no component of a group.

        Parameters
        ----------
        share, above, below, points
            As there.

        Returns
        -------
        dict
            From each group without a fit to a sentence.
        """
        fitted = {each.group for each in self.exponents(share, above, below, points)}
        return {
            group: _reason(records, share, above, below, points)
            for group, records in self.groups.items()
            if group not in fitted
        }

    def deviation(
        self,
        quantiles: Sequence[float] = (0.5, 0.9, 1.0),
        share: float = 0.05,
        above: float = 3.0,
        below: float = 0.5,
    ) -> dict[str, Tensor]:
        """Quantiles of the relative deviation of measured from predicted rates, of components on their way up.

        Parameters
        ----------
        quantiles : sequence of float
            Between 0 and 1.
        share, above, below : float
            See `RateRecords.rising`.

        Returns
        -------
        dict
            From each group to quantiles of ``|measured / predicted - 1|``, (len(quantiles),) float64; NaN where no
            component rises.
        """
        at = torch.tensor(list(quantiles), dtype=torch.float64, device="cpu")
        found = {}
        for group, records in self.groups.items():
            chosen = records.rising(share, above, below) & (records.predicted != 0)
            relative = (records.measured[chosen] / records.predicted[chosen] - 1).abs()
            found[group] = relative.quantile(at) if len(relative) else torch.full_like(at, torch.nan)
        return found

    def table(self) -> str:
        """One line per group: fitted exponents and constants against theory, and deviations of rates."""
        exponents, deviations, reasons = self.exponents(), self.deviation((0.5, 0.9)), self.reasons()
        lines = [
            f"{'group':<12} {'order':>5} {'fitted':>6} {'slope (least, most)':>22} {'theory':>7} "
            f"{'constant':>8} {'theory':>6} {'deviation 50 %':>14} {'90 %':>8}"
        ]
        for group, records in self.groups.items():
            own = [each for each in exponents if each.group == group]
            lead = f"{group:<12} {records.order:>5} {len(own):>6}"
            if not own:
                lines.append(f"{lead} {reasons[group]}")
                continue
            slopes = torch.tensor([each.slope for each in own], device="cpu")
            spread = f"{slopes.median():.3f} ({slopes.min():.3f}, {slopes.max():.3f})"
            constant = torch.tensor([each.constant for each in own], device="cpu").median()
            half, most = deviations[group].tolist()
            lines.append(
                f"{lead} {spread:>22} {own[0].expected_slope:>7.3f} {constant:>8.3f} {records.order:>6} "
                f"{half:>14.2e} {most:>8.1e}"
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Measured rates over alignments against sizes, with the lines that theory gives; `htf.plotting.plot_rates`."""
        from htf.plotting import plot_rates

        return plot_rates(self)


def _reason(records: RateRecords, share: float, above: float, below: float, points: int) -> str:
    if not len(records):
        return f"{SELDOM}: there are no two consecutive steps with a time between them at which one was recorded"
    growths = (records.end / records.start)[(records.end > share * records.largest) & (records.start > 0)].tolist()
    grown = max(growths, default=0.0)
    rising = records.rising(share, above, below)
    if not bool(rising.any()):
        if grown <= above:
            return (
                f"{SELDOM}: none rose, as the one that grew most ended at {grown:.3g} times its first value and a fit "
                f"takes values above {above:g} times the first"
            )
        return (
            f"{SELDOM}: no two consecutive steps lie between {above:g} times its first value and {below:g} of its last"
        )
    usable = rising & (records.alignment > 0) & (records.measured > 0)
    if not bool(usable.any()):
        return f"{SELDOM} with both a rate and an alignment above zero, of which a fit takes logarithms"
    pairs = torch.stack([records.run[usable], records.component[usable]], 1).unique(dim=0, return_counts=True)[1]
    return f"{SELDOM}: at {int(pairs.max())} pairs of steps at most, and a fit takes {max(points, 2)}"


def compare_rates(history: History, tracker: str | None = None) -> RateComparison:
    r"""Compare how fast components changed with how fast theory says that they do, without a free constant.

    Parameters
    ----------
    history : History
        Record of a fit that tracked `singular_values`, `component_norms` or `local_component_norms`.
    tracker : str, optional
        The tracker's name, if there are several.

    Returns
    -------
    RateComparison

    Raises
    ------
    ValueError
        If the history has no such tracker, or several and none is named; no two consecutive steps; or no flow time,
        because the optimizer does not step along the gradient.

    See Also
    --------
    htf.dynamics.RateComparison : what it returns.
    htf.dynamics.component_rates : rates at one moment.
    htf.plotting.plot_rates : a figure.

    Notes
    -----
    A record comes from each pair of consecutive steps at which a component was recorded both times, matched by its
    index; singular values are matched by position.

    Where no component can be fitted, `RateComparison.reasons` and its table say why.

    The theory is that of `component_rates`, for a flow; a step of gradient descent follows the gradient at its start.
    Over a step the K vectors of a component grow by :math:`\gamma_0 \sigma_0^{1 - 1/K}` a unit of time, and their
    product by :math:`K \gamma_0 \sigma_0^{1 - 1/K} \sigma^{1 - 1/K}`.  The mean of that over the step is, to second
    order in the step, the law at :math:`\gamma_0` and a quarter of the way, which is what measurements are compared
    with; rates at the start, or means of both ends, deviate to first order.  What remains comes from unbalancedness and
    from vectors that turn, to first order in the step.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.
    .. [3] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 3, init=htf.nn.init.balanced(1e-3), seed=0, dtype=torch.float64)
    >>> track = htf.dynamics.singular_values(3)
    >>> history = htf.training.fit(net, problem, lr=0.02, steps=125, every=5, track=track)
    >>> half, most = htf.dynamics.compare_rates(history).deviation([0.5, 0.9])["end matrix"].tolist()
    >>> half < 0.01, most < 0.05  # relative deviation of measured from predicted rates
    (True, True)
    """
    name, groups = trajectories(history, tracker)
    pairs = (history.steps.diff() == 1).nonzero().flatten()
    if not len(pairs):
        raise ValueError("history has no two consecutive steps; the tracker asks a fit of two steps or more for them")
    spans = history.rate[pairs + 1]
    if bool(spans.isnan().all()):
        raise ValueError("history.rate is NaN: its optimizer does not step along the gradient, so there are no rates")
    return RateComparison(name, {own.group: _records(own, history.steps, pairs, spans) for own in groups})


def _records(own: Trajectories, steps: Tensor, pairs: Tensor, spans: Tensor) -> RateRecords:
    before, after = own.values[pairs], own.values[pairs + 1]
    measured = (after - before) / spans.unsqueeze(2)
    alignment = own.alignments[pairs]
    # Where gradient descent takes the law's mean over the step; see the notes of compare_rates.
    value = (3 * before + after) / 4
    predicted = flow_rate(value, alignment, own.order)
    # A run that did not move between two steps has no rate there.
    pair, run, place = (measured.isfinite() & predicted.isfinite()).nonzero(as_tuple=True)
    end = own.last.nan_to_num(0.0)
    return RateRecords(
        order=own.order,
        step=steps[pairs][pair],
        run=run,
        component=own.components[place],
        value=value[pair, run, place],
        measured=measured[pair, run, place],
        predicted=predicted[pair, run, place],
        alignment=alignment[pair, run, place],
        start=own.first[run, place],
        end=end[run, place],
        largest=end.amax(1)[run],
    )


def _line(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Slope and intercept of the least-squares line."""
    offset = x - x.mean()
    slope = (offset * y).sum() / (offset * offset).sum()
    return float(slope), y.mean() - slope * x.mean()
