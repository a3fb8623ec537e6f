"""Dense steps against what NumPy finds in double precision."""

import itertools

import numpy as np
import pytest
import torch

from htf.linalg.backend import backend_of
from htf.linalg.chain import meeting_point
from htf.linalg.dense import left_singular
from htf.linalg.scaling import frobenius

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("count", [None, 1, 2, 3])
def test_singular_values_that_are_asked_for_are_accurate(count):
    # Their squares span more digits than a Gramian in double precision has.
    values = np.array([1.0, 1e-7, 1e-11, 1e-15])
    U, _ = np.linalg.qr(GENERATOR.standard_normal((4, 4)))
    V, _ = np.linalg.qr(GENERATOR.standard_normal((400, 4)))
    matrix = (U * values) @ V.T
    vectors, found = left_singular(backend_of(matrix), matrix, count)
    first = 3 if count is None else count
    np.testing.assert_allclose(found[:first], values[:first], rtol=1e-4)
    np.testing.assert_allclose(np.abs(vectors.T @ U)[:first, :first], np.eye(first), atol=1e-3)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_frobenius_norms_at_every_scale(make, scale):
    array = GENERATOR.standard_normal((5, 7)).astype(np.float32)
    scaled = (scale * array.astype(np.float64)).astype(np.float32)
    found = frobenius(backend_of(make(scaled)), make(scaled))
    assert float(found) == pytest.approx(np.linalg.norm(scaled.astype(np.float64)), rel=1e-6, abs=0)


def test_chains_are_cut_where_it_is_cheapest():
    for sizes in itertools.product((2, 3, 50), repeat=4):
        # Three matrices: the product of the first two or of the last two, then so many scalar products.
        for pairs in (1, 40, 10_000):
            m, k, n, p = sizes
            costs = {1: k * n * p + pairs * k, 2: m * k * n + pairs * n}
            split, cost = meeting_point(sizes, pairs)
            assert cost == min(costs.values()) == costs[split]
    assert meeting_point((4, 3, 5), 10) == (1, 30)
    assert meeting_point((4, 3), 10) == (0, 0)
