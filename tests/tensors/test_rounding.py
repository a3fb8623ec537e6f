"""Truncation: bounds, large ranks, float32, gradients, special tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested_trees

import htf
from htf import tensors
from htf.linalg.dense import left_singular, orthonormal
from htf.tensors import HTTensor, quasi_optimality, random_ht

Tree = htf.DimensionTree
NUMPY = htf.linalg.backend._named("numpy")


@settings(max_examples=30, deadline=None)
@given(nested_trees(max_order=6), st.integers(0, 100), st.sampled_from([1e-8, 1e-3, 0.1]))
def test_error_is_within_the_quasi_optimality_bound(nested, seed, noise):
    tree = Tree.from_nested(nested)
    x = random_ht((3,) * tree.order, 2, tree, random_state=seed)
    y = random_ht((3,) * tree.order, 3, tree, random_state=seed + 1)
    z = x / x.norm() + y * (noise / float(y.norm()))
    # x is a tensor of these ranks at a distance of `noise`, so the best one is no farther.
    error = float(tensors.ht_distance(z.round(rank=x.rank), z))
    assert error <= quasi_optimality(tree) * noise * (1 + 1e-9)
    assert z.round(tol=quasi_optimality(tree) * noise * (1 + 1e-6)).n_parameters <= x.round().n_parameters


def test_bound_counts_the_spectra():
    assert quasi_optimality(Tree.balanced(4)) == pytest.approx((2 * 4 - 3) ** 0.5)
    assert quasi_optimality(Tree.linear(7)) == pytest.approx((2 * 7 - 3) ** 0.5)
    assert quasi_optimality(Tree.balanced(4), outputs=2) == pytest.approx(6**0.5)
    assert quasi_optimality(Tree.balanced(5, arity=5)) == pytest.approx(5**0.5)


@pytest.mark.parametrize("decades", [0, 2, 4, 6, 12])
def test_orthonormal_and_singular_vectors_are_accurate_at_any_condition(decades):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    matrix = rng.standard_normal((1600, 40)) @ np.diag(np.logspace(0, -decades, 40)) @ rotation
    Q, R = orthonormal(NUMPY, matrix)
    np.testing.assert_allclose(Q.T @ Q, np.eye(40), atol=1e-13)
    np.testing.assert_allclose(Q @ R, matrix, atol=1e-12)
    U, S = left_singular(NUMPY, np.ascontiguousarray(matrix.T))
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(S, expected, atol=1e-12 * expected[0])
    np.testing.assert_allclose(U.T @ U, np.eye(40), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(U.T @ matrix.T, axis=1), S, atol=1e-12 * S[0])


def test_singular_vectors_of_a_matrix_of_low_rank():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((30, 5)) @ rng.standard_normal((5, 2000))
    U, S = left_singular(NUMPY, matrix)
    assert (S[5:] < 1e-12 * S[0]).all()
    np.testing.assert_allclose(U.T @ U, np.eye(30), atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_large_ranks_take_the_fast_path_to_the_same_end(decay, backend):
    x = random_ht((6,) * 4, {4: 30, 5: 30}, Tree.balanced(4), random_state=0)
    x = HTTensor((x.tree, [f * np.logspace(0, -decay, f.shape[-1]) if f.shape[-1] > 1 else f for f in x.factors]))
    product = (x * x).to_backend(backend)
    whole = np.asarray(product.to_tensor())
    spectrum = np.linalg.svd(whole.reshape(36, 36), compute_uv=False)
    found = np.asarray(product.singular_values()[4])
    np.testing.assert_allclose(found, spectrum[: len(found)], atol=1e-12 * spectrum[0])
    np.testing.assert_allclose(np.asarray(product.orthogonalize().to_tensor()), whole, atol=1e-11 * abs(whole).max())
    rounded = product.round(tol=1e-3)
    assert np.linalg.norm(np.asarray(rounded.to_tensor()) - whole) <= 1e-3 * np.linalg.norm(whole)


def test_deep_rounding_of_a_sum_that_cancels():
    x, y = (random_ht((4,) * 16, 5, random_state=seed) for seed in (0, 1))
    z = (x + y * 1e-9 - x).round(tol=1e-3)
    # What is left is a billionth of what was added: the spectra must resolve it.
    assert float(tensors.ht_distance(z, y * 1e-9)) <= 1.01e-3 * 1e-9 * float(y.norm()) + 1e-14 * float(x.norm())
    assert z.n_parameters <= y.round().n_parameters


def test_rounding_in_single_precision_reaches_its_own_precision():
    x = random_ht((4,) * 8, 4, random_state=0).to(np.float32)
    z = (x * 2 - x).round(tol=3e-6)
    assert z.rank == x.round().rank
    assert float(tensors.ht_distance(z, x)) <= 1e-5 * float(x.norm())


def test_rounding_is_differentiable_where_its_spectra_are_simple():
    x = random_ht((3, 3, 3, 3), 3, random_state=0).to_backend("pytorch").requires_grad_()

    def values(*factors):
        return HTTensor((x.tree, factors)).round(rank=2).to_tensor()

    assert torch.autograd.gradcheck(values, x.factors)


def test_round_without_arguments_drops_only_what_is_zero():
    x = random_ht((4, 4, 4, 4), 2, random_state=0)
    z = (x + x + x).round()
    assert z.rank == x.rank
    np.testing.assert_allclose(z.to_tensor(), 3 * x.to_tensor(), atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_zero_tensor_has_rank_one_and_zero_spectra(backend):
    x = (random_ht((3, 4, 5), 2, random_state=0) * 0).to_backend(backend)
    z = x.round(tol=1e-3)
    assert z.rank == (1,) * 5
    assert float(z.norm()) == 0
    assert all(float(s[0]) == 0 for s in x.singular_values().values())
    assert float(tensors.ht_distance(x, x)) == 0
    np.testing.assert_array_equal(np.asarray(x.change_tree(Tree.linear(3)).to_tensor()), 0)
    np.testing.assert_array_equal(np.asarray(x.round(rank=1, method="randomized", random_state=0).to_tensor()), 0)


def test_randomized_rounding_is_close_to_the_best_and_reproducible():
    x = random_ht((6,) * 6, 12, random_state=0)
    decaying = HTTensor((x.tree, [f * np.logspace(0, -4, f.shape[-1]) for f in x.factors[:-1]] + [x.factors[-1]]))
    best = float(tensors.ht_distance(decaying.round(rank=4), decaying))
    first, second = (decaying.round(rank=4, method="randomized", random_state=3) for _ in range(2))
    for f, g in zip(first.factors, second.factors, strict=True):
        np.testing.assert_array_equal(f, g)
    assert max(first.rank) == 4
    assert float(tensors.ht_distance(first, decaying)) <= 2 * best


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tol": -1.0}, ValueError, "tol is -1.0"),
        ({"tol": "small"}, TypeError, "tol is 'small'"),
        ({"tol": float("nan")}, ValueError, "tol is nan"),
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": [1, 2]}, ValueError, "rank has 2 entries; the tree has 5 nodes"),
        ({"rank": {9: 1}}, ValueError, "names node 9"),
        ({"rank": {4: 2}}, ValueError, r"root \(node 4\) is 2"),
        ({"method": "randomized"}, ValueError, "a sketch needs a rank"),
        ({"method": "magic", "rank": 1}, ValueError, "method is 'magic'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        random_ht((3, 4, 5), 2, random_state=0).round(**arguments)


def test_nan_is_named_by_its_node():
    x = random_ht((3, 4, 5), 2, random_state=0)
    x.factors[3][0, 0, 0] = np.nan
    for call in (x.round, x.orthogonalize, x.singular_values):
        with pytest.raises(ValueError, match="factor of node 3 has NaN"):
            call()


def test_sums_of_nothing_and_of_a_single_tensor():
    x = random_ht((3, 4, 5), 2, random_state=0)
    with pytest.raises(ValueError, match="ht_tensors is empty"):
        tensors.ht_round_sum([])
    with pytest.raises(TypeError, match="is one HTTensor"):
        tensors.ht_round_sum(x)
    with pytest.raises(ValueError, match="weights has 2 values; there are 1"):
        tensors.ht_round_sum([x], weights=[1, 2])


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_sketches_of_summands_keep_their_proportions(backend):
    summands = [random_ht((6,) * 6, 3, random_state=seed).to_backend(backend) for seed in range(10)]
    weights = [10.0**-k for k in range(10)]
    whole = tensors.ht_add(*(x * w for x, w in zip(summands, weights, strict=True)))
    best, sketched = (
        float(tensors.ht_distance(tensors.ht_round_sum(summands, weights, rank=12, method=m, random_state=0), whole))
        for m in ("svd", "randomized")
    )
    assert sketched <= 2 * best
    with pytest.raises(ValueError, match="oversampling is -1"):
        summands[0].round(rank=1, method="randomized", oversampling=-1)
    # Options that only the other method reads are checked too.
    for oversampling in (np.nan, True, None, 1.5):
        with pytest.raises(TypeError, match=f"oversampling is {oversampling}; expected an integer"):
            summands[0].round(rank=1, oversampling=oversampling)
    with pytest.raises(TypeError, match="random_state is '1'; expected an integer"):
        summands[0].round(rank=1, random_state="1")


def test_norms_whose_squares_leave_the_range_of_their_dtype():
    x = random_ht((20,) * 300, 3, random_state=0)
    assert 1e180 < float(x.norm()) < 1e200
    assert max(x.round(tol=1e-6).rank) == 3
    y = random_ht((10,) * 64, 3, random_state=0).to(np.float32)
    assert max(y.round(tol=1e-5).rank) == 3
    small = random_ht((3, 4, 5), 2, random_state=0)
    assert float((small * 1e-170).norm()) == pytest.approx(1e-170 * float(small.norm()))
    assert float(tensors.ht_distance(small * 1e-170, small * 0)) == pytest.approx(1e-170 * float(small.norm()))
    assert ((small + small) * 1e-170).round(tol=1e-8).rank == small.rank
    dense = (np.random.default_rng(0).standard_normal((6, 6, 6)) * 1e20).astype(np.float32)
    z = htf.hierarchical_tucker(dense, tol=1e-3)
    assert np.linalg.norm((z.to_tensor() - dense) / 1e20) <= 1e-3 * np.linalg.norm(dense / 1e20)


def test_a_norm_that_no_number_can_hold_is_spread_over_the_leaves():
    x = random_ht((20,) * 500, 3, random_state=0)
    z = x.round(tol=1e-6)
    assert max(z.rank) == 3
    rows = np.random.default_rng(0).integers(0, 20, (20, 500))
    np.testing.assert_allclose(z.entries(rows), x.entries(rows), rtol=1e-3, atol=1e-3)
    for call in (x.orthogonalize, x.singular_values):
        with pytest.raises(OverflowError, match="beyond the range of float64"):
            call()


@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 1e-10), (np.float32, 0.1)])
def test_so_is_a_norm_that_is_smaller_than_all(dtype, scale):
    x = random_ht((2,) * 40, 2, random_state=0)
    x = htf.HTTensor((x.tree, [f * scale for f in x.factors])).to(dtype)
    assert float(htf.ranks.log_norm(x.round(tol=1e-2))) == pytest.approx(float(htf.ranks.log_norm(x)), abs=1e-3)
    with pytest.raises(OverflowError, match="below the smallest number of float"):
        x.orthogonalize()


def test_derivatives_where_the_value_is_zero():
    """Linear in each factor: zero there, but with the slope that it has elsewhere."""
    x, y = (random_ht((2,) * 40, 2, random_state=seed).to_backend("pytorch") for seed in (0, 1))
    slopes = []
    for root in (x.factors[-1], 0 * x.factors[-1]):
        root = root.clone().requires_grad_()
        slopes.append(
            torch.autograd.grad(tensors.ht_inner(htf.HTTensor((x.tree, [*x.factors[:-1], root])), y), root)[0]
        )
    torch.testing.assert_close(*slopes)
    assert float(slopes[0].norm()) > 0


@pytest.mark.parametrize("order", [4, 40])
def test_zero_beside_large_factors_is_zero(order):
    x = random_ht((2,) * order, 2, random_state=0)
    factors = [f * 1e100 for f in x.factors]
    factors[0] = 0 * factors[0]
    x = htf.HTTensor((x.tree, factors))
    norms = [x.norm(), tensors.ht_distance(x, x), x.round(tol=0.1).norm(), x.orthogonalize().norm()]
    if order > 32:  # Below, products are taken as they stand.
        norms.append(tensors.ht_inner(x, x))
    assert norms == [0] * len(norms)
    assert not any(values.any() for values in x.singular_values().values())
