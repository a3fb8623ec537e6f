"""Gradient flow against its closed form and against gradient descent with small steps."""

import math

import pytest
import torch

import htf
from htf.training import fit, gradient_flow


def problem():
    return htf.datasets.tensor_completion((4, 4), "matrix", rank=1, observed=14, norm=4, seed=1)


def network(**changes):
    return htf.nn.MatrixFactorization(
        **({"dims": (4, 4), "depth": 2, "init": "balanced", "runs": 2, "seed": 0, "dtype": torch.float64} | changes)
    )


def test_one_entry_decays_as_an_exponential():
    net = network(dims=(1, 1), depth=1, runs=1)
    start = float(net.to_tensor().detach())
    history = gradient_flow(net, (torch.tensor([[0, 0]]), torch.tensor([3.0])), times=[0.0, 0.5, 2.0])
    expected = [((start - 3) * math.exp(-2 * time)) ** 2 for time in (0, 0.5, 2)]
    assert history.loss[:, 0].tolist() == pytest.approx(expected, rel=1e-6)
    assert float(net.to_tensor().detach()) == pytest.approx(3 + (start - 3) * math.exp(-4), rel=1e-8)


def test_it_is_the_limit_of_gradient_descent():
    flow = gradient_flow(of_flow := network(), problem(), times=[1.0, 2.0], track=htf.dynamics.singular_values())
    # Euler steps of two sizes, extrapolated to size zero.
    found = []
    for steps in (2000, 4000):
        history = fit(net := network(), problem(), optimizer="sgd", lr=2 / steps, steps=steps)
        found.append((net.end_matrices().detach(), history.loss[-1], history.test_error[-1]))
    for ours, coarse, fine in zip(
        (of_flow.end_matrices().detach(), flow.loss[-1], flow.test_error[-1]), *found, strict=True
    ):
        torch.testing.assert_close(ours, 2 * fine - coarse, rtol=1e-5, atol=1e-7)
    values = flow["singular_values"]["end matrix/values"][-1]
    torch.testing.assert_close(values, of_flow.singular_values()[:, : values.shape[1]])
    assert flow.time[:, 0].tolist() == [1, 2]
    assert flow.rate.isnan().all()
    with pytest.raises(ValueError, match=r"history\.rate is NaN"):
        htf.dynamics.compare_rates(flow)


def test_norms_follow_their_lower_bound_to_infinity():
    net = network(dims=(2, 2), depth=3, init="identity", runs=1)
    track = [htf.dynamics.norms(p=(0.5, 1, 2)), htf.dynamics.effective_ranks()]
    history = gradient_flow(net, htf.datasets.diverging_completion(), times=torch.logspace(1, 5, 9), track=track)
    bound = htf.dynamics.norm_lower_bound(history.loss[:, 0])
    for values in history["norms"].values():
        assert (values[:, 0] >= bound).all()
        assert (values.diff(dim=0)[2:] > 0).all()
    assert history.loss[-1] < 1e-4
    assert history["norms"]["schatten 2"][-1] > 100
    assert history["effective_ranks"]["end matrix"][-1] < 1.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [1.0, 1.0]}, "times is .*; expected a rising sequence"),
        ({"times": []}, "times is .*; expected a rising sequence"),
        ({"times": [-1.0, 1.0]}, "times is .*; expected a rising sequence"),
        ({"network": network(dtype=torch.float32)}, "network is in torch.float32; the flow takes torch.float64"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"loss": "l3"}, "loss is 'l3'"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"network": network(), "problem": problem(), "times": [0.0, 1.0]} | changes
    with pytest.raises(ValueError, match=message):
        gradient_flow(**arguments)


def test_losses_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="the loss of run 0 is inf at the start"):
        gradient_flow(network(), (torch.tensor([[0, 0]]), torch.tensor([1e300], dtype=torch.float64)), times=[1.0])
