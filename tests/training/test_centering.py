"""center_outputs: every output of every run starts at the mean of its targets."""

import warnings

import pytest
import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.nn.init import gaussian
from htf.training import center_outputs

INDICES = torch.randint(0, 2, (30, 8), generator=torch.Generator().manual_seed(0))
TARGETS = torch.rand(30, 2, 10, generator=torch.Generator().manual_seed(1)) + 0.1


def make(kind, runs, outputs):
    ranks = [3, 5][:runs]
    if kind == "cp":
        return CPNetwork([2] * 8, ranks, outputs=outputs, seed=0)
    shared = kind == "shared"
    width = 3 if shared else ranks
    return HTNetwork(DimensionTree.balanced(8), 2, width, runs=runs, outputs=outputs, shared=shared, seed=0)


@pytest.mark.parametrize("kind", ["cp", "ht", "shared"])
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("planned", [False, True])
def test_every_output_has_the_mean_of_its_targets(kind, runs, planned):
    for outputs in (1, 2, 10):
        several = TARGETS[:, :runs, :outputs]
        shapes = [several, several[:, 0]] if outputs > 1 else [several[..., 0], several[:, 0, 0], several[:, 0]]
        for targets in shapes:
            network = make(kind, runs, outputs)
            center_outputs(network, network.plan(INDICES) if planned else INDICES, targets)
            means = network(INDICES).mean(0).detach()
            expected = targets.mean(0)
            if outputs > 1:
                assert means.shape == (runs, outputs)
            torch.testing.assert_close(means, expected.expand_as(means))


def test_only_the_size_of_an_output_changes():
    for kind in ("cp", "ht"):
        network = make(kind, 2, 10)
        before = network(INDICES).detach()
        center_outputs(network, INDICES, TARGETS)
        ratio = network(INDICES).detach() / before
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_outputs_without_a_positive_ratio_are_left():
    network = make("ht", 1, 3)
    before = network(INDICES).mean(0)[0].detach()
    targets = torch.tensor([-1.0, 0.0, 4.0]).expand(30, 3)
    center_outputs(network, INDICES, targets)
    torch.testing.assert_close(network(INDICES).mean(0)[0].detach(), torch.stack([*before[:2], targets[0, 2]]))


def test_counts_and_classes_are_numbers_too():
    network = make("cp", 1, 3)
    labels = torch.arange(30) % 3
    center_outputs(network, INDICES, torch.nn.functional.one_hot(labels, 3))
    torch.testing.assert_close(network(INDICES).mean(0)[0].detach(), torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("runs", "outputs", "shape", "expected"),
    [
        (1, 10, (30,), r"\(30, 1, 10\) or \(30, 10\)"),
        (2, 10, (30, 2), r"\(30, 2, 10\) or \(30, 10\)"),
        (2, 10, (30, 10, 2), r"\(30, 2, 10\) or \(30, 10\)"),
        (2, 1, (30, 3), r"\(30, 2\) or \(30,\) or \(30, 1\)"),
        (2, 1, (29, 2), r"\(30, 2\) or \(30,\) or \(30, 1\)"),
    ],
)
def test_other_shapes_are_named(runs, outputs, shape, expected):
    for kind in ("cp", "ht"):
        message = rf"targets has shape \({', '.join(map(str, shape))},?\); expected {expected}"
        with pytest.raises(ValueError, match=message):
            center_outputs(make(kind, runs, outputs), INDICES, torch.ones(shape))


def test_outputs_that_are_not_finite_are_named():
    network = CPNetwork([2] * 8, 2, runs=2, init=[gaussian(), gaussian(1e30)], seed=0)
    start = [p.detach().clone() for p in network.parameters()]
    with pytest.warns(RuntimeWarning, match=r"center_outputs: .* not finite at the start in runs \[1\]"):
        center_outputs(network, INDICES, torch.ones(30, 2))
    own = network._components(1)
    for parameter, before in zip(network.parameters(), start, strict=True):
        assert torch.equal(parameter[..., own], before[..., own])


def test_a_matrix_factorization_is_centred_too():
    network = MatrixFactorization((4, 5), 3, runs=2, init=gaussian(mean=1.0), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        center_outputs(network, INDICES[:, :2], TARGETS[:, :, 0])
    torch.testing.assert_close(network(INDICES[:, :2]).mean(0).detach(), TARGETS[:, :, 0].mean(0))
