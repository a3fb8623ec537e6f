"""Networks of 2n + d weights that take any values on n points."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import elu, leaky_relu

from htf._checks import check_seed
from htf._random import randn

# Projections that are tried, and the least gap that counts as one, in units of the rounding of the projections' range.
_DRAWS = 32
_LEAST_GAP = 1e3
# Slope of leaky ReLUs below zero, as torch has it.
_LEAK = 0.01
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": partial(leaky_relu, negative_slope=_LEAK),
    "elu": elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
# Steepness of the others that is tried: so many units of their argument on the median gap between projections.
_STEEPNESS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)


class FiniteSampleNetwork(nn.Module):
    r"""Two layers on one projection, :math:`c(x) = \sum_j w_j \, \phi(\langle a, x \rangle - b_j)`.

    Parameters
    ----------
    a : Tensor
        (d,), the direction that all hidden units share.
    b, w : Tensor
        (n,), thresholds and output weights.
    activation : {"relu", "leaky_relu", "elu", "tanh", "sigmoid"}
        :math:`\phi`; leaky ReLUs have the slope 0.01 below zero.

    Raises
    ------
    ValueError
        For another activation.

    See Also
    --------
    htf.nn.finite_sample_network : finds the weights for given points.

    Examples
    --------
    >>> import torch, htf
    >>> a, b = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    >>> net = htf.nn.FiniteSampleNetwork(a, b, w=torch.tensor([1.0, -1.0]))  # a ramp from 0 to 1 along x + y
    >>> net(torch.tensor([[-1.0, 0.0], [0.25, 0.25], [2.0, 1.0]])).tolist()
    [0.0, 0.5, 1.0]
    >>> net.hidden(torch.tensor([[2.0, 1.0]])).tolist()
    [[3.0, 2.0]]
    """

    def __init__(self, a: Tensor, b: Tensor, w: Tensor, activation: str = "relu") -> None:
        super().__init__()
        _check_activation(activation)
        self.a, self.b, self.w = nn.Parameter(a), nn.Parameter(b), nn.Parameter(w)
        self.activation = activation

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden units (m, n) at points (m, d), in the parameters' dtype; their condition number bounds rounding."""
        z = x.to(self.a.dtype) @ self.a
        return _ACTIVATIONS[self.activation](z[:, None] - self.b)

    def forward(self, x: Tensor) -> Tensor:
        """Values (m,) at points (m, d), computed in the parameters' dtype; an (m, n) matrix is in memory."""
        return self.hidden(x) @ self.w

    def extra_repr(self) -> str:
        text = f"in_features={len(self.a)}, hidden={len(self.b)}"
        return text if self.activation == "relu" else f"{text}, activation={self.activation!r}"


