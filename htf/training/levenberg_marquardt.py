"""Least squares of CP networks on indices by damped Gauss-Newton steps, whose systems conjugate gradients solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from htf._checks import above_zero, positive
from htf.nn import CPNetwork
from htf.nn.networks.inputs import check_indices

# Samples whose products are in the cache together.
BLOCK = 4096
# Largest size of a component's product and of an entry, as a power of two: squares stay within float32.
_LARGEST = 60.0
# An entry is changed by a factor of no less than 2^-20, so that none becomes zero, where its gradient would be lost.
_LEAST_CHANGE = 2.0**-20
# Systems are solved until this share of the preconditioned residual's square is left.
_RESIDUAL = 3e-3
# A step that does not lower the error is tried again at this share of its length, so many times.
_SHORTER, _TRIES = 0.4, 3
_LAMBDA_RANGE = (1e-6, 1e12)


class LevenbergMarquardt:
    r"""Least-squares fits of all runs of a CP network to targets at given indices, by damped Gauss-Newton steps.

    The output is linear in every entry, and with :math:`P_r(x)` for the product that component r has at a sample, a
    small change of the entries by factors :math:`1 + u` changes it by :math:`\sum_r P_r(x) \sum_n u_{n, x_n, r}`.
    A step minimizes the squared error of that linear model plus :math:`\lambda` times the squares of u, weighted by
    the diagonal of the model's normal equations (Marquardt); :math:`\lambda` of each run falls where the model
    predicts the error and rises where it does not.  The normal equations are never formed: every product with them is
    one with the samples' codes and one with its transpose, which is what an epoch of gradient descent takes.

    Parameters
    ----------
    network : CPNetwork
        With one output.  It has the fitted entries after `run`.
    indices : Tensor
        (samples, order) integers; all of them make a step.
    targets : Tensor
        (samples, runs), or (samples,) for all runs.
    inner : int
        Iterations of conjugate gradients in a step, at most.
    damping : float
        :math:`\lambda` at the start.
    coarse : bool
        Take the products of conjugate gradients with codes in bfloat16, which is twice to four times as fast where the
        processor has units for it.  Gradients and errors are those of float32 all the same.

    Attributes
    ----------
    errors : Tensor
        (runs,) mean squared error of each run.
    passes : int
        Products with all codes and with their transpose, in pairs, so far: about as many epochs of gradient descent
        take this long.
    history : list of (int, list of float)
        Passes and errors after each step.

    Raises
    ------
    TypeError
        For a network that is no CPNetwork, or indices that are no integers.
    ValueError
        For several outputs, no samples, targets of another shape or not finite, `inner` below 1, or `damping` not
        above 0.
    IndexError
        For indices beyond the network's dimensions.

    See Also
    --------
    htf.training.LeastSquaresFit : the same fits by gradient descent on batches.
    htf.training.FitSettings : its name there, for probes, is "levenberg_marquardt".
    htf.nn.CPNetwork : what it fits.

    Notes
    -----
    A pass takes 2 · samples · (Σ (dims - 1) + 1) · Σ ranks multiply-adds: relative to the most frequent value of each
    mode, entries of the others and one scale per component are all that there is to fit.  Codes are held dense, in 4
    bytes for each sample and column, or 8 with `coarse`.  Entries may change their sign.  Errors never rise.  Zeros of
    the network start at 1e-20 of the largest entry of their vector.  A run is fitted as it would be alone, up to
    rounding, for as many steps.

    References
    ----------
    .. [1] D. Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", J. SIAM 11 (1963).
    .. [2] S. Wright, J. Holt, "An inexact Levenberg-Marquardt method for large sparse nonlinear least squares",
       J. Austral. Math. Soc. B 26 (1985).
    .. [3] L. Sorber, M. Van Barel, L. De Lathauwer, "Optimization-based algorithms for tensor decompositions:
       canonical polyadic decomposition, decomposition in rank-(L, L, 1) terms, and a new generalization", SIAM J.
       Optim. 23 (2013), which does so for dense tensors.

    Examples
    --------
    >>> import torch
    >>> from htf.nn import CPNetwork
    >>> from htf.training import LevenbergMarquardt
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randint(0, 2, (500, 12), generator=generator)
    >>> teacher = CPNetwork([2] * 12, 2, seed=1)
    >>> student = CPNetwork([2] * 12, 3, seed=2)
    >>> fit = LevenbergMarquardt(student, x, teacher(x).detach())
    >>> _ = fit.run(steps=60)
    >>> bool(fit.errors[0] < 1e-6)
    True
    """

    def __init__(
        self,
        network: CPNetwork,
        indices: Tensor,
        targets: Tensor,
        *,
        inner: int = 100,
        damping: float = 1.0,
        coarse: bool = False,
    ) -> None:
        if not isinstance(network, CPNetwork):
            raise TypeError(f"network is a {type(network).__name__}; expected a CPNetwork")
        if network.outputs != 1:
            raise ValueError(f"network has {network.outputs} outputs; expected 1")
        self.network, self.inner, self.coarse = network, positive("inner", inner), coarse
        indices = check_indices(indices, network.dims).to(network.device)
        targets = _check_targets(targets, len(indices), network)
        self._codes = _Codes(indices, network)
        self._blocks = self._codes.blocks(indices, network.dtype, coarse)
        self._targets = targets.split(BLOCK)
        self._samples = len(indices)
        self._run_of = network._run_of()
        self._members = torch.nn.functional.one_hot(self._run_of, network.runs).to(network.dtype)
        self.octaves, self.negative = self._codes.entries(network)
        self._center(targets)
        self.damping = torch.full((network.runs,), above_zero("damping", damping), dtype=network.dtype).to(targets)
        self._products, self.errors = self._evaluate(self.octaves, self.negative)
        self.passes = 1
        self.history: list[tuple[int, list[float]]] = [(1, self.errors.tolist())]

    def run(self, steps: int, on_step: Callable[[LevenbergMarquardt], None] | None = None) -> Tensor:
        """Take steps until there are so many in all; the network then has the fitted entries.

        Parameters
        ----------
        steps : int
        on_step : callable, optional
            Called after each step.

        Returns
        -------
        Tensor
            `errors`.
        """
        positive("steps", steps)
        while self.steps < steps:
            self.step()
            if on_step is not None:
                on_step(self)
        self.write()
        return self.errors

    @property
    def steps(self) -> int:
        """Steps so far."""
        return len(self.history) - 1

    def write(self) -> None:
        """Give the network the fitted entries, as `run` does in the end."""
        self._codes.write(self.network, self.octaves, self.negative)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step of all runs; a run that no length of it makes better stays where it was, with more damping."""
        gradient, curvature = self._linearize()
        change, predicted = self._solve(gradient, curvature)
        best = self._try(change)
        fell, first, products, entries, errors = best
        gain = (self.errors - errors) / predicted.clamp(min=torch.finfo(predicted.dtype).tiny)
        own = fell[self._run_of]
        for old, new in zip(self._products, products, strict=True):
            old.copy_(torch.where(own, new, old))
        self.octaves = torch.where(own, entries[0], self.octaves)
        self.negative = torch.where(own, entries[1], self.negative)
        self.errors = torch.where(fell, errors, self.errors)
        factor = torch.ones_like(gain).masked_fill(gain > 0.75, 1 / 3).masked_fill(gain < 0.25, 2.0)
        factor = torch.where(fell, torch.where(first, factor, 3.0), 8.0)
        self.damping = (self.damping * factor).clamp(*_LAMBDA_RANGE)
        self.history.append((self.passes, self.errors.tolist()))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a fit remembers: tensors, and numbers as JSON can hold them."""
        tensors = {"octaves": self.octaves, "negative": self.negative, "damping": self.damping}
        return tensors, {"passes": self.passes, "history": self.history}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """The inverse of `state`, of a fit of the same network, indices and targets."""
        if tensors["octaves"].shape != self.octaves.shape:
            raise ValueError(
                f"state has entries of shape {tuple(tensors['octaves'].shape)}; expected {tuple(self.octaves.shape)}"
            )
        self.octaves, self.negative = tensors["octaves"].to(self.octaves), tensors["negative"].to(self.negative)
        self.damping = tensors["damping"].to(self.damping)
        self._products, self.errors = self._evaluate(self.octaves, self.negative)
        self.passes = numbers["passes"]
        self.history = [(passes, errors) for passes, errors in numbers["history"]]

    # -- one step -----------------------------------------------------------------------------------------

    def _linearize(self) -> tuple[Tensor, Tensor]:
        """Minus half the gradient of the mean squared error, and the diagonal of the normal equations."""
        gradient, curvature = torch.zeros_like(self.octaves), torch.zeros_like(self.octaves)
        for (codes, _, transposed), products, targets in zip(self._blocks, self._products, self._targets, strict=True):
            rest = (targets - products @ self._members) @ self._members.T
            gradient += codes.T @ (products * rest)
            curvature += _times(transposed, products.square())
        self.passes += 2
        curvature = curvature / self._samples
        # A column without samples that meet it has neither; a share of the component's own keeps the quotient finite.
        least = 1e-8 * curvature[-1] + torch.finfo(curvature.dtype).tiny ** 0.5
        return gradient / self._samples, curvature + least

    def _solve(self, gradient: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """The damped change by conjugate gradients, with Jacobi's preconditioner, and the fall it predicts per run."""
        damped = self.damping[self._run_of] * curvature
        scale = damped + curvature
        change, rest = torch.zeros_like(gradient), gradient.clone()
        z = rest / scale
        direction, size = z.clone(), self._per_run(rest * z)
        first, active = size, size > 0
        for _ in range(self.inner):
            product = self._normal(direction) + damped * direction
            along = self._per_run(direction * product)
            # A run that is solved moves no more, however long others take.
            active = active & (along > 0)
            length = torch.where(active, size / along, 0)[self._run_of]
            change, rest = change + length * direction, rest - length * product
            z = rest / scale
            before, size = size, self._per_run(rest * z)
            active = active & (size > _RESIDUAL * first)
            if not bool(active.any()):
                break
            direction = z + torch.where(active, size / before, 0)[self._run_of] * direction
        predicted = self._per_run(change * (gradient + rest + damped * change))
        return change, predicted

    def _normal(self, change: Tensor) -> Tensor:
        """The normal equations times a change."""
        found = torch.zeros_like(change)
        given = change.bfloat16() if self.coarse else change
        for (_, codes, transposed), products in zip(self._blocks, self._products, strict=True):
            moved = (products * (codes @ given)) @ self._members
            found += _times(transposed, products * (moved @ self._members.T))
        self.passes += 1
        return found / self._samples

    def _try(self, change: Tensor) -> tuple[Tensor, Tensor, list[Tensor], tuple[Tensor, Tensor], Tensor]:
        """Full steps, and shorter ones for the runs that full ones make worse."""
        share = torch.ones_like(self.errors)
        first = None
        for _ in range(1 + _TRIES):
            factors = 1 + share[self._run_of] * change
            octaves = self.octaves + factors.abs().clamp(min=_LEAST_CHANGE).log2()
            octaves, negative = octaves.clamp(-1e3, 1e3), self.negative ^ (factors < 0)
            products, errors = self._evaluate(octaves, negative)
            self.passes += 1
            fell = errors < self.errors  # NaN is not
            first = fell if first is None else first
            if bool(fell.all()):
                break
            share = torch.where(fell, share, _SHORTER * share)
        assert first is not None
        return fell, first, products, (octaves, negative), errors

    def _evaluate(self, octaves: Tensor, negative: Tensor) -> tuple[list[Tensor], Tensor]:
        """Products of each component at each sample, and errors."""
        both = torch.cat([octaves, negative.to(octaves.dtype)], 1)
        found, total = [], 0
        for (codes, _, _), targets in zip(self._blocks, self._targets, strict=True):
            powers, signs = (codes @ both).chunk(2, 1)
            products = powers.clamp(-2 * _LARGEST, _LARGEST).exp2() * (1 - 2 * signs.remainder(2))
            found.append(products)
            total = total + (products @ self._members - targets).square().sum(0)
        return found, torch.as_tensor(total) / self._samples

    def _center(self, targets: Tensor) -> None:
        """Scale each run so that its mean output is that of its targets, where both are positive."""
        products, _ = self._evaluate(self.octaves, self.negative)
        means = torch.stack([part.sum(0) for part in products]).sum(0) @ self._members / self._samples
        ratio = targets.mean(0) / means
        self.octaves[-1] += torch.where((ratio > 0) & ratio.isfinite(), ratio, 1).log2()[self._run_of]

    def _per_run(self, values: Tensor) -> Tensor:
        return values.sum(0) @ self._members


