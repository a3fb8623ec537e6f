"""Equality with tensap and torchTT on the same tensors, where they are installed."""

import importlib
import importlib.util
import json
import sys

import numpy as np
import pytest
import tensorly as tl
import torch

import htf
from benchmarks.speed import ht as ht_speed
from benchmarks.speed.peers import imported_before_312
from htf import tensors

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = [(4, 6, 4), (6, 5, 6), (8, 3, 3)]


def peer(name):
    """A peer that need not be installed; one that is there and cannot be imported fails."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(name)


def decaying(order, dim, rank, seed):
    """A random tensor on a balanced tree, whose singular values fall."""
    x = htf.random_ht((dim,) * order, rank, htf.DimensionTree.balanced(order), random_state=seed)
    return htf.HTTensor((x.tree, [f * np.logspace(0, -1, f.shape[-1]) if f.shape[-1] > 1 else f for f in x.factors]))


def places(tree):
    """Nodes in tensap's order: the root first, then level by level."""
    order = [tree.root]
    for node in order:
        order.extend(tree.children(node))
    return order


def their_tree(tensap, tree):
    order = places(tree)
    adjacency = np.zeros((tree.n_nodes, tree.n_nodes), dtype=int)
    for parent in tree.inner_nodes:
        for child in tree.children(parent):
            adjacency[order.index(parent), order.index(child)] = 1
    return tensap.DimensionTree([order.index(leaf) + 1 for leaf in tree.leaves], adjacency)


def to_tensap(tensap, x):
    factors = [x.factors[node][..., 0] if node == x.tree.root else x.factors[node] for node in places(x.tree)]
    return tensap.TreeBasedTensor([tensap.FullTensor(f) for f in factors], their_tree(tensap, x.tree))


def from_tensap(tensor, tree):
    factors = [None] * tree.n_nodes
    for node, core in zip(places(tree), tensor.tensors, strict=True):
        factors[node] = np.asarray(core.data)[..., None] if node == tree.root else np.asarray(core.data)
    return htf.HTTensor((tree, factors))


def error(approximation, exact):
    return float(tensors.ht_distance(approximation, exact) / exact.norm())


