"""Equality with tensap and torchTT on the same tensors, where they are installed."""

import ht_speed
import pytest

import htf

pytestmark = pytest.mark.filterwarnings("ignore")


def test_spectra_and_rounding_errors_are_tensaps():
    pytest.importorskip("tensap", reason="tensap is not installed")
    for order, dim, rank in [(4, 6, 4), (6, 5, 8), (8, 4, 5)]:
        x, y = (ht_speed._decaying(order, dim, rank, seed) for seed in (0, 1))
        # These raise where spectra, errors or products differ by more than 1e-10; nothing is timed.
        ht_speed._rounding(x, y, rank, repeats=0)
        ht_speed._inner(x, y, rank, repeats=0)
        ht_speed._hadamard(x, y, rank // 2, repeats=0)
    ht_speed._hsvd(4, 6, repeats=0)


def test_products_and_rounding_errors_are_torchtts():
    pytest.importorskip("torchtt", reason="torchTT is not installed")
    ht_speed._trains(6, 4, 5, repeats=0)


def test_counts_grow_linearly_with_the_order_and_with_the_fourth_power_of_the_rank():
    rows = [ht_speed.count(order, rank) for rank in (4, 8) for order in (64, 128)]
    for what in ("inner", "rounding"):
        assert rows[1][what] == pytest.approx(2 * rows[0][what], rel=0.05)
        assert rows[3][what] < 20 * rows[1][what]


def test_trees_are_handed_over_and_back():
    tensap = pytest.importorskip("tensap", reason="tensap is not installed")
    x = htf.random_ht((3, 2, 4), 2, random_state=0)
    back = ht_speed._from_tensap(ht_speed._to_tensap(x), x.tree)
    assert isinstance(ht_speed._tensap_tree(x.tree), tensap.DimensionTree)
    assert float(htf.tensors.ht_distance(x, back)) == pytest.approx(0, abs=1e-12)