def finite_sample_network(
    x: Tensor, y: Tensor, *, activation: str = "relu", seed: int | Generator | None = 0
) -> FiniteSampleNetwork:
    r"""A network of 2n + d weights that takes the values y at n points in d dimensions.

    No training: points are projected on a random direction a that separates them, the thresholds are interleaved with
    the sorted projections, :math:`b_1 < z_1 \le b_2 < z_2 \le \dots`, and what remains for w is a triangular system.

    Parameters
    ----------
    x : Tensor
        (n, d), integers or floats.
    y : Tensor
        (n,), labels or any real values.
    activation : {"relu", "leaky_relu", "elu", "tanh", "sigmoid"}
        Of the hidden units.
    seed : int or torch.Generator, optional
        Of the direction; None draws from torch's global generator.

    Returns
    -------
    FiniteSampleNetwork
        In float64, on the device of x, with parameters a (d,), b (n,) and w (n,).  Of equal points, with equal targets,
        one counts.

    Raises
    ------
    ValueError, TypeError
        For another activation, shapes that do not fit, values that are not finite, complex values, and where two points
        of different targets are equal, or so close that no direction tells them apart in float64; the message says
        which.

    See Also
    --------
    htf.nn.FiniteSampleNetwork : what it returns.
    htf.datasets.corrupted_labels : labels that no network can predict, but fit.

    Notes
    -----
    The triangular system has the diagonal :math:`z_i - b_i`.  With :math:`b_i = z_{i-1}`, the end of the range that
    interleaving allows, the diagonal is the largest and the system is solved in closed form: c interpolates linearly
    between neighbours, and w holds the differences of its slopes.  (A threshold further right makes the slope before it
    count again after it, with a factor :math:`(b_i - z_{i-1}) / (z_i - b_i)` for its error.)  Of 32 directions that one
    is taken whose steepest slope, in units of the range of projections, is the least, as rounding errors of z are
    multiplied by it.  The labels 0 to 9 of 2,000 MNIST images come out to within about 1e-8, in float32 not at all.

    Leaky ReLUs of slope :math:`\alpha` are :math:`(1 - \alpha)` ReLUs and a linear function: the slopes of c are those
    of its sum of ReLUs, scaled, plus :math:`\alpha \sum_j w_j`, which is :math:`\alpha` times the last slope.  So all
    but the first follow from the values one by one, the first from the value at the first point: n weights are exact
    again.

    For the other activations thresholds stand in the middle of the gaps, and w solves the n equations
    :math:`\sum_j \phi(z_i - b_j) w_j = y_i`, with that steepness, a factor of a and b, of eight that leaves the least
    error at the points.  Sigmoids' matrices are strictly totally positive, so regular, for any distinct thresholds, as
    :math:`1 / (1 + e^{b - z}) = e^z / (e^z + e^b)` is a Cauchy kernel but for a factor of each row.  Tanh is twice a
    sigmoid less one: regular if steep, as then it is the sign of :math:`z_i - b_j`.  A steep ELU is a ReLU less a step,
    with a matrix that tends to that of the ReLUs.  All of this is said of exact arithmetic; how many digits float64
    leaves is told by the condition number of `FiniteSampleNetwork.hidden`, which for steep sigmoids and tanh grows like
    n alone: on the 2,000 images they are exact to 1e-10.

    Construction for piecewise linear activations costs O(nd + n log n), for others O(nd + n^3); evaluation at m points
    O(md + mn).  Between the points the values say nothing about others: neighbours on a random line are no neighbours
    among images.

    References
    ----------
    .. [1] C. Zhang, S. Bengio, M. Hardt, B. Recht, O. Vinyals, "Understanding deep learning requires rethinking
       generalization", ICLR 2017, theorem 1 and lemma 1.

    Examples
    --------
    >>> import torch, htf
    >>> x, y = torch.eye(4), torch.tensor([3, 1, 4, 1])
    >>> network = htf.nn.finite_sample_network(x, y)
    >>> network(x).round().int().tolist(), sum(p.numel() for p in network.parameters())
    ([3, 1, 4, 1], 12)
    """
    _check_activation(activation)
    generator = seed if seed is None or isinstance(seed, Generator) else Generator().manual_seed(check_seed(seed))
    x, y = _checked(x, y)
    points = _distinct(x, y)
    x, y = x[points], y[points]
    directions = randn((x.shape[1], _DRAWS), generator, x.dtype).to(x.device)
    z, order = (x @ directions).sort(0)
    # c is zero up to the first threshold, which stands as far before the points as they reach.
    reach = (z[-1] - z[0]).where(z[-1] > z[0], 1.0)
    b = torch.cat([(z[0] - reach)[None], z[:-1]])
    values = y[order]
    rise = values.diff(dim=0, prepend=torch.zeros_like(values[:1]))
    slopes = torch.where(rise == 0, 0.0, rise / (z - b))
    best = int((slopes.abs().amax(0) * reach).argmin())
    gaps = z[:, best] - b[:, best]
    _check_gaps(gaps, rise[:, best], reach[best], points[order[:, best]])
    a, b, z, values = directions[:, best].clone(), b[:, best].clone(), z[:, best], values[:, best]
    if activation == "relu":
        w = slopes[:, best].diff(prepend=slopes.new_zeros(1))
    elif activation == "leaky_relu":
        w = _leaky_weights(slopes[:, best], gaps, b, z, values)
    else:
        a, b, w = _solved(_ACTIVATIONS[activation], a, torch.cat([b[:1], (z[1:] + z[:-1]) / 2]), z, values)
    return FiniteSampleNetwork(a, b, w, activation)


