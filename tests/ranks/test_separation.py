"""Separation ranks across bipartitions on the tree and off it, against dense matricizations."""

import itertools

import numpy as np
import pytest
import torch
from ranks.cases import TREES, assert_spectrum, dense, dense_spectrum, ht_tensor, network

import htf
from htf import ranks


def bipartitions(order):
    return [modes for size in range(1, order) for modes in itertools.combinations(range(order), size)]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_bipartition(tree, outputs):
    cases = [ht_tensor(tree, outputs), ht_tensor(tree, outputs, "pytorch"), network(tree, outputs)]
    for x in cases:
        tensor = dense(x)
        for modes in bipartitions(tree.order):
            expected = dense_spectrum(tensor, modes)
            assert_spectrum(ranks.separation_spectrum(x, modes), expected)
            assert ranks.separation_rank(x, modes) == (expected > 1e-10 * expected[0]).sum()


def test_modes_may_come_in_any_order():
    x = ht_tensor(TREES["crossed"])
    np.testing.assert_array_equal(ranks.separation_spectrum(x, (4, 0)), ranks.separation_spectrum(x, (0, -1)))


def test_low_ranks_are_found():
    x = htf.random_ht((3,) * 6, 1, random_state=0)
    y = htf.random_ht((3,) * 6, 1, random_state=1)
    assert ranks.separation_rank(x + y, (0, 2, 4)) == 2
    assert ranks.separation_rank(x + y * 1e-5, (0, 2, 4), tol=1e-3) == 1


def test_the_runs_of_a_network():
    net = network(TREES["crossed"], runs=2)
    for run in range(2):
        assert_spectrum(ranks.separation_spectrum(net, (0, 1), run), dense_spectrum(dense(net, run), (0, 1)))


def test_cp_networks_of_high_order():
    net = htf.nn.CPNetwork((3,) * 200, 4, seed=0, dtype=torch.float64)
    assert ranks.separation_rank(net, range(0, 200, 2)) == 4


def test_a_cut_that_crosses_a_large_tree_once():
    net = htf.nn.HTNetwork(htf.DimensionTree.grid(8, 8), 2, 3, seed=0, dtype=torch.float64)
    quarter = net.tree.modes(net.tree.children(net.tree.root)[0])
    assert ranks.separation_rank(net, quarter[:-1]) == 6


@pytest.mark.parametrize(
    ("modes", "error", "match"),
    [
        ((), ValueError, "modes is empty"),
        ((0, 0), ValueError, "repeats"),
        ((0, -5), ValueError, "repeats"),
        (range(5), ValueError, "all 5 modes"),
        ((5,), IndexError, "mode is 5"),
    ],
)
def test_bad_modes(modes, error, match):
    with pytest.raises(error, match=match):
        ranks.separation_rank(ht_tensor(TREES["binary"]), modes)


def test_bad_tolerance_and_run():
    with pytest.raises(ValueError, match="tol is -1"):
        ranks.separation_rank(ht_tensor(TREES["binary"]), (0,), tol=-1)
    with pytest.raises(IndexError, match="run is 3"):
        ranks.separation_rank(network(TREES["binary"]), (0,), run=3)
