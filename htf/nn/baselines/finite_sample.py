"""Networks of 2n + d weights that take any values on n points."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from htf._checks import check_seed
from htf._random import randn

# Projections that are tried, and the least gap that counts as one, in units of the rounding of the projections' range.
_DRAWS = 32
_LEAST_GAP = 1e3


class FiniteSampleNetwork(nn.Module):
    r"""Two layers of ReLUs on one projection, :math:`c(x) = \sum_j w_j \max(\langle a, x \rangle - b_j, 0)`.

    Parameters
    ----------
    a : Tensor
        (d,), the direction that all hidden units share.
    b, w : Tensor
        (n,), thresholds and output weights.
    """

    def __init__(self, a: Tensor, b: Tensor, w: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.w = nn.Parameter(a), nn.Parameter(b), nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        """Values (m,) at points (m, d), computed in the parameters' dtype; an (m, n) matrix is in memory."""
        z = x.to(self.a.dtype) @ self.a
        return (z[:, None] - self.b).relu() @ self.w

    def extra_repr(self) -> str:
        return f"in_features={len(self.a)}, hidden={len(self.b)}"


def finite_sample_network(x: Tensor, y: Tensor, *, seed: int | Generator | None = 0) -> FiniteSampleNetwork:
    r"""A ReLU network of 2n + d weights that takes the values y at n points in d dimensions.

    No training: points are projected on a random direction a that separates them, the thresholds are interleaved with
    the sorted projections, :math:`b_1 < z_1 \le b_2 < z_2 \le \dots`, and what remains for w is a triangular system.

    Parameters
    ----------
    x : Tensor
        (n, d), integers or floats.
    y : Tensor
        (n,), labels or any real values.
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
        For shapes that do not fit, values that are not finite, complex values, and where two points of different
        targets are equal, or so close that no direction tells them apart in float64; the message says which.

    Notes
    -----
    The triangular system has the diagonal :math:`z_i - b_i`.  With :math:`b_i = z_{i-1}`, the end of the range that
    interleaving allows, the diagonal is the largest and the system is solved in closed form: c interpolates linearly
    between neighbours, and w holds the differences of its slopes.  (A threshold further right makes the slope before it
    count again after it, with a factor :math:`(b_i - z_{i-1}) / (z_i - b_i)` for its error.)  Of 32 directions that one
    is taken whose steepest slope, in units of the range of projections, is the least, as rounding errors of z are
    multiplied by it.  The labels 0 to 9 of 2,000 MNIST images come out to within about 1e-8, in float32 not at all.

    Construction costs O(nd + n log n), evaluation at m points O(md + mn).  Between the points the values say nothing
    about others: neighbours on a random line are no neighbours among images.

    References
    ----------
    .. [1] C. Zhang, S. Bengio, M. Hardt, B. Recht, O. Vinyals, "Understanding deep learning requires rethinking
       generalization", ICLR 2017, theorem 1 and lemma 1.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(4), torch.tensor([3, 1, 4, 1])
    >>> network = finite_sample_network(x, y)
    >>> network(x).round().int().tolist(), sum(p.numel() for p in network.parameters())
    ([3, 1, 4, 1], 12)
    """
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
    _check_gaps(z[:, best] - b[:, best], rise[:, best], reach[best], points[order[:, best]])
    w = slopes[:, best].diff(prepend=slopes.new_zeros(1))
    return FiniteSampleNetwork(directions[:, best].clone(), b[:, best].clone(), w)


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
