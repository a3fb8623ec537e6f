"""Draws have the distribution that they should have."""

import numpy as np
import pytest
from scipy.stats import chisquare

import htf
from htf import tensors
from htf.tensors import random_ht, sampling

Tree = htf.DimensionTree


def positive(shape, seed=0, rank=2):
    return tensors.cp_to_ht((None, [np.random.RandomState(seed + m).rand(n, rank) for m, n in enumerate(shape)]))


def significance(rows, probabilities):
    """The p-value of the χ² test of index rows against probabilities of all entries."""
    expected = probabilities.reshape(-1) / probabilities.sum() * len(rows)
    counts = np.bincount(np.ravel_multi_index(rows.T, probabilities.shape), minlength=expected.size)
    # Rare entries together, as the test asks for some of each.
    rare = expected < 5
    assert not counts[expected == 0].any()
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    return chisquare(counts[keep], expected[keep]).pvalue


@pytest.mark.parametrize("merged", [1, 16, 1000])
def test_small_subtrees_are_drawn_at_once(merged, monkeypatch):
    monkeypatch.setattr(sampling, "_MERGED", merged)
    y = positive((3, 2, 4, 3)).change_tree(Tree.from_nested(((3, 0), (2, 1))))
    assert significance(y.sample(5000, random_state=1), y.to_tensor() ** 2) > 1e-3
    assert significance(y.sample(5000, random_state=1, by="entries"), y.to_tensor()) > 1e-3


@pytest.mark.parametrize("count", [300, 3000, 30000])
@pytest.mark.parametrize("tree", [Tree.balanced(4), Tree.linear(4), Tree.balanced(4, arity=4)])
def test_squares_and_entries_at_three_sizes(count, tree):
    shape = (3, 2, 4, 3)
    x = random_ht(shape, 2, tree, random_state=0, like=np.zeros(1, complex))
    y = positive(shape).change_tree(tree)
    assert significance(x.sample(count, random_state=1), abs(x.to_tensor()) ** 2) > 1e-3
    assert significance(x.real.sample(count, random_state=1), x.real.to_tensor() ** 2) > 1e-3
    assert significance(y.sample(count, random_state=1, by="entries"), y.to_tensor()) > 1e-3
    assert x.sample(count, random_state=1).shape == (count, 4)


def test_negative_factors_of_nonnegative_entries():
    y = positive((3, 2, 4, 3)).orthogonalize()
    assert min(f.min() for f in y.factors) < 0
    assert significance(y.sample(20000, random_state=1, by="entries"), y.to_tensor()) > 1e-3


@pytest.mark.parametrize("by", ["squares", "entries"])
def test_conditionals_on_given_modes(by):
    y = positive((3, 2, 4, 3))
    weights = y.to_tensor() ** (2 if by == "squares" else 1)
    rows = y.sample(20000, random_state=0, by=by, given={0: 2, -1: 1})
    assert set(rows[:, 0]) == {2}
    assert set(rows[:, 3]) == {1}
    assert significance(rows[:, 1:3], weights[2, :, :, 1]) > 1e-3
    index = np.random.RandomState(0).randint(0, 4, 20000)
    rows = y.sample(20000, random_state=0, by=by, given={2: index})
    np.testing.assert_array_equal(rows[:, 2], index)
    for value in range(4):
        assert significance(rows[index == value][:, [0, 1, 3]], weights[:, :, value]) > 1e-3
    everything = y.sample(5, by=by, given=dict.fromkeys(range(4), 1))
    np.testing.assert_array_equal(everything, 1)


def test_draws_do_not_depend_on_backends_and_follow_the_seed():
    x = random_ht((3,) * 9, 3, random_state=0)
    rows = x.sample(200, random_state=5)
    np.testing.assert_array_equal(x.to_backend("pytorch").sample(200, random_state=5), rows)
    assert (x.sample(200, random_state=6) != rows).any()
    assert x.sample(0).shape == (0, 9)
    np.testing.assert_allclose(x.entries(rows), x.to_tensor()[tuple(rows.T)], atol=1e-10)


def test_batches_and_high_orders(monkeypatch):
    monkeypatch.setattr(sampling, "_CHUNK_ROWS", 64)
    x = positive((3, 2, 4, 3))
    assert significance(x.sample(5000, random_state=0), x.to_tensor() ** 2) > 1e-3
    # Products over the modes are beyond the range of doubles.
    high = tensors.cp_to_ht((None, [np.array([[1e-3], [3e-3]])] * 600), Tree.linear(600))
    for by, share in (("squares", 0.9), ("entries", 0.75)):
        np.testing.assert_allclose(high.sample(100, random_state=0, by=by).mean(), share, atol=0.01)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.sample(10, by="entries"), ValueError, "an entry is negative|negative sum"),
        (
            lambda x: (x + 1.5).sample(1000, by="entries", random_state=0),
            ValueError,
            "an entry is negative",
        ),
        (lambda x: (0 * x).sample(10), ValueError, "the tensor is zero; nothing can be drawn"),
        (lambda x: (0 * x).sample(10, by="entries"), ValueError, "the tensor is zero"),
        (lambda x: (1j * x).sample(10, by="entries"), TypeError, "the tensor is complex; its entries are no"),
        (lambda x: x.sample(10, by="sizes"), ValueError, "by is 'sizes'; expected 'squares' or 'entries'"),
        (lambda x: x.sample(-1), ValueError, "count is -1"),
        (lambda x: x.sample(2.5), TypeError, "count is 2.5"),
        (lambda x: x.sample(10, given={7: 0}), IndexError, "mode is 7"),
        (lambda x: x.sample(10, given={0: 5}), IndexError, "given indices of mode 0 are out of range"),
        (lambda x: x.sample(10, given={0: [0, 1]}), ValueError, r"have shape \(2,\); expected \(\) or \(10,\)"),
        (lambda x: x.sample(10, given={0: 0.5}), TypeError, "expected integers"),
        (lambda x: x.sample(10, given={0: 0, -4: 1}), ValueError, "given names mode 0 twice"),
        (lambda x: x.sample(10, given=[0]), TypeError, r"given is \[0\]; expected a mapping of modes to indices"),
        (lambda x: x.sample(10, tol="small"), TypeError, "tol is 'small'; expected a number"),
        (lambda x: (x * float("nan")).sample(10), ValueError, "NaN"),
        (lambda x: random_ht((3, 3), 2, outputs=2).sample(10), ValueError, "has 2 outputs"),
    ],
)
def test_what_cannot_be_drawn(call, error, message):
    with pytest.raises(error, match=message):
        call(random_ht((3, 2, 4, 3), 2, random_state=0))


def test_zero_slices_and_rounding_below_zero():
    y = positive((3, 2, 4, 3))
    with_hole = y.mode_dot(np.diag([1.0, 0.0, 1.0]), 0)
    assert not (with_hole.sample(500, random_state=0)[:, 0] == 1).any()
    assert not (with_hole.sample(500, random_state=0, by="entries")[:, 0] == 1).any()
    with pytest.raises(ValueError, match=r"the tensor at given indices \{0: 1\} is zero"):
        with_hole.sample(10, given={0: 1})
    # An approximation that is a little below zero is drawn from on request.
    below = with_hole - 1e-6
    with pytest.raises(ValueError, match="negative"):
        below.sample(500, by="entries", given={0: 1})
    rows = below.sample(20000, random_state=0, by="entries", tol=1e-4)
    assert significance(rows, np.maximum(below.to_tensor(), 0)) > 1e-3
