"""Decompositions of dense tensors: exactness, bounds, both directions, batches, ALS, choice of tree."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested_trees

import htf
from htf.tensors import quasi_optimality

Tree = htf.DimensionTree
METHODS = ["leaves-to-root", "root-to-leaves"]


@pytest.mark.filterwarnings("ignore:rank")
@settings(max_examples=40, deadline=None)
@given(nested_trees(max_order=5), st.data())
def test_any_tensor_on_any_tree(nested, data):
    tree = Tree.from_nested(nested)
    dims = data.draw(st.tuples(*[st.integers(1, 4)] * tree.order))
    outputs = data.draw(st.sampled_from([(), (2,)]))
    backend = data.draw(st.sampled_from([np.asarray, torch.from_numpy]))
    method = data.draw(st.sampled_from(METHODS))
    dense = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal((*dims, *outputs))
    norm = np.linalg.norm(dense)
    exact = htf.hierarchical_tucker(backend(dense), tree=tree, tol=0, method=method)
    np.testing.assert_allclose(np.asarray(exact.to_tensor()).reshape(dense.shape), dense, atol=1e-12 * norm)
    assert exact.tree == tree
    for tol in (0.5, 0.1):
        x = htf.hierarchical_tucker(backend(dense), tree=tree, tol=tol, method=method)
        assert np.linalg.norm(np.asarray(x.to_tensor()).reshape(dense.shape) - dense) <= tol * norm * (1 + 1e-12)
    # With the exact spectra at hand: the error is at most the root of all that they drop.
    rank = data.draw(st.integers(1, 2))
    x = htf.hierarchical_tucker(backend(dense), rank=dict.fromkeys(tree.edges, rank), tree=tree, method=method)
    error = np.linalg.norm(np.asarray(x.to_tensor()).reshape(dense.shape) - dense)
    tails = [float((np.asarray(s)[rank:] ** 2).sum()) for s in exact.singular_values().values()]
    assert error <= sum(tails) ** 0.5 + 1e-12 * norm


@pytest.mark.filterwarnings("ignore:rank")
@pytest.mark.parametrize("method", METHODS)
def test_error_is_quasi_optimal(method):
    x = htf.random_ht((4,) * 6, 2, random_state=0).to_tensor()
    noise = 0.05 * np.linalg.norm(x) * np.random.default_rng(1).standard_normal(x.shape) / 4**3
    y = htf.hierarchical_tucker(x + noise, rank=2, method=method)
    error = np.linalg.norm(y.to_tensor() - x - noise)
    assert error <= quasi_optimality(y.tree) * np.linalg.norm(noise)
    assert error < 1.2 * np.linalg.norm(noise)


def test_frames_are_orthonormal():
    dense = np.random.default_rng(0).standard_normal((4, 5, 3, 4))
    for method in METHODS:
        for factor in htf.hierarchical_tucker(dense, rank=3, method=method).factors[:-1]:
            frame = factor.reshape(-1, factor.shape[-1])
            np.testing.assert_allclose(frame.T @ frame, np.eye(frame.shape[1]), atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_randomized_svd_finds_what_is_there(backend):
    dense = htf.random_ht((6,) * 5, 3, random_state=0).to_backend(backend).to_tensor()
    x, y = (
        htf.hierarchical_tucker(dense, rank=3, svd="randomized_svd", oversampling=2, random_state=0) for _ in range(2)
    )
    np.testing.assert_allclose(np.asarray(x.to_tensor()), np.asarray(dense), atol=1e-10)
    for f, g in zip(x.factors, y.factors, strict=True):
        np.testing.assert_array_equal(np.asarray(f), np.asarray(g))


def test_a_batch_shares_its_frames():
    tensors = [htf.random_ht((4, 5, 4), 2, random_state=0).to_tensor() * k for k in (1, 2, -3)]
    x = htf.hierarchical_tucker(np.stack(tensors, -1), tree=Tree.balanced(3), tol=1e-10)
    assert (x.outputs, x.rank[:3]) == (3, (2, 2, 2))
    for k, dense in enumerate(tensors):
        np.testing.assert_allclose(x[..., k].to_tensor(), dense, atol=1e-10)


def test_float32_and_small_singular_values():
    dense = htf.random_ht((6,) * 4, 3, random_state=0).to_tensor()
    single = htf.hierarchical_tucker(dense.astype(np.float32), tol=1e-5)
    assert max(single.rank) == 3
    assert single.dtype == np.float32
    tiny = dense + 1e-11 * htf.random_ht((6,) * 4, 3, random_state=1).to_tensor()
    # Singular values that are 1e-11 of the largest are still told from zero.
    assert max(htf.hierarchical_tucker(tiny, tol=1e-13).rank) == 6
    assert max(htf.hierarchical_tucker(tiny, tol=1e-9).rank) == 3


def test_gradients_flow_through_a_decomposition():
    x = htf.random_ht((3, 3, 3), 2, random_state=0).to_tensor() + 0.1 * np.random.default_rng(0).normal(size=(3, 3, 3))
    dense = torch.from_numpy(x).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: htf.hierarchical_tucker(d, rank=2).to_tensor(), dense)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(6, 6), (3, 4, 5), (3, 3, 3, 3)])
def test_a_tolerance_holds(method, shape):
    rng = np.random.default_rng(0)
    for _ in range(40):
        dense, tol = rng.standard_normal(shape), rng.uniform(0.05, 0.6)
        x = htf.hierarchical_tucker(dense, tree=Tree.linear(len(shape)), tol=tol, method=method)
        assert np.linalg.norm(x.to_tensor() - dense) <= tol * np.linalg.norm(dense)
    # Both children of the root have one spectrum, so it may be cut once.
    spectrum = np.diag([1, 0.29, 0.29])
    x = htf.hierarchical_tucker(spectrum, tol=0.3, method=method)
    assert x.rank == (2, 2, 1)
    assert np.linalg.norm(x.to_tensor() - spectrum) <= 0.3 * np.linalg.norm(spectrum)


@pytest.mark.parametrize(("dtype", "value"), [(np.float64, 1.7e308), (np.float32, 3e38)])
def test_entries_as_large_as_numbers_get(dtype, value):
    """The norm is larger than any number, so the root's factor cannot hold it."""
    x = htf.hierarchical_tucker(np.full((2, 2, 2), value, dtype), tol=0)
    np.testing.assert_allclose(x.to_tensor(), value, rtol=1e-5)


