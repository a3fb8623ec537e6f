"""Replayed steps: their order and bookkeeping, with graphs that run their operations again, as any device can."""

import pytest
import torch

import htf
from htf.datasets import tensor_completion
from htf.training import Training, graphs, objectives


class Again:
    """Stands for a graph: runs the operations that it was made of."""

    count = 0

    def __init__(self, losses, parameters, pool=None):
        self.find, self.parameters, self.pool = losses, list(parameters), None
        type(self).count += 1

    def __call__(self):
        for parameter in self.parameters:
            parameter.grad = None
        found = self.find()
        found.backward(torch.ones_like(found))
        return found.detach()


class Move:
    def __init__(self, call, pool):
        self.replay = call


def replayed(training, steps):
    training.begin(steps=steps)
    training._gradients._replays = graphs.Replays(training.trained, training.optimizer)
    training.run_to_end()
    return training.recording.history()


@pytest.fixture
def any_device(monkeypatch):
    Again.count = 0
    monkeypatch.setattr(graphs, "CapturedGradients", Again)
    monkeypatch.setattr(graphs, "captured", Move)


@pytest.mark.parametrize("optimizer", ["group_rmsprop", "sgd", "adam"])
def test_replayed_steps_are_those_of_a_fit(any_device, optimizer):
    problem = tensor_completion((6, 6, 6), "cp", rank=2, observed=50, norm=8, seed=0)
    networks = [htf.nn.CPNetwork((6, 6, 6), 4, runs=2, seed=0) for _ in range(2)]
    plain, other = (Training(n, objectives.entries(problem), optimizer=optimizer, lr=1e-3) for n in networks)
    expected, found = plain.run(steps=60), replayed(other, 60)
    assert Again.count == 1
    assert torch.equal(found.loss, expected.loss)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)


def test_each_batch_has_a_graph_of_its_own(any_device):
    x = torch.randint(0, 3, (90, 4), generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True).float()
    networks = [htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 3, 2, seed=0) for _ in range(2)]
    histories = []
    for network, run in zip(networks, (lambda t: t.run(epochs=8), lambda t: replayed(t, 24)), strict=True):
        objective = objectives.least_squares([network.plan(part) for part in x.split(30)], y.split(30))
        histories.append(run(Training(network, objective, optimizer="relative_adam", lr=0.3)))
    assert Again.count == 3
    assert torch.equal(*(history.loss for history in histories))


def test_a_batch_that_cannot_be_captured_is_trained_as_usual(monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(graphs, "CapturedGradients", refuse)
    problem = tensor_completion((6, 6), "matrix", rank=2, observed=20, norm=8, seed=0)
    networks = [htf.nn.MatrixFactorization((6, 6), 2, seed=0) for _ in range(2)]
    plain, other = (Training(n, objectives.entries(problem), optimizer="group_rmsprop") for n in networks)
    expected = plain.run(steps=30)
    with pytest.warns(RuntimeWarning, match="not replayed as CUDA graphs, which takes longer: operation not permitted"):
        found = replayed(other, 30)
    assert torch.equal(found.loss, expected.loss)


@pytest.mark.parametrize(("order", "expected"), [(4, True), (16, False)])
def test_products_that_look_at_their_factors_are_not_replayed(order, expected):
    network = htf.nn.CPNetwork((2,) * order, 2, seed=0)
    assert graphs.is_replayable(network.plan(torch.zeros(3, order, dtype=torch.int64))) is expected