def _times(transposed: Tensor, values: Tensor) -> Tensor:
    """Codes' transpose times values, in the dtype of the codes."""
    return (transposed @ values.to(transposed.dtype)).to(values.dtype)


class _Codes:
    """Columns of zeros and ones: which value a sample has in each mode, where it is not the most frequent one.

    The last column is of ones, for the component's scale, and values that no sample has are left out.
    """

    def __init__(self, indices: Tensor, network: CPNetwork) -> None:
        counts = [torch.bincount(column, minlength=dim) for column, dim in zip(indices.T, network.dims, strict=True)]
        self.base = [int(count.argmax()) for count in counts]
        self.columns = [
            (mode, value)
            for mode, (count, base) in enumerate(zip(counts, self.base, strict=True))
            for value in range(len(count))
            if value != base and count[value]
        ]

    def blocks(self, indices: Tensor, dtype: torch.dtype, coarse: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Codes of each block of samples in the network's dtype, for conjugate gradients, and transposed."""
        modes = torch.tensor([mode for mode, _ in self.columns], dtype=torch.long, device=indices.device)
        values = torch.tensor([value for _, value in self.columns], dtype=torch.long, device=indices.device)
        found = []
        for part in indices.split(BLOCK):
            codes = torch.ones(len(part), len(modes) + 1, dtype=dtype, device=indices.device)
            codes[:, :-1] = part[:, modes] == values
            inner = codes.bfloat16() if coarse else codes
            found.append((codes, inner, inner.T.contiguous() if coarse else codes.T))
        return found

    def entries(self, network: CPNetwork) -> tuple[Tensor, Tensor]:
        """Base-2 logarithms of entries relative to the frequent ones, the scales last, and which are negative."""
        octaves, negative = [], []
        for mode in range(network.order):
            vectors = self._of_mode(network, mode).double()
            least = 1e-20 * vectors.abs().amax(0).clamp(min=torch.finfo(torch.float32).tiny)
            octaves.append(vectors.abs().maximum(least).log2())
            negative.append(vectors < 0)
        scale = sum((logs[base] for logs, base in zip(octaves, self.base, strict=True)), torch.zeros(()))
        sign = torch.stack([signs[base] for signs, base in zip(negative, self.base, strict=True)]).sum(0) % 2 == 1
        relative = [octaves[mode][value] - octaves[mode][self.base[mode]] for mode, value in self.columns]
        signs = [negative[mode][value] ^ negative[mode][self.base[mode]] for mode, value in self.columns]
        return torch.stack([*relative, scale]).to(network.dtype), torch.stack([*signs, sign])

    @torch.no_grad()
    def write(self, network: CPNetwork, octaves: Tensor, negative: Tensor) -> None:
        """Set the network's entries; values that no sample has keep theirs, relative to the frequent one."""
        scale = octaves[-1].double()
        logs = [self._of_mode(network, mode).double() for mode in range(network.order)]
        parts = []
        places = {column: k for k, column in enumerate(self.columns)}
        for mode, (vectors, base) in enumerate(zip(logs, self.base, strict=True)):
            rows = []
            for value in range(len(vectors)):
                k = places.get((mode, value))
                if value == base or k is None:
                    rows.append((torch.zeros_like(scale), torch.zeros_like(negative[-1])))
                else:
                    rows.append((octaves[k].double(), negative[k]))
            sizes = torch.stack([size for size, _ in rows])
            # Large and small entries about one: that much more of the range of floats is used.
            middle = (sizes.amax(0) + sizes.amin(0)) / 2
            scale = scale + middle
            parts.append((sizes - middle, torch.stack([sign for _, sign in rows])))
        for mode, (sizes, signs) in enumerate(parts):
            if mode == 0:
                signs = signs ^ negative[-1]
            values = torch.where(signs, -1.0, 1.0) * (sizes + scale / network.order).exp2()
            self._of_mode(network, mode).copy_(values)

    @staticmethod
    def _of_mode(network: CPNetwork, mode: int) -> Tensor:
        block, position = network._layout.place[mode]
        return network.factors[block][position].detach()


def _check_targets(targets: Tensor, samples: int, network: CPNetwork) -> Tensor:
    if not samples:
        raise ValueError("indices has no samples; expected at least one")
    shape = tuple(targets.shape)
    if shape not in ((samples,), (samples, 1), (samples, network.runs)):
        raise ValueError(f"targets has shape {shape}; expected ({samples}, {network.runs}), or ({samples},)")
    targets = targets.to(network.device, network.dtype).reshape(samples, -1).expand(samples, network.runs)
    if not bool(targets.isfinite().all()):
        raise ValueError("targets has values that are not finite")
    return targets.contiguous()
