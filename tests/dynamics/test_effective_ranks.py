import copy

import pytest
import torch
from dynamics_cases import DOUBLE, TREES, cp_network, dense, ht_network, loss_for, matrix_network
from dynamics_descent import moment_of

import htf
from htf.dynamics import effective_ranks
from htf.dynamics.end_ranks import effective_ranks_of

BALANCED = htf.DimensionTree.balanced(4)


def measured(tracker, network):
    about = tracker.describe(network)
    found = tracker.measure(moment_of(network, loss_for(network)))
    assert list(found) == list(about["groups"])
    return found, about["groups"]


def expected(network, modes):
    ranks = []
    for run in range(network.runs):
        tensor = dense(network, run).detach()
        rest = [axis for axis in range(tensor.ndim) if axis not in modes]
        matrix = tensor.permute(*modes, *rest).flatten(len(modes)).flatten(0, len(modes) - 1)
        ranks.append(htf.ranks.effective_rank(torch.linalg.svdvals(matrix)))
    return torch.stack(ranks)


def test_of_end_matrices():
    network = matrix_network(3, 3)
    found, groups = measured(effective_ranks(), network)
    assert groups == {"end matrix": {"node": None, "modes": [0, 1]}}
    torch.testing.assert_close(found["end matrix"], expected(network, [0]))


CASES = [
    *[(ht_network(name, outputs), None) for name in TREES for outputs in (1, 2)],
    *[(cp_network(4, outputs), tree) for tree in (None, BALANCED) for outputs in (1, 2)],
]


@pytest.mark.parametrize("limit", [2**14, 0], ids=["dense", "factored"])
@pytest.mark.parametrize(("network", "tree"), CASES, ids=lambda value: type(value).__name__)
def test_at_every_node(monkeypatch, network, tree, limit):
    monkeypatch.setattr("htf.dynamics.end_tensors.LARGEST", limit)
    found, groups = measured(effective_ranks(tree=tree), network)
    used = tree or network.tree
    assert [group["node"] for group in groups.values()] == list(used.edges)
    for node in used.edges:
        assert groups[f"node {node}"]["modes"] == list(used.modes(node))
        torch.testing.assert_close(found[f"node {node}"], expected(network, list(used.modes(node))), rtol=1e-7, atol=0)


def test_at_some_nodes():
    network = ht_network("binary")
    everywhere, _ = measured(effective_ranks(), network)
    found, _ = measured(effective_ranks([5, 0]), network)
    assert list(found) == ["node 5", "node 0"]
    for name, ranks in found.items():
        torch.testing.assert_close(ranks, everywhere[name])


def test_of_float32():
    network = ht_network("binary", dtype=torch.float32)
    found, _ = measured(effective_ranks(), copy.deepcopy(network).double())
    single, _ = measured(effective_ranks(), network)
    for name in found:
        assert single[name].dtype == DOUBLE
        torch.testing.assert_close(single[name], found[name], rtol=1e-12, atol=0)


def test_many_spectra_at_once():
    values = torch.tensor([[3.0, 3.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=DOUBLE)
    by_one = torch.stack([htf.ranks.effective_rank(row) for row in values])
    torch.testing.assert_close(effective_ranks_of(values), by_one)
    assert by_one.tolist()[:3] == pytest.approx([2, 1, 0])


def test_errors():
    with pytest.raises(ValueError, match="nodes holds 6; the tree has the nodes below the root, 0 to 5"):
        effective_ranks([6]).describe(ht_network("binary"))
    with pytest.raises(ValueError, match="an HTNetwork is measured on its own"):
        effective_ranks(tree=TREES["linear"]).describe(ht_network("binary"))
    with pytest.raises(ValueError, match="tree has 4 modes; the network has 3"):
        effective_ranks(tree=BALANCED).describe(cp_network(3))
    for settings in ({"nodes": [0]}, {"tree": BALANCED}):
        with pytest.raises(TypeError, match=f"{next(iter(settings))} is given; the network is a MatrixFactorization"):
            effective_ranks(**settings).describe(matrix_network())
    with pytest.raises(TypeError, match="the network is a Linear"):
        effective_ranks().describe(torch.nn.Linear(2, 2))
