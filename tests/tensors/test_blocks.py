"""Operations with one product per block of nodes of equal shape: the results of steps per node, at any order."""

import numpy as np
import pytest
import torch
from ht_cases import HTTensorTestCase

import htf
from htf.tensors import _blocks, ht_distance, ht_round_sum, random_ht

Tree = htf.DimensionTree


@pytest.fixture
def by_blocks(monkeypatch):
    for name in ("_FEWEST_NODES", "_NODES_A_BLOCK", "_UNSCALED_NODES"):
        monkeypatch.setattr(_blocks, name, 0)


def per_node(call):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "_FEWEST_NODES", 10**9)
        return call()


@pytest.mark.usefixtures("by_blocks")
class TestUnbalanced(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 2, 3), 2, Tree.balanced(5), random_state=seed)


@pytest.mark.usefixtures("by_blocks")
class TestOfThreeChildrenAndOutputs(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 2), 2, Tree.from_nested((1, (0, 3), 2)), random_state=seed, outputs=2)


# -- the schedule ---------------------------------------------------------------------------------------


def test_a_balanced_tree_has_a_block_a_level_and_is_grouped_once():
    x = random_ht((4,) * 64, 3, random_state=0)
    schedule = _blocks.schedule_of([x])
    assert [len(block.nodes) for block in schedule] == [64, 32, 16, 8, 4, 2, 1]
    y = random_ht((4,) * 64, 3, Tree.balanced(64), random_state=1)
    assert _blocks.schedule_of([y]) is schedule
    assert sorted(node for block in schedule for node in block.nodes) == list(range(x.tree.n_nodes))


@pytest.mark.parametrize(
    "x",
    [
        random_ht((4,) * 16, 3, random_state=0),
        random_ht((3,) * 100, 3, Tree.linear(100), random_state=0),
        random_ht((17,) * 64, 17, random_state=0),
    ],
    ids=["few nodes", "one node a level", "large factors"],
)
def test_steps_per_node_are_kept_where_they_are_as_fast(x):
    assert _blocks.schedule_of([x]) is None


# -- values at high orders --------------------------------------------------------------------------------


