"""Arrangements of features: what they find, laws, and what is refused."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

import htf
from htf import DimensionTree
from htf.arrangement.cuts import nearest, placed
from htf.arrangement.layout import Layout
from htf.arrangement.similarity import similarities
from htf.arrangement.swaps import Exchanges
from htf.ranks import data_entanglement

METHODS = ["entanglement", "correlation", "spectral", "igtd"]


def signals(features=16, samples=400, seed=0):
    """Random walks, whose features tell of each other the more the nearer they are, in random order."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, features)).cumsum(1)
    shuffled = rng.permutation(features)
    return x[:, shuffled], shuffled


def fields(side=6, samples=600, seed=0):
    """Smooth images, pixels in random order."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), 2).reshape(-1, 2)
    covariance = np.exp(-(((at[:, None] - at) ** 2).sum(2)) / 8)
    x = rng.multivariate_normal(np.zeros(side**2), covariance, size=samples, method="cholesky")
    shuffled = rng.permutation(side**2)
    return x[:, shuffled], at[shuffled].astype(float)


def distance(grid, at):
    """Mean distance of neighbours of a grid."""
    places = at[grid]
    steps = [places[1:] - places[:-1], places[:, 1:] - places[:, :-1]]
    return float(np.concatenate([np.linalg.norm(step, axis=2).ravel() for step in steps]).mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_a_signal_is_found(method):
    x, shuffled = signals()
    order = htf.arrange(x, method=method, cut="spectral", trials=20).order
    assert sorted(order) == list(range(16))
    steps = np.abs(np.diff(shuffled[order]))
    assert steps.mean() < 2.5  # of neighbours in random order 5.7


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_images_are_put_together(method):
    x, at = fields()
    arranged = htf.arrange(x, method=method, cut="spectral", trials=5, samples=60)
    grid = arranged.grid(6, 6)
    assert sorted(grid.ravel()) == list(range(36))
    assert distance(grid, at) < 1.9  # in random order 3.1, as they were 1


def test_images_are_the_features_at_the_cells():
    x, _ = signals()
    arranged = htf.arrange(x, method="correlation", cut="spectral")
    grid = arranged.grid(3, 6)
    assert sorted(grid.ravel()) == [-1, -1, *range(16)]
    images = arranged.images(x, 3, 6)
    assert images.shape == (400, 3, 6)
    for row, column in np.ndindex(3, 6):
        expected = 0 if grid[row, column] < 0 else x[:, grid[row, column]]
        np.testing.assert_array_equal(images[:, row, column], expected)
    tensor = arranged.images(torch.from_numpy(x), 3, 6)
    np.testing.assert_array_equal(tensor.numpy(), images)


def test_the_tree_joins_halves_of_the_order_and_serves_networks():
    x, _ = signals(13)
    arranged = htf.arrange(x, method="correlation", cut="spectral")
    assert arranged.tree.order == 13
    assert arranged.tree.modes(arranged.tree.root) == tuple(arranged.order)
    sizes = [len(arranged.tree.modes(child)) for child in arranged.tree.children(arranged.tree.root)]
    assert sizes == [7, 6]
    net = htf.nn.HTNetwork(arranged.tree, dims=2, width=3, seed=0)
    assert net(torch.ones(5, 13, dtype=torch.int64)).shape[0] == 5


@pytest.mark.parametrize("labelled", [False, True])
def test_arrangement_lowers_entanglement_and_exchanges_lower_it_further(labelled):
    x, shuffled = signals(16, 120)
    labels = (x[:, np.argsort(shuffled)[8]] > x[:, np.argsort(shuffled)[4]]).astype(int) if labelled else None

    def mean(tree):
        return data_entanglement(x, labels, tree).mean

    cut = htf.arrange(x, labels, "correlation", cut="spectral")
    exchanged = htf.arrange(x, labels, cut="spectral", samples=120, trials=60)
    assert mean(exchanged.tree) <= mean(cut.tree) < 0.95 * mean(DimensionTree.balanced(16))


def test_exchanges_are_measured_exactly_and_never_raise_the_total():
    x, _ = signals(10, 40)
    weights = similarities(torch.from_numpy(x), "correlation")
    layout = Layout.of(1, 10)
    start = np.random.default_rng(0).permutation(10)  # no cuts: much to exchange
    tensor = htf.arrange(x, samples=40)._tensor
    exchanges = Exchanges(tensor, layout, start, weights)

    def total(found):
        tree = layout.tree(found)
        entropies = data_entanglement(x, tree=tree).entropies
        return sum(entropies[node] for node in tree.edges if node not in tree.leaves)

    totals = [exchanges.total]
    assert totals[0] == pytest.approx(total(start), abs=1e-8)
    kept = 0
    for _ in range(20):
        kept += exchanges.lower(1)
        totals.append(exchanges.total)
        assert exchanges.total == pytest.approx(total(exchanges.found), abs=1e-8)
    assert kept >= 3
    assert all(after <= before for before, after in pairwise(totals))
    assert totals[-1] < 0.9 * totals[0]


def test_exchanges_in_reach_of_orthogonal_samples():
    """One-hot vectors are orthogonal or alike: products of zeros, whose logarithms have none."""
    x = torch.randint(0, 3, (30, 6), generator=torch.Generator().manual_seed(0))
    vectors = htf.datasets.one_hot(x, 3).double()
    arranged = htf.arrange(vectors, samples=30, trials=10, cut="spectral")
    tree = arranged.tree
    layout, found = arranged._placed(1, 6)
    exchanges = Exchanges(arranged._tensor, layout, found, arranged.similarities)
    entropies = data_entanglement(vectors, tree=tree).entropies
    inner = sum(entropies[node] for node in tree.edges if node not in tree.leaves)
    assert exchanges.total == pytest.approx(inner, abs=1e-8)


def test_cuts_by_kernighan_and_lin_are_as_small_as_any():
    """All balanced cuts of ten features are compared."""
    from itertools import combinations

    weights = np.random.default_rng(0).random((10, 10)) ** 3
    weights = np.triu(weights, 1) + np.triu(weights, 1).T

    def cut(part):
        inside = np.isin(np.arange(10), part)
        return weights[np.ix_(inside, ~inside)].sum()

    found = placed(weights, Layout.of(1, 10), "spectral", 0)
    cuts = sorted(cut(part) for part in combinations(range(10), 5))
    assert cut(found[:5]) <= cuts[len(cuts) // 20]


def test_similarities_are_correlations():
    x, _ = signals(5, 50)
    found = similarities(torch.from_numpy(x), "correlation")
    expected = np.abs(np.corrcoef(x.T)) - np.eye(5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    vectors = torch.from_numpy(x).unsqueeze(2) @ torch.ones(1, 3, dtype=torch.float64)
    np.testing.assert_allclose(similarities(vectors, "correlation"), expected, atol=1e-12)


def test_mutual_information_sees_what_correlation_does_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4))
    x[:, 1] = x[:, 0] ** 2
    found = {kind: similarities(torch.from_numpy(x), kind) for kind in ("correlation", "mutual_information")}
    assert found["correlation"][0, 1] < 0.2
    assert found["mutual_information"][0, 1] > 0.5
    assert found["mutual_information"][2, 3] < 0.05
    tree = htf.arrange(x, method="correlation", similarity="mutual_information", cut="spectral").tree
    assert tree.find((0, 1)) is not None


@pytest.mark.parametrize("method", METHODS)
def test_constant_features_and_copies_are_put_together(method):
    x, _ = signals(6)
    x = np.concatenate([x, np.ones((400, 2)), x[:, :1]], 1)  # 6 and 7 are constant, 8 is a copy of 0
    arranged = htf.arrange(x, method=method, cut="spectral", trials=10)
    places = np.argsort(arranged.order)
    assert abs(places[6] - places[7]) == 1
    assert abs(places[0] - places[8]) <= 2
    assert sorted(arranged.grid(3, 3).ravel()) == list(range(9))


def test_a_seed_gives_the_same_again():
    x, _ = fields()
    first, second = (htf.arrange(x, np.arange(600) % 2, seed=3, samples=40, trials=5) for _ in range(2))
    np.testing.assert_array_equal(first.order, second.order)
    np.testing.assert_array_equal(first.grid(6, 6), second.grid(6, 6))
    assert first.settings == second.settings
    assert first.settings["seed"] == 3


def test_seeds_of_any_library_are_one_seed():
    features = np.random.default_rng(0).random((20, 6))
    expected = htf.arrange(features, seed=2, cut="spectral").order
    for seed in (np.int64(2), torch.tensor(2), np.array(2)):
        assert list(htf.arrange(features, seed=seed, cut="spectral").order) == list(expected)


def test_nearest_edges():
    weights = np.array([[0, 3, 2, 1], [3, 0, 5, 4], [2, 5, 0, 6], [1, 4, 6, 0.0]])
    expected = np.array([[0, 3, 0, 0], [3, 0, 5, 0], [0, 5, 0, 6], [0, 0, 6, 0.0]])
    np.testing.assert_array_equal(nearest(weights, 1), expected)
    np.testing.assert_array_equal(nearest(weights, 9), weights)


def test_metis_cuts_as_spectral_ones_do_or_is_missed_by_name(monkeypatch):
    x, at = fields()
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"cut is 'metis' and pymetis is not installed; install htf-tensors\[arrange\]"
    ):
        htf.arrange(x, cut="metis")
    assert htf.arrange(x, method="correlation").cut == "spectral"
    monkeypatch.undo()
    pytest.importorskip("pymetis")
    arranged = htf.arrange(x, method="correlation")
    assert arranged.cut == "metis"
    assert distance(arranged.grid(6, 6), at) < 1.9


def test_figures():
    x, _ = signals()
    arranged = htf.arrange(x, method="correlation", cut="spectral")
    figure = arranged.plot()
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), arranged.similarities)
    order = arranged.order
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), arranged.similarities[np.ix_(order, order)])
    picture = arranged.plot(3, 6).axes[2].images[0].get_array()
    grid = arranged.grid(3, 6)
    beside = [grid[0, 0], grid[1, 1], grid[0, 2]]
    expected = np.mean([arranged.similarities[grid[0, 1], each] for each in beside if each >= 0])
    assert picture[0, 1] == pytest.approx(expected)
    with pytest.raises(ValueError, match="height is 3 and width None"):
        arranged.plot(3)
    assert "16 features, method='correlation'" in repr(arranged)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": np.ones((9, 6))}, ValueError, "features are constant"),
        ({"features": np.full((9, 6), np.inf)}, ValueError, "NaN or infinite"),
        ({"features": np.eye(9)[:, :3]}, ValueError, "features has 3 features; expected at least 4"),
        ({"features": np.zeros((9, 6, 2, 2)) + np.arange(9)[:, None, None, None]}, ValueError, "features has shape"),
        ({"features": [["a"] * 6] * 9}, TypeError, "expected real numbers"),
        ({"labels": np.zeros(9)}, ValueError, "labels has one class"),
        ({"labels": np.arange(8)}, ValueError, "labels has shape"),
        (
            {"method": "metis"},
            ValueError,
            "method is 'metis'; expected one of entanglement, correlation, spectral, igtd",
        ),
        ({"similarity": "cosine"}, ValueError, "similarity is 'cosine'; expected one of correlation, mutual"),
        ({"cut": "kernighan"}, ValueError, "cut is 'kernighan'; expected one of auto, metis, spectral"),
        ({"neighbours": 0}, ValueError, "neighbours is 0"),
        ({"samples": 1}, ValueError, "samples is 1"),
        ({"trials": -1}, ValueError, "trials is -1"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": True}, TypeError, "seed is True; expected an integer"),
        ({"features": torch.ones(9, 6, device="meta")}, TypeError, "features is on the meta device"),
        ({"features": torch.ones(9, 6).to_sparse()}, TypeError, "features is a tensor of layout torch.sparse_coo"),
        ({"encoder": lambda x: torch.ones(9, 5, 2)}, ValueError, "encoder gives vectors for 5 features; expected 6"),
        (
            {"features": np.random.default_rng(0).random((9, 6, 2)), "similarity": "mutual_information"},
            ValueError,
            "features are vectors",
        ),
    ],
)
def test_what_is_refused(change, error, message):
    arguments = {"features": np.random.default_rng(0).random((9, 6))} | change
    with pytest.raises(error, match=message):
        htf.arrange(arguments.pop("features"), **arguments)


def test_grids_that_do_not_hold_the_features_and_others():
    arranged = htf.arrange(signals()[0], method="correlation")
    with pytest.raises(ValueError, match="grid of 3 x 5 has 15 cells; expected one for each of 16 features"):
        arranged.grid(3, 5)
    with pytest.raises(ValueError, match="height is 0"):
        arranged.grid(0, 16)
    with pytest.raises(TypeError, match="width is"):
        arranged.grid(8, 2.5)
    with pytest.raises(ValueError, match=r"features has shape \(2, 15\); expected \(samples, 16\)"):
        arranged.images(np.ones((2, 15)), 4, 4)
