import math

import pytest
import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization, init


def test_gaussian_has_its_moments():
    net = HTNetwork(DimensionTree.balanced(64), 8, 8, init=init.gaussian(2.0, 0.5), seed=0)
    entries = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert float(entries.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(entries.std()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("tree", [DimensionTree.balanced(8), DimensionTree.grid(3, 3), DimensionTree.linear(4)])
def test_balanced_local_components_have_equal_norms(tree):
    net = HTNetwork(
        tree, 3, tree.by_level(range(2, 2 + tree.depth)), init=init.balanced(0.01), seed=0, dtype=torch.float64
    )
    for node in tree.inner_nodes:
        rows = net.matrix(node).norm(dim=1)
        for child in tree.children(node):
            torch.testing.assert_close(net.matrix(child).norm(dim=0), rows, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        net.matrix(tree.root).norm(dim=1), torch.full((tree.depth + 1,), 0.01, dtype=torch.float64)
    )


def test_balanced_cp_vectors_have_equal_norms():
    net = CPNetwork([2, 3, 4], 5, init=init.balanced(0.1), seed=0, dtype=torch.float64)
    for mode in range(3):
        torch.testing.assert_close(net.factor(mode).norm(dim=0), torch.full((5,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("order", [4, 64, 1024])
@pytest.mark.parametrize("width", [1, 4, 16])
def test_scale_preserving_outputs_stay_near_one(order, width):
    indices = torch.randint(0, 2, (200, order), generator=torch.Generator().manual_seed(0))
    for net in (
        HTNetwork(DimensionTree.balanced(order), 2, width, init=init.scale_preserving(0.3, 0.0), seed=0),
        CPNetwork([2] * order, width, init=init.scale_preserving(0.3), seed=0),
    ):
        with torch.no_grad():
            logs = net(indices).log()
        assert float(logs.mean()) == pytest.approx(0, abs=0.7)
        assert float(logs.std()) < 0.5


def test_scale_preserving_without_mixing_is_a_cp_network_of_the_same_rank():
    tree = DimensionTree.balanced(8)
    net = HTNetwork(tree, 2, 3, init=init.scale_preserving(1.0, 0.0), seed=0, dtype=torch.float64)
    cp = CPNetwork([2] * 8, 3, dtype=torch.float64)
    with torch.no_grad():
        for mode in range(8):
            cp.factor(mode).copy_(net.matrix(mode) * 3 ** (-1 / 8))
    indices = torch.randint(0, 2, (20, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(indices), cp(indices))


def test_a_callable_of_ones_own():
    def constant(layout, block, generator):
        return torch.full((len(block.nodes), block.rows, block.columns), 0.5)

    net = HTNetwork(DimensionTree.balanced(4), 2, 3, init=constant)
    assert all(bool((p == 0.5).all()) for p in net.parameters())


def test_a_callable_of_another_shape():
    with pytest.raises(ValueError, match=r"init returned shape \(1,\); expected"):
        HTNetwork(DimensionTree.balanced(4), 2, 3, init=lambda layout, block, generator: torch.ones(1))


def test_seeds_decide():
    tree = DimensionTree.balanced(4)
    one, same, other = (HTNetwork(tree, 2, 3, seed=s).weights[0] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(HTNetwork(tree, 2, 3, seed=generator).weights[0], one)


def test_bad_arguments():
    with pytest.raises(ValueError, match="std is -1"):
        init.gaussian(std=-1)
    with pytest.raises(ValueError, match="std is nan"):
        init.gaussian(std=math.nan)
    with pytest.raises(ValueError, match="scale is 0"):
        init.balanced(0)
    with pytest.raises(ValueError, match="noise is -1"):
        init.scale_preserving(-1)
    with pytest.raises(ValueError, match="mixing is -1"):
        init.scale_preserving(1, -1)


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: HTNetwork(DimensionTree.balanced(4), 2, 3, runs=2, **kw),
        lambda **kw: CPNetwork([2, 3, 4], [3, 2], **kw),
        lambda **kw: MatrixFactorization((4, 3), 3, runs=2, **kw),
    ],
)
def test_one_initializer_per_run(make):
    first, second = init.gaussian(5.0, 0.1), init.balanced(0.1)
    net, start, balanced = (make(init=i, seed=[0, 1]) for i in ([first, second], first, second))
    for mine, theirs in zip(net.parameters_for(0).values(), start.parameters_for(0).values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(net.parameters_for(1).values(), balanced.parameters_for(1).values(), strict=True):
        assert torch.equal(mine, theirs)
    net.reset_parameters(("balanced", "gaussian"), seed=[0, 1])
    assert float(net.unbalancedness(0).detach()) < 1e-6 < float(net.unbalancedness(1).detach())
    with pytest.raises(ValueError, match="init has 3 values; the network has 2 runs"):
        net.reset_parameters([first] * 3)


def test_identity():
    net = MatrixFactorization((4, 3), 3, (2, 5), init=init.identity(0.5), dtype=torch.float64)
    for layer, (rows, columns) in enumerate([(2, 3), (5, 2), (4, 5)], 1):
        assert torch.equal(net.parameters_for(0)[layer], 0.5 * torch.eye(rows, columns, dtype=torch.float64))
    by_name = MatrixFactorization((3, 3), 2, init="identity", dtype=torch.float64)
    assert torch.equal(by_name.weights[1][0], 1e-2 * torch.eye(3, dtype=torch.float64))
    for make in (
        lambda: HTNetwork(DimensionTree.balanced(4), 2, 3, init="identity"),
        lambda: CPNetwork([2, 2], 1, init="identity"),
    ):
        with pytest.raises(ValueError, match="init identity is for matrix factorizations"):
            make()
    with pytest.raises(ValueError, match="scale is 0; expected above 0"):
        init.identity(0)
