"""Every operation on every kind of HT tensor, against the dense tensor."""

import tracemalloc

import numpy as np
import pytest
import tensorly as tl
import torch
from ht_cases import HTTensorTestCase, dense, densely, operations, squeezed
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested_trees

import htf
from htf import tensors
from htf.tensors import HTTensor, random_ht

Tree = htf.DimensionTree


class TestBinary(HTTensorTestCase):
    def make(self, seed):
        return random_ht((3, 2, 4, 3), 3, Tree.balanced(4), random_state=seed)


class TestEqualDimensions(HTTensorTestCase):
    def make(self, seed):
        return random_ht((3, 3, 3), 2, Tree.balanced(3), random_state=seed)


class TestTernary(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 3, 2), 2, Tree.from_nested(((3, 0, 1), (4, 2))), random_state=seed)


class TestThreeChildrenOfTheRoot(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 3), 2, Tree.from_nested(((0, 1), 3, 2)), random_state=seed)


class TestTucker(HTTensorTestCase):
    def make(self, seed):
        return random_ht((3, 2, 4), (2, 2, 3, 1), Tree.balanced(3, arity=3), random_state=seed)


class TestTensorTrain(HTTensorTestCase):
    def make(self, seed):
        cores = tl.random.random_tt((3, 2, 4, 3), (1, 2, 3, 2, 1), random_state=seed)
        return tensors.tt_to_ht(cores)


class TestCP(HTTensorTestCase):
    def make(self, seed):
        return tensors.cp_to_ht(tl.random.random_cp((4, 3, 4, 3), 2, random_state=seed), Tree.balanced(4))


class TestConvAC(HTTensorTestCase):
    def make(self, seed):
        network = htf.nn.HTNetwork(Tree.balanced(4), (2, 3, 2, 3), {4: 2, 5: 2, 6: 2}, seed=seed, dtype=torch.float64)
        return network.to_tensor().detach().to_backend("numpy")


class TestSeveralOutputs(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 2), 3, Tree.balanced(4), random_state=seed, outputs=2)


class TestSeveralOutputsOfThreeChildren(HTTensorTestCase):
    def make(self, seed):
        return random_ht((2, 3, 2, 2), 2, Tree.from_nested((1, (0, 3), 2)), random_state=seed, outputs=3)


class TestDimensionOneAndRankOne(HTTensorTestCase):
    def make(self, seed):
        return random_ht((1, 3, 1, 2), 1, Tree.linear(4), random_state=seed)


class TestMatrix(HTTensorTestCase):
    def make(self, seed):
        return random_ht((4, 3), 2, random_state=seed)


class TestVector(HTTensorTestCase):
    def make(self, seed):
        return random_ht((4,), 1, random_state=seed)


@settings(max_examples=40, deadline=None)
@given(nested_trees(max_order=5), st.data())
def test_any_tree_dimensions_and_ranks(nested, data):
    tree = Tree.from_nested(nested)
    dims = data.draw(st.tuples(*[st.integers(1, 3)] * tree.order))
    outputs = data.draw(st.integers(1, 2))
    bounds = tensors.rank_bounds(tree, dims, outputs)
    drawn = {node: data.draw(st.integers(1, max(bounds[node], 1))) for node in tree.edges}
    ranks = {node: min(rank, 3) for node, rank in drawn.items()}
    with np.errstate(all="raise"):
        x, y = (_any(tree, dims, ranks, outputs, seed) for seed in (0, 1))
    a, b = (squeezed(dense(z.tree, z.factors)) for z in (x, y))
    for name, (ours, theirs) in operations(x).items():
        expected = theirs(a, b)
        scale = float(expected.abs().max()) + float(a.abs().max()) + 1
        torch.testing.assert_close(densely(ours(x, y)), expected, rtol=0, atol=1e-9 * scale, msg=name)


def _any(tree, dims, ranks, outputs, seed):
    """Ranks as they were drawn, whether or not a tensor of these dimensions can have them."""
    rng = np.random.default_rng(seed)
    full = {**ranks, tree.root: outputs}
    return HTTensor(
        (
            tree,
            [
                rng.standard_normal((*((dims[n],) if n < tree.order else (full[c] for c in tree.children(n))), full[n]))
                for n in range(tree.n_nodes)
            ],
        )
    )