def test_zero_tensors_and_vectors():
    x = htf.hierarchical_tucker(np.zeros((3, 4, 5)), tol=0.1)
    assert x.rank == (1,) * 5
    np.testing.assert_array_equal(x.to_tensor(), 0)
    np.testing.assert_allclose(htf.hierarchical_tucker(np.arange(3.0), tol=0).to_tensor(), np.arange(3.0))


def test_the_estimator_mirrors_the_function():
    dense = np.random.default_rng(0).standard_normal((4, 4, 4))
    estimator = htf.HierarchicalTucker(rank=2, tree=Tree.linear(3))
    x = estimator.fit_transform(dense)
    np.testing.assert_array_equal(
        x.to_tensor(), htf.hierarchical_tucker(dense, rank=2, tree=Tree.linear(3)).to_tensor()
    )
    assert estimator.fit(dense).decomposition_.rank == x.rank
    assert repr(estimator) == "HierarchicalTucker decomposition of rank 2."


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tensor": np.ones((3, 0, 2))}, ValueError, "mode 1 of the tensor is empty"),
        ({"tensor": np.full((3, 3), np.nan)}, ValueError, "tensor has NaN"),
        ({"tensor": [[1.0]]}, TypeError, "tensor is a list"),
        ({"tree": Tree.balanced(5)}, ValueError, "tensor has 3 axes; the tree has 5 modes"),
        ({"method": "sideways"}, ValueError, "method is 'sideways'"),
        ({"svd": "magic"}, ValueError, "svd is 'magic'"),
        ({"svd": "randomized_svd"}, ValueError, "a sketch needs a rank"),
        ({"tol": -1}, ValueError, "tol is -1"),
        ({"rank": "most"}, ValueError, "rank is 'most'"),
        ({"oversampling": -1}, ValueError, "oversampling is -1"),
        ({"oversampling": np.nan}, TypeError, "oversampling is nan; expected an integer"),
        ({"power_iterations": None}, TypeError, "power_iterations is None; expected an integer"),
        ({"power_iterations": True}, TypeError, "power_iterations is True; expected an integer"),
        ({"random_state": "1"}, TypeError, "random_state is '1'; expected an integer"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        htf.hierarchical_tucker(**{"tensor": np.ones((3, 3, 3)), "tol": 0.1, **arguments})


@pytest.mark.parametrize("given", [1e-3, 5, "same", [2, 2, 2, 2, 1]])
def test_options_are_given_by_name(given):
    """A tolerance read as a rank fraction, or a rank as a tolerance, would be silently wrong."""
    message = re.escape(f"takes its options by name: write rank={given!r} or tol={given!r}, not {given!r} by position")
    for call in (
        lambda: htf.hierarchical_tucker(np.ones((3, 3, 3)), given),
        lambda: htf.hierarchical_tucker(np.ones((3, 3, 3)), given, Tree.balanced(3)),
        lambda: htf.HierarchicalTucker(given),
        lambda: htf.ht_als(np.ones((3, 3, 3)), given),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_rank_or_a_tolerance_is_needed():
    for call in (htf.hierarchical_tucker, htf.HierarchicalTucker().fit_transform):
        with pytest.raises(ValueError, match=r"rank and tol are None; expected rank=\.\.\., tol=\.\.\."):
            call(np.ones((3, 3, 3)))


def test_a_tolerance_of_zero_loses_nothing_but_rounding_error():
    dense = htf.random_ht((6, 5, 6, 5), 3, random_state=0).to_tensor()
    x = htf.hierarchical_tucker(dense, tol=0)
    assert max(x.rank) == 3
    np.testing.assert_allclose(x.to_tensor(), dense, atol=1e-13 * np.abs(dense).max())


def test_warnings_point_at_the_callers_line():
    with pytest.warns(UserWarning, match="rank 12 of node 0") as caught:
        htf.HierarchicalTucker(rank=12).fit_transform(np.ones((3, 4, 5)))
    assert [w.filename for w in caught] == [__file__]


def test_rank_above_the_bound_is_lowered_with_a_warning():
    dense = np.random.default_rng(0).standard_normal((3, 4, 5))
    with pytest.warns(UserWarning, match="rank 12 of node 0 exceeds its bound 3"):
        x = htf.hierarchical_tucker(dense, rank=12)
    np.testing.assert_allclose(x.to_tensor(), dense, atol=1e-12)


# -- alternating least squares ----------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [Tree.balanced(4), Tree.linear(4), Tree.balanced(4, arity=3), Tree.interleaved(4)])
@pytest.mark.parametrize("backend", [np.asarray, torch.from_numpy])
def test_als_lowers_the_error_and_reports_the_true_one(tree, backend):
    dense = np.random.default_rng(0).standard_normal((4, 5, 3, 4))
    x, errors = htf.ht_als(backend(dense), rank=2, tree=tree, return_errors=True, n_iter_max=20)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0]
    true = np.linalg.norm(np.asarray(x.to_tensor()) - dense) / np.linalg.norm(dense)
    assert errors[-1] == pytest.approx(true)


def test_als_from_a_random_start_finds_a_planted_tensor():
    dense = htf.random_ht((5,) * 4, 2, random_state=0).to_tensor()
    start = htf.random_ht((5,) * 4, 2, random_state=1)
    x, errors = htf.ht_als(dense, init=start, return_errors=True, n_iter_max=200, tol=1e-14)
    assert errors[-1] < 1e-6
    assert x.rank == start.rank


@pytest.mark.parametrize(("dtype", "scale"), [("f4", 1e25), ("f4", 1e-25), ("f8", 1e-200), ("f8", 1e160)])
def test_als_at_any_scale(dtype, scale):
    dense = np.random.default_rng(0).standard_normal((5, 5, 5))
    _, expected = htf.ht_als(dense, rank=2, return_errors=True, n_iter_max=3, tol=0)
    x, errors = htf.ht_als((dense * scale).astype(dtype), rank=2, return_errors=True, n_iter_max=3, tol=0)
    assert errors == pytest.approx(expected, rel=1e-4)
    assert np.linalg.norm(x.to_tensor() / scale - dense) == pytest.approx(errors[-1] * np.linalg.norm(dense), rel=1e-4)


@pytest.mark.parametrize(("dtype", "most"), [("f8", 1e-14), ("f4", 1e-6)])
def test_als_reports_the_error_of_a_tensor_that_it_meets(dtype, most):
    """A difference of the squared norms would be zero, or the root of the rounding error."""
    dense = htf.random_ht((5, 6, 7), 2, random_state=0).to_tensor().astype(dtype)
    x, errors = htf.ht_als(dense, rank=2, return_errors=True)
    true = np.linalg.norm(x.to_tensor().astype("f8") - dense.astype("f8")) / np.linalg.norm(dense)
    assert errors[-1] == pytest.approx(true, rel=0.2)
    assert 0 < errors[-1] < most


def test_als_takes_batches_zeros_and_refuses_what_does_not_fit():
    batch = np.random.default_rng(0).standard_normal((3, 4, 3, 2))
    assert htf.ht_als(batch, rank=2, tree=Tree.balanced(3)).outputs == 2
    np.testing.assert_array_equal(htf.ht_als(np.zeros((3, 3)), rank=1).to_tensor(), 0)
    with pytest.raises(ValueError, match="rank and init are None"):
        htf.ht_als(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"init has shape \(2, 2\)"):
        htf.ht_als(np.ones((3, 3)), init=htf.random_ht((2, 2), 1))


# -- choice of tree ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
def test_the_tree_that_a_tensor_was_made_on_is_as_good_as_the_one_found(method):
    for tree in (Tree.interleaved(8), Tree.from_nested((((3, 0), (5, 1)), ((2, 4), (7, 6))))):
        dense = htf.random_ht((3,) * 8, 2, tree, random_state=0).to_tensor()
        found = htf.optimize_tree(dense, tol=1e-8, method=method)
        parameters = htf.hierarchical_tucker(dense, tree=found, tol=1e-8).n_parameters
        assert parameters <= htf.hierarchical_tucker(dense, tree=tree, tol=1e-8).n_parameters
        assert parameters < htf.hierarchical_tucker(dense, tol=1e-8).n_parameters


def test_exhaustive_search_beats_every_tree_that_is_drawn():
    dense = np.random.default_rng(0).standard_normal((2, 3, 2, 3, 2))
    best = htf.hierarchical_tucker(dense, tree=htf.optimize_tree(dense, 0.3), tol=0.3)
    rng = np.random.default_rng(1)
    for _ in range(20):
        nodes = list(range(5))
        while len(nodes) > 1:
            i, j = sorted(rng.choice(len(nodes), 2, replace=False))
            nodes[i] = (nodes[i], nodes.pop(j))
        exact = htf.hierarchical_tucker(dense, tree=Tree.from_nested(nodes[0]), tol=0.3, method="root-to-leaves")
        assert best.n_parameters <= exact.n_parameters


def test_bad_arguments_of_the_choice():
    with pytest.raises(ValueError, match="order 1"):
        htf.optimize_tree(np.ones(3), tol=0.1)
    with pytest.raises(ValueError, match="tol is 5; expected a positive relative error below 1"):
        htf.optimize_tree(np.ones((3, 3)), 5)
    with pytest.raises(ValueError, match="tol is 0"):
        htf.optimize_tree(np.ones((3, 3)), tol=0)
    with pytest.raises(ValueError, match="method is 'best'"):
        htf.optimize_tree(np.ones((3, 3)), tol=0.1, method="best")
    with pytest.raises(ValueError, match="NaN"):
        htf.optimize_tree(np.full((3, 3), np.nan), tol=0.1)
    assert htf.optimize_tree(np.ones((3, 3)), tol=0.1) == Tree.balanced(2)


def test_als_checks_the_tensor_and_takes_one_start():
    start = htf.random_ht((3, 4, 5), 2, random_state=0)
    with pytest.raises(ValueError, match="tensor has NaN"):
        htf.ht_als(np.full((3, 4, 5), np.nan), init=start)
    with pytest.raises(ValueError, match="init is given beside rank or tree"):
        htf.ht_als(np.ones((3, 4, 5)), rank=2, init=start)
