"""Damped Gauss-Newton fits of CP networks."""

import pytest
import torch

import htf
from htf.nn import CPNetwork
from htf.training import LevenbergMarquardt

DIMS = (2, 3, 2, 4, 2, 2)
GENERATOR = torch.Generator().manual_seed(0)
INDICES = torch.stack([torch.randint(0, d, (300,), generator=GENERATOR) for d in DIMS], 1)
TARGETS = torch.stack([(INDICES[:, 0] * (INDICES[:, 3] > 1)).float(), (INDICES[:, 1] == 2).float()], 1)


def make(dtype=torch.float64, **kwargs):
    return CPNetwork(DIMS, [2, 3], seed=[1, 2], dtype=dtype, **kwargs)


def errors_of(network):
    return (network(INDICES) - TARGETS.to(network.dtype)).square().mean(0)


def test_a_step_is_that_of_the_dense_normal_equations():
    """One step against the least squares problem written out: J by finite products, all unknowns at once."""
    network = make()
    htf.training.center_outputs(network, INDICES, TARGETS.double())
    fit = LevenbergMarquardt(network, INDICES, TARGETS, inner=400, damping=1e3)
    # relative changes of all entries, and J = d outputs / d log entries, from the network itself
    factors = [network.factor(mode, 1).detach().clone() for mode in range(len(DIMS))]
    products = torch.stack([f[INDICES[:, mode]] for mode, f in enumerate(factors)]).prod(0)  # (samples, rank)
    base = [int(torch.bincount(INDICES[:, mode], minlength=d).argmax()) for mode, d in enumerate(DIMS)]
    columns = [(m, v) for m, d in enumerate(DIMS) for v in range(d) if v != base[m]]
    met = torch.stack([(INDICES[:, m] == v).double() for m, v in columns] + [torch.ones(len(INDICES))], 1)
    jacobian = (met[:, :, None] * products[:, None, :]).flatten(1)
    rest = TARGETS[:, 1].double() - products.sum(1)
    normal = jacobian.T @ jacobian
    change = torch.linalg.solve(normal + 1e3 * normal.diagonal().diag(), jacobian.T @ rest).view(-1, 3)
    after = products * torch.where(met.bool()[:, :, None], 1 + change, 1.0).prod(1)
    fit.step()
    expected = (after.sum(1) - TARGETS[:, 1]).square().mean()
    assert float(fit.errors[1]) == pytest.approx(float(expected), rel=1e-3)
    assert float(fit.errors[1]) < float(rest.square().mean())