@settings(max_examples=25, deadline=None)
@given(nested_trees(max_order=5), nested_trees(max_order=5), st.data())
def test_any_two_modes_contract(first, second, data):
    x, y = (
        random_ht((2,) * Tree.from_nested(n).order, 2, Tree.from_nested(n), random_state=0) for n in (first, second)
    )
    count = data.draw(st.integers(1, min(x.order, y.order)))
    left = data.draw(st.permutations(range(x.order)))[:count]
    right = data.draw(st.permutations(range(y.order)))[:count]
    expected = np.tensordot(x.to_tensor(), y.to_tensor(), (left, right))
    found = x.tensordot(y, (left, right))
    assert found.shape == expected.shape
    np.testing.assert_allclose(densely(found).numpy(), expected, atol=1e-10 * (1 + abs(expected).max()))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_key_is_read_by_numpys_rules(data):
    x = random_ht((3, 2, 4, 3), 2, random_state=0, outputs=data.draw(st.integers(1, 2)))
    whole = x.to_tensor()
    length = data.draw(st.integers(1, 3))

    def key(dim):
        return st.one_of(
            st.integers(-dim, dim - 1),
            st.slices(dim).filter(lambda s: len(range(dim)[s])),
            st.lists(st.integers(-dim, dim - 1), min_size=length, max_size=length),
            st.just([True] + [False] * (dim - 1)) if length == 1 else st.just(slice(None)),
        )

    keys = tuple(data.draw(key(dim)) for dim in x.dims[: data.draw(st.integers(1, 4))])
    expected = whole[keys]
    np.testing.assert_allclose(densely(x[keys]).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((0, 5), "index 5 is out of range for mode 1 with dimension 2"),
        ((0, [0, 2]), "index 2 is out of range for mode 1 with dimension 2"),
        ((0, [-3, 0]), "index -3 is out of range for mode 1 with dimension 2"),
        ((0,) * 5, "too many indices: 5 for 4"),
        ((None, 0), "no new axes"),
        ((..., ...), "several Ellipses"),
        ((slice(3, 3),), "selects nothing"),
        (([0, 1], [0, 1, 1]), "do not broadcast"),
        (([[0, 1]], slice(None)), "beside whole modes it can have one"),
        ((0.5,), "expected integers"),
        (([True, False],), "mask of mode 0 has shape"),
    ],
)
def test_bad_keys_say_what_is_wrong(key, message):
    x = random_ht((3, 2, 4, 3), 2, random_state=0)
    with pytest.raises(IndexError, match=message):
        x[key]


def test_entries_of_an_astronomic_tensor():
    x = random_ht((2,) * 200, 3, random_state=0)
    rows = np.random.default_rng(0).integers(0, 2, (50, 200))
    ones = tensors.cp_to_ht((None, [np.ones((2, 1))] * 200))
    np.testing.assert_allclose((x * ones).entries(rows), x.entries(rows), rtol=1e-9)
    single = x[tuple(rows[7])]
    np.testing.assert_allclose(single, x.entries(rows)[7])
    assert x[tuple(rows.T)].shape == (50,)


def test_entries_are_read_in_chunks_without_a_seam(monkeypatch):
    from htf.tensors import indexing

    x = random_ht((3, 4, 2, 3), 3, random_state=0)
    rows = np.stack(np.unravel_index(np.arange(72), x.shape), 1)
    monkeypatch.setattr(indexing, "_CHUNK_ENTRIES", 50)
    np.testing.assert_allclose(x.entries(rows), x.to_vec(), atol=1e-12)


def test_entries_of_many_modes_are_read_in_bounded_memory(monkeypatch):
    from htf.tensors import indexing

    x = random_ht((2,) * 64, 8, random_state=0)
    rows = np.random.default_rng(0).integers(0, 2, (4000, 64))
    monkeypatch.setattr(indexing, "_CHUNK_ENTRIES", 2**16)
    tracemalloc.start()
    try:
        x.entries(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Half a megabyte beside a copy of the indices; all leaves' rows at once would take sixteen.
    assert peak < rows.nbytes + 2**20


def test_inner_products_at_order_1024_stay_in_range():
    exact = random_ht((2,) * 1024, 2, random_state=0, orthogonal=True)
    exact = exact / np.linalg.norm(exact.factors[-1])
    # A factor of 3 or 1/3 at each leaf leaves the range of single precision on the way.
    x, y = (
        HTTensor((exact.tree, [f * scale if n < 1024 else f for n, f in enumerate(exact.factors)])).to(np.float32)
        for scale in (3.0, 1 / 3.0)
    )
    np.testing.assert_allclose(x.inner(y), 1, rtol=1e-3)
    # The tensor with its scale undone at the leaves has the same norm, whatever its factors look like.
    undone = HTTensor((x.tree, [f * 3.0**64 if n % 64 == 0 and n < 1024 else f / 3 if n < 1024 and n % 64 else f
                                for n, f in enumerate(exact.factors)])).to(np.float32)  # fmt: skip
    scale = 3.0 ** (64 * 16 - (1024 - 16))
    np.testing.assert_allclose(np.linalg.norm(undone.orthogonalize().factors[-1]), scale, rtol=1e-3)


def test_scale_of_high_orders_has_right_gradients():
    x = random_ht((2,) * 64, 2, random_state=0).to_backend("pytorch").requires_grad_()
    gradients = torch.autograd.grad(x.inner(x), x.factors)
    # The inner product is linear in each factor twice over: ⟨f, ∂/∂f⟩ is twice the value at every node.
    for factor, gradient in zip(x.factors, gradients, strict=True):
        torch.testing.assert_close((factor * gradient).sum(), 2 * x.inner(x))