def _check_activation(activation: str) -> None:
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; expected {', '.join(map(repr, _ACTIVATIONS))}")


def _leaky_weights(slopes: Tensor, gaps: Tensor, b: Tensor, z: Tensor, values: Tensor) -> Tensor:
    """Output weights (n,) of leaky ReLUs from the slopes (n,) that c has between neighbours."""
    last = slopes[-1] if len(slopes) > 1 else values[0] / gaps[0]
    # Partial sums of w: c has the slope (1 - leak) sums[k] + leak * last after the k-th threshold.
    sums = (slopes - _LEAK * last) / (1 - _LEAK)
    if len(slopes) > 1:
        # w_1 b_1 + w_2 b_2 = sums_1 (b_1 - b_2) + sums_2 b_2, and gap_1 = b_2 - b_1.
        rest = sums[1] * b[1] + (sums.diff()[1:] * b[2:]).sum()
        sums[0] = (values[0] - _LEAK * (z[0] * last - rest)) / gaps[0]
    else:
        sums[0] = last
    return sums.diff(prepend=sums.new_zeros(1))


def _solved(
    activation: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, z: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The steepness, and output weights, that leave the least error at the points; a, b and w with it."""
    gap = z.diff().median() if len(z) > 1 else z.new_tensor(1.0)
    found: list[tuple[float, Tensor, Tensor]] = []
    for units in _STEEPNESS:
        steepness = units / gap
        hidden = activation(steepness * (z[:, None] - b))
        w, info = torch.linalg.solve_ex(hidden, values)
        error = float((hidden @ w - values).abs().max())
        if not int(info) and math.isfinite(error):
            found.append((error, w, steepness))
    if not found:
        raise ValueError("no steepness leaves a regular system in float64; expected points further apart")
    _, w, steepness = min(found, key=lambda each: each[0])
    return steepness * a, steepness * b, w


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    for name, values in (("x", x), ("y", y)):
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} is a {type(values).__name__}; expected a tensor")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, d), at least (1, 1)")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; expected a value per point, ({len(x)},)")
    for name, values in (("x", x), ("y", y)):
        if values.is_complex():
            raise TypeError(f"{name} has dtype {values.dtype}; expected real numbers")
        if not bool(values.isfinite().all()):
            place = tuple((~values.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"{name}[{', '.join(map(str, place))}] is {float(values[place])}; expected finite values")
    return x.detach().double(), y.detach().to(x.device).double()


def _distinct(x: Tensor, y: Tensor) -> Tensor:
    """Indices of the points, in order, without those that are there before."""
    kinds, kind = x.unique(dim=0, return_inverse=True)
    indices = torch.arange(len(x), device=x.device)
    first = torch.full((len(kinds),), len(x), device=x.device).scatter_reduce(0, kind, indices, "amin")
    if bool((other := y != y[first[kind]]).any()):
        later = int(other.nonzero()[0])
        earlier = int(first[kind[later]])
        raise ValueError(
            f"x[{earlier}] and x[{later}] are equal; y is {float(y[earlier]):g} at one and {float(y[later]):g} at the "
            "other; no function has two values at a point"
        )
    return first.sort().values


def _check_gaps(gaps: Tensor, rise: Tensor, reach: Tensor, points: Tensor) -> None:
    least = _LEAST_GAP * torch.finfo(gaps.dtype).eps * reach
    if bool((close := (gaps <= least) & (rise != 0)).any()):
        second = int(close.nonzero()[0])
        raise ValueError(
            f"x[{int(points[second - 1])}] and x[{int(points[second])}] have different targets and are too close for "
            f"float64: {float(gaps[second] / reach):.1g} of the range of the points on the best of {_DRAWS} lines"
        )