@pytest.mark.parametrize(("order", "dim", "rank"), SIZES)
class TestTensap:
    def test_tensors_are_handed_over_and_back(self, order, dim, rank):
        tensap = peer("tensap")
        x = decaying(order, dim, rank, 0)
        theirs = to_tensap(tensap, x)
        np.testing.assert_allclose(theirs.full().data, x.to_tensor(), rtol=1e-12, atol=1e-12 * float(x.norm()))
        assert error(from_tensap(theirs, x.tree), x) < 1e-12

    def test_singular_values(self, order, dim, rank):
        tensap = peer("tensap")
        x = decaying(order, dim, rank, 0)
        theirs = dict(zip(places(x.tree), to_tensap(tensap, x).singular_values(), strict=True))
        for node, ours in x.singular_values().items():
            np.testing.assert_allclose(ours, theirs[node][: len(ours)], rtol=0, atol=1e-12 * float(x.norm()))

    def test_rounding_errors(self, order, dim, rank):
        tensap = peer("tensap")
        x = decaying(order, dim, rank, 0)
        theirs = tensap.Truncator(tolerance=0, max_rank=rank // 2).hsvd(to_tensap(tensap, x))
        ours = x.round(rank=rank // 2)
        assert 1e-6 < error(ours, x) == pytest.approx(error(from_tensap(theirs, x.tree), x), rel=1e-8)

    def test_inner_products(self, order, dim, rank):
        tensap = peer("tensap")
        x, y = (decaying(order, dim, rank, seed) for seed in (0, 1))
        theirs = float(to_tensap(tensap, x).dot(to_tensap(tensap, y)))
        assert float(x.inner(y)) == pytest.approx(theirs, abs=1e-12 * float(x.norm() * y.norm()))

    def test_hadamard_products(self, order, dim, rank):
        tensap = peer("tensap")
        x, y = (decaying(order, dim, rank, seed) for seed in (0, 1))
        product = to_tensap(tensap, x) * to_tensap(tensap, y)
        assert error(from_tensap(product, x.tree), x * y) < 1e-10
        theirs = tensap.Truncator(tolerance=0, max_rank=rank).hsvd(product)
        ours = (x * y).round(rank=rank)
        assert 1e-6 < error(ours, x * y) == pytest.approx(error(from_tensap(theirs, x.tree), x * y), rel=1e-8)


def test_a_dense_tensor_is_decomposed_as_by_tensap():
    tensap = peer("tensap")
    grid = np.linspace(0, 1, 6)
    dense = 1 / (1 + sum(np.meshgrid(*[grid * (1 + mode / 4) for mode in range(4)], indexing="ij")))
    tree = htf.DimensionTree.balanced(4)
    theirs = tensap.Truncator(tolerance=1e-6).hsvd(tensap.FullTensor(dense), their_tree(tensap, tree))
    for found in (theirs.full().data, htf.hierarchical_tucker(dense, tree=tree, tol=1e-6).to_tensor()):
        assert 0 < np.linalg.norm(found - dense) <= 1e-6 * np.linalg.norm(dense)


@pytest.fixture
def trains():
    """Two trains, and the HT tensors that they are."""
    random = [tl.random.random_tt((4,) * 6, (1, 4, 5, 5, 5, 4, 1), random_state=seed) for seed in (0, 1)]
    cores = [[torch.as_tensor(core) for core in train] for train in random]
    return cores, [tensors.tt_to_ht(train) for train in cores]


def test_inner_products_are_torchtts(trains):
    torchtt = peer("torchtt")
    cores, (x, y) = trains
    a, b = (torchtt.TT(train) for train in cores)
    torch.testing.assert_close(a.full(), x.to_tensor(), rtol=1e-12, atol=1e-12)
    assert float(x.inner(y)) == pytest.approx(float(torchtt.dot(a, b)), abs=1e-12 * float(x.norm() * y.norm()))


def test_rounding_is_no_worse_than_torchtts(trains):
    torchtt = peer("torchtt")
    (cores, _), (x, _) = trains
    theirs = tensors.tt_to_ht(torchtt.TT(cores).round(0.0, 2).cores)
    # A train has ranks between neighbours only, so the leaves keep theirs.
    ours = x.round(rank=dict.fromkeys(x.tree.inner_nodes[:-1], 2))
    assert 1e-3 < error(ours, x) <= 1.01 * error(theirs, x)


def test_counts_grow_linearly_with_the_order_and_with_the_fourth_power_of_the_rank():
    rows = [ht_speed.count(order, rank) for rank in (4, 8) for order in (64, 128)]
    for what in ("inner", "rounding"):
        assert rows[1][what] == pytest.approx(2 * rows[0][what], rel=0.05)
        assert rows[3][what] < 20 * rows[1][what]


def test_the_comparison_runs_without_peers(monkeypatch, tmp_path):
    for name, sizes in (
        ("DENSE", [(4, 2)]),
        ("ROUNDING", [(4, 2, 2)]),
        ("INNER", [(4, 2, 2)]),
        ("HADAMARD", [(4, 2, 2)]),
        ("LINEAR", [(4, 2, 2)]),
        ("HIGH", [(8, 2, 2)]),
        ("COUNTS", [4]),
    ):
        monkeypatch.setattr(ht_speed, name, sizes)
    monkeypatch.setattr(ht_speed, "_installed", lambda name: False)
    monkeypatch.setattr(ht_speed, "race", lambda sides, *rest: [1.0 + (side() is None) for side in sides])
    ht_speed.main(["--json", str(tmp_path / "speed.json"), "--threads", str(torch.get_num_threads())])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["peers"] == {}
    assert [row["what"] for row in report["linear"]] == ["inner", "rounding", "hadamard and rounding"]
    assert len(report["balanced"]) == 4
    assert len(report["high orders"]) == 2
    assert all(row["ms"] and not row["ratio"] for row in report["balanced"])


def test_sources_of_python_3_12_are_imported_by_earlier_ones(monkeypatch, tmp_path):
    package = tmp_path / "peer_of_a_later_python"
    package.mkdir()
    text = '"""type Kept = 1"""\nfrom .part import Number\n\ntype Pair = tuple[Number, Number]\ntype_of = type(1)\n'
    (package / "__init__.py").write_text(text)
    (package / "part.py").write_text("type Number = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = imported_before_312("peer_of_a_later_python")
    assert found.type_of is int
    if sys.version_info < (3, 12):
        assert found.Pair == tuple[int, int]
    assert not list(tmp_path.rglob("*.pyc")) or sys.version_info >= (3, 12)
    with pytest.raises(ImportError):
        imported_before_312("no_such_peer_of_a_later_python")
