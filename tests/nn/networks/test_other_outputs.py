"""Outputs as logarithms, and up to a positive factor per sample, against the plain ones in double precision."""

import math
from functools import partial

import pytest
import torch

import htf
from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork
from htf.nn.init import gaussian, scale_preserving

MAKERS = {
    "cp": lambda **k: CPNetwork((3,) * 5, [4, 2], **k),
    "cp with outputs": lambda **k: CPNetwork((3,) * 5, [4, 2], outputs=3, **k),
    "cp in the log domain": lambda **k: CPNetwork((3,) * 14, [4, 1], **k),
    "ht": lambda **k: HTNetwork(DimensionTree.balanced(5), 3, [4, 2], **k),
    "ht with outputs": lambda **k: HTNetwork(DimensionTree.linear(5), 3, 4, runs=2, outputs=3, **k),
}


def inputs_of(network, kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "indices":
        return torch.randint(0, 3, (20, network.order), generator=generator)
    vectors = torch.randn(20, network.order, 3, dtype=network.dtype, generator=generator)
    return network.plan(torch.randint(0, 3, (20, network.order), generator=generator)) if kind == "plan" else vectors


@pytest.mark.parametrize("kind", ["indices", "plan", "vectors"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_logarithms_are_those_of_the_outputs(make, kind):
    network = make(init=gaussian(0.2, 1.0), seed=0, dtype=torch.float64)
    inputs = inputs_of(network, kind)
    plain = network(inputs)
    sign, log = network.log_abs(inputs)
    torch.testing.assert_close(sign * log.exp(), plain, rtol=1e-10, atol=0)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(plain.abs().log().sin().sum(), parameters)
    found = torch.autograd.grad(log.sin().sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max()))


@pytest.mark.parametrize("make", [MAKERS["cp in the log domain"], MAKERS["ht"]], ids=["cp", "ht"])
def test_logarithms_beyond_all_floats(make):
    network = make(seed=0).float()
    inputs = inputs_of(network, "indices")
    _, before = network.log_abs(inputs)
    with torch.no_grad():
        for parameter in list(network.parameters())[:1]:
            parameter.mul_(1e-30)
    _, log = network.log_abs(inputs)
    expected = torch.full_like(log, network.order * math.log(1e-30))
    torch.testing.assert_close(log - before, expected, rtol=1e-5, atol=1e-3)
    assert float(log.detach().max()) < -300
    log.sum().backward()
    # d log / d log θ, summed over a table, counts what is met: once per sample and run.
    leaves = next(network.parameters())
    counts = (leaves.detach() * leaves.grad).sum()
    torch.testing.assert_close(counts, torch.tensor(20.0 * network.order * network.runs), rtol=1e-4, atol=0)


def test_the_logarithm_of_zero_has_no_gradient():
    network = HTNetwork(DimensionTree.balanced(3), 2, 2, seed=0)
    with torch.no_grad():
        network.matrix(0)[1] = 0
    indices = torch.tensor([[0, 0, 0], [1, 0, 0]])
    sign, log = network.log_abs(indices)
    assert sign.flatten().tolist() == [1, 0]
    assert float(log[1].detach()) == -math.inf
    log[0].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(
    "tree",
    [DimensionTree.balanced(5), DimensionTree.linear(5), DimensionTree.balanced(40, 40), DimensionTree.grid(3, 3)],
)
def test_normalized_outputs_differ_by_a_positive_factor(tree):
    network = HTNetwork(tree, 3, 4, runs=2, outputs=5, init=gaussian(0.5, 1.0), seed=0, dtype=torch.float64)
    vectors = torch.randn(30, tree.order, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ratio = network.normalized(vectors) / network(vectors)
    assert bool((ratio > 0).all())
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-8, atol=0)
    assert network.normalized(vectors * 1e-80).isfinite().all()


def test_normalized_outputs_are_smooth():
    network = HTNetwork(DimensionTree.balanced(4), 2, 3, outputs=2, seed=0, dtype=torch.float64)
    vectors = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(network.normalized, (vectors,))


def test_what_is_dropped_is_left_out():
    network = HTNetwork(DimensionTree.balanced(4), 2, 3, outputs=2, seed=0)
    vectors = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(1))
    ones = network.normalized(vectors, torch.ones_like)
    torch.testing.assert_close(ones, ones[:1].expand_as(ones))
    with pytest.raises(ValueError, match="vectors has 3 modes; the network has order 4"):
        network.normalized(vectors[:, :3])


TREE = DimensionTree.balanced(4)
ASKED = {
    "ht": (lambda **k: HTNetwork(TREE, 3, 2, **k), lambda **k: HTNetwork(TREE, 3, [2], **k)),
    "cp": (lambda **k: CPNetwork((3,) * 4, 2, **k), lambda **k: CPNetwork((3,) * 4, [2], **k)),
}


@pytest.mark.parametrize("kind", ASKED)
def test_runs_have_an_axis_where_they_were_asked_for(kind):
    one, several = ASKED[kind]
    vectors = torch.rand(7, 4, 3, generator=torch.Generator().manual_seed(0))
    indices = torch.randint(0, 3, (7, 4), generator=torch.Generator().manual_seed(0))
    one, several = (partial(make, init=gaussian(0.5, 0.3)) for make in (one, several))
    expected = {
        (7, 1): [one(), one(runs=1), several()],
        (7, 2): [one(runs=2)],
        (7, 5): [one(outputs=5)],
        (7, 1, 5): [one(runs=1, outputs=5), several(outputs=5)],
        (7, 2, 5): [one(runs=2, outputs=5)],
    }
    for shape, networks in expected.items():
        for network in networks:
            found = [network(vectors), network(indices), network(network.plan(indices)), *network.log_abs(indices)]
            found += [network.normalized(vectors)] if kind == "ht" else []
            assert [tuple(each.shape) for each in found] == [shape] * len(found)
            for none in (vectors[:0], indices[:0]):
                assert tuple(network(none).shape) == (0, *shape[1:])


@pytest.mark.parametrize("kind", ASKED)
def test_outputs_without_runs_are_those_of_one_run_and_what_cross_entropy_takes(kind):
    one, _ = ASKED[kind]
    x = torch.randn(40, 4, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0, 0] * x[:, 1, 0] > 0).long()
    network = one(outputs=2, seed=0, init=scale_preserving(inputs=x))
    with_runs = one(outputs=2, runs=1, seed=[0], init=scale_preserving(inputs=x))
    with_runs.load_state_dict(network.state_dict())
    assert torch.equal(network(x), with_runs(x)[:, 0])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_networks_of_tensors_have_an_axis_of_runs_for_a_sequence():
    x = htf.random_ht((3,) * 4, 2, random_state=0, outputs=5).to_backend("pytorch")
    indices = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])
    assert HTNetwork.from_tensor(x)(indices).shape == (2, 5)
    assert HTNetwork.from_tensor([x])(indices).shape == (2, 1, 5)
    assert torch.equal(HTNetwork.from_tensor([x, x])(indices)[:, 1], HTNetwork.from_tensor(x)(indices))


def test_several_outputs_without_runs_are_centred():
    network = HTNetwork(TREE, 3, 2, outputs=3, seed=0, dtype=torch.float64)
    indices = torch.randint(0, 3, (50, 4), generator=torch.Generator().manual_seed(0))
    wanted = network(indices).detach().mean(0) * torch.tensor([2.0, 0.5, 3.0])
    for targets in (wanted.expand(50, -1), wanted.expand(50, 1, -1)):
        htf.training.center_outputs(network, indices, targets)
        torch.testing.assert_close(network(indices).detach().mean(0), wanted)