def ragged(order, seed, backend="numpy"):
    """Ranks and dimensions of two kinds, on a tree that leaves nodes over; of norm about 1."""
    dims = [2 + mode % 5 // 4 for mode in range(order)]
    tree = Tree.balanced(order)
    ranks = [2 + (node % 7 == 0) for node in range(tree.n_nodes - 1)] + [1]
    with pytest.warns(UserWarning, match="lowered"):
        x = random_ht(dims, ranks, tree, random_state=seed)
    factors = [f / np.sqrt(dims[node]) if node < order else f for node, f in enumerate(x.factors)]
    return htf.HTTensor((tree, factors)).to_backend(backend)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("order", [90, 301])
def test_high_orders_give_what_steps_per_node_give(order, backend):
    x, y = ragged(order, 0, backend), ragged(order, 1, backend)
    assert _blocks.schedule_of([x]) is not None
    rows = np.random.default_rng(0).integers(0, 2, (7, order))
    for call in (
        lambda: x.norm(),
        lambda: x.inner(x + y),
        lambda: ht_distance(x, y),
        lambda: x.contract([f[:, 0] for f in x.factors[:order]]),
        lambda: (x + y + x).entries(rows),
        lambda: (x * y).entries(rows),
        lambda: x.orthogonalize().entries(rows),
        lambda: (x + x).round(tol=1e-13).norm(),
    ):
        expected = torch.as_tensor(per_node(call))
        size = max(float(expected.abs().max()), 1e-3 * float(x.norm()))
        assert torch.allclose(torch.as_tensor(call()), expected, rtol=1e-10, atol=1e-11 * size)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize(
    "how", [{"rank": 1}, {"tol": 0.3}, {"tol": 1e-13}, {"rank": 2, "tol": 1e-3}, {"rank": {150: 1}}, {}]
)
def test_rounding_finds_ranks_and_errors_of_steps_per_node(how, backend):
    x, y = ragged(90, 0, backend), ragged(90, 1, backend)
    for summands in ([x], [x, y, x]):
        exact = per_node(lambda summands=summands: htf.tensors.ht_add(*summands))
        rounded = ht_round_sum(summands, **how)
        expected = per_node(lambda summands=summands: ht_round_sum(summands, **how))
        # Leaves whose ranks are within bounds are looked at or kept whole all together.
        assert all(a <= b for a, b in zip(rounded.rank, expected.rank, strict=True))
        assert rounded.rank[90:] == expected.rank[90:]
        errors = [float(ht_distance(side, exact)) for side in (rounded, expected)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-6, abs=1e-12 * float(exact.norm()))


def test_singular_values_of_a_high_order_are_those_of_steps_per_node():
    x = ragged(301, 0)
    expected = per_node(x.singular_values)
    found = x.singular_values()
    assert list(found) == sorted(expected)
    largest = max(float(values[0]) for values in expected.values())
    for node, values in expected.items():
        assert np.allclose(found[node], values[: len(found[node])], rtol=1e-9, atol=1e-13 * largest)
        assert (values[len(found[node]) :] < 1e-12 * largest).all()


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_orders_whose_norms_no_number_holds_are_rounded(backend, dtype):
    # The norm is about 2^1500; entries are of size one.
    x = random_ht((8,) * 1000, 3, random_state=0, dtype=np.dtype("float64"))
    x = htf.tensors.ht_scale(x, 1j).to_backend(backend) if dtype == "complex128" else x.to_backend(backend)
    x = x.to(getattr(torch, dtype) if backend == "pytorch" else np.dtype(dtype))
    assert float(x.norm()) == np.inf
    with pytest.raises(OverflowError, match="beyond the range"):
        x.orthogonalize()
    rounded = (x + x).round(tol=1e-5)
    assert max(rounded.rank) == 3
    rows = np.random.default_rng(0).integers(0, 8, (4, 1000))
    assert torch.allclose(
        torch.as_tensor(rounded.entries(rows)), 2 * torch.as_tensor(x.entries(rows)), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_factors_far_from_one_are_divided(scale):
    x = ragged(90, 0)
    factors = list(x.factors)
    factors[5], factors[100] = factors[5] * scale, factors[100] / scale
    factors[6], factors[101] = factors[6] * scale, factors[101] / scale
    y = htf.HTTensor((x.tree, factors))
    assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-12)
    assert float(y.inner(x)) == pytest.approx(float(x.norm()) ** 2, rel=1e-12)
    assert float(ht_distance(y.round(tol=1e-13), x)) < 1e-11 * float(x.norm())
    assert float(y.sum()) == pytest.approx(float(x.sum()), rel=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_entries_that_are_not_finite_are_named(backend, bad):
    x = ragged(90, 0)
    x.factors[120] = x.factors[120] * bad
    x = x.to_backend(backend)
    for call in (x.orthogonalize, x.singular_values, lambda: x.round(rank=1)):
        with pytest.raises(ValueError, match="node 120 has NaN or infinite"):
            call()


def test_gradients_of_a_high_order_are_those_of_steps_per_node():
    x, y = ragged(90, 0, "pytorch"), ragged(90, 1, "pytorch").detach()
    probe = ragged(90, 2, "pytorch")
    for call in (
        lambda: x.norm(),
        lambda: x.inner(y),
        lambda: ht_distance(x, y),
        lambda: x.orthogonalize().inner(probe),
        lambda: x.round(rank=1).inner(probe),
        lambda: x.sum(),
    ):
        found = []
        for run in (lambda call: call(), per_node):
            x.requires_grad_()
            for factor in x.factors:
                factor.grad = None
            run(call).backward()
            found.append([factor.grad.clone() for factor in x.factors])
        scale = max(float(g.abs().max()) for g in found[1])
        for own, expected in zip(*found, strict=True):
            assert torch.allclose(own, expected, rtol=1e-7, atol=1e-9 * scale)


def test_factors_of_a_result_are_each_their_own():
    x = ragged(90, 0, "pytorch")
    rounded, kept = x.round(rank=1), None
    kept = rounded.copy()
    with torch.no_grad():
        rounded.factors[3].mul_(2)
        rounded.requires_grad_().factors[4].mul_(2)
    assert all(torch.equal(rounded.factors[k], kept.factors[k]) for k in range(x.tree.n_nodes) if k not in (3, 4))


# -- accuracy ----------------------------------------------------------------------------------------------


def graded(order, rank, smallest, seed, backend="numpy"):
    """Orthonormal frames, and singular values that fall to `smallest` in equal ratios on every edge below the root."""
    x = random_ht((rank,) * order, rank, Tree.balanced(order), orthogonal=True, random_state=seed)
    decay = np.logspace(0, np.log10(smallest), rank)
    factors = [
        f * (decay if 0 < f.shape[-1] == rank and node != x.tree.root else 1) for node, f in enumerate(x.factors)
    ]
    return htf.HTTensor((x.tree, factors)).to_backend(backend)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("order", [8, 64])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9, 1e-12])
