"""Overlaps of frames, and of the rest of tensors, against matrices written out."""

import numpy as np
import pytest

from htf import DimensionTree
from htf.linalg.dense import products_of_others
from htf.tensors.overlaps import log_norm, overlaps_above, overlaps_below

TREE = DimensionTree.from_nested(((0, 1, 2), 3, (4, 5)))
ROOT = TREE.root


@pytest.mark.parametrize("count", range(6))
def test_products_of_others_keep_their_sides(count):
    factors = "abcde"[:count]
    products = products_of_others("first", factors, lambda a, b: a + b)
    assert len(products) == count
    for k, found in enumerate(products):
        # Factors before the one left out are multiplied from the first one on, those behind it from the last one on.
        assert found == "first" + factors[:k] + factors[k + 1 :][::-1]


def drawn(seed, diagonal):
    rng, width = np.random.default_rng(seed), 3
    leaves = [rng.normal(size=(2 + mode % 3, width)) for mode in TREE.leaves]
    columns = {node: 2 if node == ROOT else width for node in TREE.inner_nodes}
    arity = {node: 1 if diagonal else len(TREE.children(node)) for node in TREE.inner_nodes}
    return [*leaves, *(rng.normal(size=(*[width] * arity[n], columns[n])) for n in TREE.inner_nodes)]


def contracted(factors, nodes, axes):
    """The factors of some nodes contracted to a matrix of the last axis: n for a node's rank, 20 + m for mode m."""
    operands = []
    for node in nodes:
        factor, children = factors[node], TREE.children(node)
        if children and factor.ndim == 2:
            # Transfer tensors that are diagonal, written out.
            full = np.zeros((*[len(factor)] * len(children), factor.shape[1]))
            for r, row in enumerate(factor):
                full[(r,) * len(children)] = row
            factor = full
        operands += [factor, [*(children or [20 + node]), node]]
    return np.einsum(*operands, axes, optimize=True).reshape(-1, factors[axes[-1]].shape[-1])


def both_sides(factors, node):
    """U and A of the matricization U Aᵀ."""
    inside = [n for n in range(ROOT) if set(TREE.modes(n)) <= set(TREE.modes(node))]
    rest = [n for n in range(ROOT + 1) if n not in inside]
    others = [20 + mode for mode in TREE.leaves if mode not in TREE.modes(node)]
    U = contracted(factors, inside, [*(20 + mode for mode in TREE.modes(node)), node])
    return U, contracted(factors, rest, [*others, ROOT, node])


def over_largest(matrix):
    return matrix / np.abs(matrix).max()


@pytest.mark.parametrize("edges", [range(ROOT), [0], [4, 2], [6]])
@pytest.mark.parametrize("diagonal", [False, True])
def test_overlaps_are_those_of_the_matrices(diagonal, edges):
    first, second = drawn(0, diagonal), drawn(1, diagonal)
    below, logs = overlaps_below(TREE, first, second, diagonal)
    above = overlaps_above(TREE, first, second, below, edges, diagonal)
    assert set(edges) <= set(above)
    for node in edges:
        (U, A), (V, B) = both_sides(first, node), both_sides(second, node)
        log = sum(logs[n] for n in range(ROOT) if set(TREE.modes(n)) <= set(TREE.modes(node)))
        np.testing.assert_allclose(below[node] * np.exp(log), U.T @ V, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(above[node], over_largest(A.T @ B), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_log_norm_beyond_the_range_of_doubles(diagonal, scale):
    factors = drawn(0, diagonal)
    U, A = both_sides(factors, 3)
    expected = np.log(np.linalg.norm(U @ A.T)) + len(factors) * np.log(scale)
    assert float(log_norm(TREE, [factor * scale for factor in factors], diagonal)) == pytest.approx(expected)
    assert float(log_norm(TREE, [factor * 0 for factor in factors], diagonal)) == -np.inf
