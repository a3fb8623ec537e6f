"""A training step on a GPU does not make the host wait: with a plan at hand, no value is read back."""

import sys

import pytest
import torch
from plain_products import NETWORKS, assert_gradients_right, indices, weights
from torch.utils._python_dispatch import TorchDispatchMode

# The package's name "contract" is the function.
MODULES = ("htf.engine.contract", "htf.engine.log_domain", "htf.engine.unscaled")

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select"}


class NothingRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in WAITING:
            raise AssertionError(f"{name} makes the host wait")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for name in MODULES:
        monkeypatch.setattr(sys.modules[name], "values_at_hand", lambda tensor: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-20, -1.0, 0.0])
def test_a_step_on_a_plan_reads_no_value(name, size):
    network = NETWORKS[name]()
    with torch.no_grad():
        for run in range(network.runs):
            network.parameters_for(run)[1][1].mul_(size)
    x = indices(network.dims, 50)
    plan, optimizer = network.plan(x), torch.optim.SGD(network.parameters(), lr=1e-3)
    network(plan)
    with NothingRead():
        optimizer.zero_grad()
        network(plan).square().mean().backward()
    # What is computed without looking at values is right all the same.
    assert_gradients_right(network, plan, x, weights(network, 50), 2e-6)


def test_reading_is_noticed():
    with NothingRead(), pytest.raises(AssertionError, match="makes the host wait"):
        bool(torch.ones(1) > 0)