def test_errors_on_graded_spectra_are_within_the_tolerance_and_not_far_below(tol, order, backend):
    x = graded(order, 6, 1e-7, 0, backend)
    rounded = x.round(tol=tol)
    error = float(ht_distance(rounded, x)) / float(x.norm())
    assert error <= tol
    # Ranks are as low as steps with singular value decompositions of all edges find them.
    expected = per_node(lambda: x.round(tol=tol))
    assert rounded.rank == expected.rank
    if tol > 1e-9:
        assert rounded.n_parameters < x.n_parameters


# -- linear trees --------------------------------------------------------------------------------------------


def test_linear_trees_of_high_order_round_read_and_save(tmp_path):
    order = 2000
    x = random_ht((3,) * order, 2, Tree.linear(order), random_state=0)
    x = htf.HTTensor((x.tree, [f / np.sqrt(3) if node < order else f for node, f in enumerate(x.factors)]))
    rounded = (x + x).round(tol=1e-10)
    assert max(rounded.rank) == 2
    assert float(x.inner(rounded)) == pytest.approx(2 * float(x.norm()) ** 2, rel=1e-9)
    htf.save(rounded, tmp_path / "x.safetensors")
    rows = np.random.default_rng(0).integers(0, 3, (20, order))
    entries = htf.load(tmp_path / "x.safetensors").entries(rows)
    assert np.allclose(entries, 2 * x.entries(rows), rtol=1e-8, atol=0)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("nested", [Tree.linear(8).nested, (7, ((((((0, 1), 2), 5), 4), 3), 6))])
def test_linear_trees_keep_what_their_spectra_promise(nested, dtype, backend):
    # Spectra below are those of a tensor that is truncated above; their errors add up as if they were not.
    tree = Tree.from_nested(nested)
    for seed in range(3):
        x = random_ht((4,) * 8, 6, tree, random_state=seed, dtype=np.dtype(dtype))
        x = htf.HTTensor((tree, [f * np.logspace(0, -2, f.shape[-1]) for f in x.factors])).to_backend(backend)
        spectra = {node: np.asarray(values) for node, values in x.singular_values().items()}
        for rank in (dict.fromkeys(tree.inner_nodes[:-1], 2), 2, 1):
            rounded = x.round(rank=rank)
            own = (node for node in spectra if node != tree.children(tree.root)[1])  # a binary root's share one
            bound = np.sqrt(sum((spectra[node][rounded.rank[node] :] ** 2).sum() for node in own))
            assert float(ht_distance(rounded, x)) <= bound * (1 + 1e-10)
        for tol in (0.3, 1e-2, 1e-5, 1e-12):
            assert float(ht_distance(x.round(tol=tol), x)) <= tol * float(x.norm())


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_products_on_linear_trees_are_rounded_to_what_dense_arithmetic_gives(backend):
    # Ranks of 49 with 7 to be kept, which the Gramian of the shorter side serves; and spectra for which it does not.
    for decay in (0.0, -8.0):
        x, y = (random_ht((4,) * 9, 7, Tree.linear(9), random_state=seed) for seed in (0, 1))
        x, y = (
            htf.HTTensor((z.tree, [f * np.logspace(0, decay, f.shape[-1]) for f in z.factors])).to_backend(backend)
            for z in (x, y)
        )
        product = x * y
        rounded = product.round(rank=dict.fromkeys(x.tree.inner_nodes[:-1], 7))
        exact = product.singular_values()
        dropped = {node: np.asarray(exact[node])[rounded.rank[node] :] for node in x.tree.inner_nodes[:-1]}
        error = float(ht_distance(rounded, product))
        assert max(np.linalg.norm(d) for d in dropped.values()) * (1 - 1e-6) <= error
        assert error <= np.sqrt(sum((d**2).sum() for d in dropped.values())) + 1e-12 * float(product.norm())
