"""Arrays that arrive block by block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import htf
from htf.tree import DimensionTree


def dense_array(*dims):
    grids = np.ogrid[tuple(slice(n) for n in dims)]
    total = sum(grids)
    return 1 / (1.0 + total) + 0.3 * np.sin(0.3 * total + 0.05 * grids[0] * grids[-1])


X = dense_array(13, 8, 7, 6)


def streamed(array, axis, lengths, **options):
    stream = htf.HTStream(axis=axis, **options)
    start = 0
    for length in lengths:
        key = (slice(None),) * (axis % array.ndim) + (slice(start, start + length),)
        stream.update(array[key])
        start += length
    return stream


def error(x, array):
    return np.linalg.norm(np.asarray(x.to_tensor()) - np.asarray(array)) / np.linalg.norm(array)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("tol", [3e-2, 1e-4, 1e-9])
def test_error_is_within_the_bound_and_the_bound_within_the_tolerance(axis, tol):
    length = X.shape[axis]
    stream = streamed(X, axis, [1, 2, length - 3], tol=tol)
    x = stream.tensor
    assert x.shape == stream.shape == X.shape
    assert stream.n_blocks == 3
    assert error(x, X) <= stream.error_bound <= tol * (1 + 1e-12)
    once = htf.hierarchical_tucker(X, tol=tol)
    assert x.tree == once.tree
    assert x.n_parameters <= 1.15 * once.n_parameters
    # Frames are orthonormal.
    for leaf in x.tree.leaves:
        np.testing.assert_allclose(x.factors[leaf].T @ x.factors[leaf], np.eye(x.rank[leaf]), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_array_tree_and_blocks(data):
    order = data.draw(st.integers(2, 5))
    dims = data.draw(st.tuples(*[st.integers(1, 4)] * order))
    array = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(dims)
    kind = data.draw(st.sampled_from(["balanced", "linear", "cp", "interleaved"]))
    tree = {
        "balanced": DimensionTree.balanced,
        "linear": DimensionTree.linear,
        "cp": lambda n: DimensionTree.from_nested(tuple(range(n))),
        "interleaved": DimensionTree.interleaved,
    }[kind](order)
    axis = data.draw(st.integers(0, order - 1))
    tol = data.draw(st.sampled_from([0, 1e-8, 0.1, 0.5]))
    lengths, left = [], dims[axis]
    while left:
        lengths.append(data.draw(st.integers(1, left)))
        left -= lengths[-1]
    stream = streamed(array, axis, lengths, tol=tol, tree=tree)
    x = stream.tensor
    assert x.tree == tree
    assert x.shape == array.shape
    assert error(x, array) <= max(tol, 1e-13)
    assert stream.error_bound <= max(tol, 1e-12)


def test_every_moment_of_a_growing_series_is_within_the_tolerance():
    stream = htf.HTStream(tol=1e-3, axis=0)
    for step in range(X.shape[0]):
        stream.update(X[step : step + 1])
        assert error(stream.tensor, X[: step + 1]) <= stream.error_bound <= 1e-3
        assert stream.tensor is stream.tensor


def test_a_block_within_the_frames_adds_nothing_and_one_outside_adds_ranks():
    rng = np.random.default_rng(0)
    first = np.einsum("a,b,c->abc", *(rng.standard_normal(n) for n in (4, 6, 5)))
    second = np.einsum("a,b,c->abc", *(rng.standard_normal(n) for n in (4, 6, 5)))
    stream = htf.HTStream(tol=1e-6, axis=0)
    stream.update(first)
    stream.update(2 * first)
    assert stream.tensor.rank == (1, 1, 1, 1, 1)
    stream.update(second)
    assert max(stream.tensor.rank) == 2
    assert error(stream.tensor, np.concatenate([first, 2 * first, second])) < 1e-12


def test_small_blocks_may_drop_what_is_small_for_the_series():
    loud = dense_array(6, 5, 4)
    noise = 1e-6 * np.random.default_rng(0).standard_normal((6, 5, 4))
    x = streamed(np.concatenate([loud, noise]), 0, [6, 6], tol=1e-3).tensor
    assert x.rank == htf.hierarchical_tucker(loud, tol=1e-3).rank


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_squares_of_entries_may_leave_the_range(scale):
    x = streamed(X * scale, 0, [6, 7], tol=1e-6).tensor
    np.testing.assert_allclose(x.to_tensor() / scale, X, rtol=0, atol=1e-5)


def test_zeros_and_zero_blocks():
    assert not streamed(np.zeros((4, 3, 2)), 0, [2, 2], tol=1e-3).tensor.to_tensor().any()
    array = np.concatenate([np.zeros((2, 8, 7)), dense_array(3, 8, 7), np.zeros((1, 8, 7))])
    assert error(streamed(array, 0, [2, 3, 1], tol=1e-6).tensor, array) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch(dtype):
    array = torch.from_numpy(X).to(dtype)
    x = streamed(array, 1, [3, 3, 2], tol=1e-3).tensor
    assert x.dtype == dtype
    assert error(x, X) < 1e-3


def test_integers_are_promoted():
    array = np.arange(60).reshape(3, 4, 5)
    stream = streamed(array, 0, [1, 2], tol=1e-10)
    assert stream.tensor.dtype == np.float64
    assert error(stream.tensor, array) < 1e-10
    with pytest.raises(TypeError, match="block 2 has dtype float64; the first had int64"):
        stream.update(array * 1.0)


@pytest.mark.parametrize(
    ("block", "kind", "message"),
    [
        (np.ones((2, 4, 6)), ValueError, r"block 1 has shape \(2, 4, 6\); expected \(any, 4, 5\), as of the first"),
        (np.ones((2, 4)), ValueError, r"block 1 has shape \(2, 4\); expected \(any, 4, 5\)"),
        (np.ones((2, 4, 5), np.float32), TypeError, "block 1 has dtype float32; the first had float64"),
        (torch.ones(2, 4, 5, dtype=torch.float64), TypeError, "block 1 is a Tensor; the first was a ndarray"),
        (np.full((2, 4, 5), np.nan), ValueError, "block 1 has NaN or infinite entries"),
        (np.ones((0, 4, 5)), ValueError, "mode 0 of the block is empty"),
        ([[1.0]], TypeError, "block is a list"),
        (np.ones((2, 4, 5), bool), TypeError, "block has dtype bool"),
    ],
)
def test_a_block_that_does_not_fit_is_named_and_nothing_follows_it_unasked(block, kind, message):
    first = dense_array(3, 4, 5)
    stream = htf.HTStream(tol=1e-8)
    stream.update(first)
    with pytest.raises(kind, match=message):
        stream.update(block)
    with pytest.raises(RuntimeError, match=r"block 1 ended with an error .*resume\(\) accepts others"):
        stream.update(first)
    # What was there is kept.
    assert error(stream.tensor, first) < 1e-8
    stream.resume()
    stream.update(first)
    assert error(stream.tensor, np.concatenate([first, first])) < 1e-8


def test_an_interrupted_block_leaves_the_stream_as_it_was(monkeypatch):
    first = dense_array(3, 4, 5)
    stream = htf.HTStream(tol=1e-8)
    stream.update(first)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("htf.decomposition.stream.SeriesTree.project", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.update(first)
    monkeypatch.undo()
    assert error(stream.tensor, first) < 1e-8
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        stream.update(first)


def test_arguments():
    with pytest.raises(TypeError, match="write tol="):
        htf.HTStream(0.1, tol=0.1)
    with pytest.raises(TypeError, match="tol is None"):
        htf.HTStream(tol=None)
    with pytest.raises(ValueError, match="tol is -1"):
        htf.HTStream(tol=-1)
    with pytest.raises(TypeError, match=r"axis is 0\.5; expected an integer"):
        htf.HTStream(tol=0.1, axis=0.5)
    with pytest.raises(TypeError, match="axis is True; expected an integer"):
        htf.HTStream(tol=0.1, axis=True)
    with pytest.raises(TypeError, match="tree is a tuple"):
        htf.HTStream(tol=0.1, tree=(0, 1))
    with pytest.raises(ValueError, match="the stream has no blocks yet"):
        _ = htf.HTStream(tol=0.1).tensor
    with pytest.raises(IndexError, match="axis is 3; the block has axes 0 to 2"):
        htf.HTStream(tol=0.1, axis=3).update(np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="expected two axes or more"):
        htf.HTStream(tol=0.1).update(np.ones(3))
    with pytest.raises(ValueError, match="tree has 2 modes; the block has 3"):
        htf.HTStream(tol=0.1, tree=DimensionTree.balanced(2)).update(np.ones((2, 2, 2)))
    assert repr(htf.HTStream(tol=0.1)) == "HTStream(tol=0.1, axis=0): no blocks yet"
    assert repr(streamed(np.ones((4, 2)), 0, [1, 3], tol=0.1)) == "HTStream(tol=0.1, axis=0): 2 blocks, shape (4, 2)"


@pytest.mark.parametrize("axis", [0, 2])
def test_complex(axis):
    array = X[:, :, :, 0] + 1j * np.cos(X[:, :, :, 1] * 5 + np.arange(7))
    for kind in (array, torch.from_numpy(array)):
        stream = streamed(kind, axis, [3, array.shape[axis] - 3], tol=1e-5)
        assert error(stream.tensor, array) <= stream.error_bound <= 1e-5
        assert str(stream.tensor.dtype).endswith("complex128")
