"""Damped Gauss-Newton fits of CP networks."""

import pytest
import torch

import htf
from htf.nn import CPNetwork, HTNetwork
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


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fits_and_the_network_has_the_fitted_entries(dtype, coarse):
    network = make(dtype)
    before = errors_of(network)
    fit = LevenbergMarquardt(network, INDICES, TARGETS, coarse=coarse)
    found = fit.run(steps=25)
    assert bool((found < 0.02 * before).all())
    assert torch.allclose(errors_of(network), found, rtol=1e-4, atol=1e-9)
    of_steps = torch.tensor([errors for _, errors in fit.history])
    assert bool((of_steps.diff(dim=0) <= 0).all())
    assert fit.steps == 25
    assert fit.passes == fit.history[-1][0] >= 25 * 4


def test_entries_change_their_sign_and_may_begin_at_zero():
    network = make()
    with torch.no_grad():
        network.factors[0][0, 0] = 0.0
        network.factors[0][1, 1] *= -1.0
    given = network(INDICES).detach()
    fit = LevenbergMarquardt(network, INDICES, given)
    assert float(fit.errors.max()) < 1e-20  # outputs are those of the network, zeros and signs and all
    parity = 1.0 - 2.0 * (INDICES[:, 0] ^ INDICES[:, 2]).double()
    start = make()
    assert bool((torch.cat([f.flatten() for f in start.factors]) > 0).all())
    LevenbergMarquardt(start, INDICES, parity).run(steps=40)
    assert float((start(INDICES).detach() - parity[:, None]).square().mean(0).min()) < 1e-6


def test_a_run_is_fitted_as_alone():
    both = LevenbergMarquardt(make(), INDICES, TARGETS).run(steps=4)
    network = CPNetwork(DIMS, 3, seed=[2], dtype=torch.float64)
    alone = LevenbergMarquardt(network, INDICES, TARGETS[:, 1]).run(steps=4)
    assert float(alone[0]) == pytest.approx(float(both[1]), rel=1e-6)


def test_goes_on_from_its_state():
    whole = LevenbergMarquardt(make(), INDICES, TARGETS)
    whole.run(steps=8)
    first = LevenbergMarquardt(make(), INDICES, TARGETS)
    first.run(steps=3)
    again = LevenbergMarquardt(make(), INDICES, TARGETS)
    again.restore(*first.state())
    again.run(steps=8)
    assert torch.allclose(again.errors, whole.errors, rtol=1e-9)
    assert again.history[:4] == whole.history[:4]
    with pytest.raises(ValueError, match=r"state has entries of shape .*expected \(10, 5\)"):
        again.restore({**first.state()[0], "octaves": torch.zeros(3, 5)}, {})


def test_values_that_no_sample_has_are_left_alone():
    network = make()
    seen = INDICES[INDICES[:, 3] < 2]
    fit = LevenbergMarquardt(network, seen, TARGETS[INDICES[:, 3] < 2])
    errors = fit.run(steps=5)
    outputs = network(INDICES)
    assert bool(outputs.isfinite().all())
    assert torch.allclose((network(seen) - TARGETS[INDICES[:, 3] < 2]).square().mean(0), errors)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": HTNetwork(htf.DimensionTree.balanced(6), 4, 2, seed=0)}, TypeError, "network is a HTNetwork"),
        ({"network": CPNetwork(DIMS, 2, outputs=3, seed=0)}, ValueError, "network has 3 outputs; expected 1"),
        ({"indices": INDICES.double()}, TypeError, "indices has dtype torch.float64"),
        ({"indices": INDICES + 1}, IndexError, "indices of mode 0 range from 1 to 2"),
        ({"indices": INDICES[:0]}, ValueError, "indices has no samples"),
        ({"targets": TARGETS[:50]}, ValueError, r"targets has shape \(50, 2\); expected \(300, 2\)"),
        ({"targets": TARGETS / 0}, ValueError, "targets has values that are not finite"),
        ({"inner": 0}, ValueError, "inner is 0"),
        ({"damping": 0.0}, ValueError, "damping is 0"),
    ],
)
def test_bad_input(change, error, message):
    given = {"network": make(), "indices": INDICES, "targets": TARGETS} | change
    with pytest.raises(error, match=message):
        LevenbergMarquardt(**given)
    with pytest.raises(ValueError, match="steps is 0"):
        LevenbergMarquardt(make(), INDICES, TARGETS).run(steps=0)
