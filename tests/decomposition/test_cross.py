"""Cross approximation: tensors far too large to be written out, recovered from a few of their entries."""

import warnings

import numpy as np
import pytest
import torch

import htf
from htf.decomposition._pivots import maxvol
from htf.decomposition.cross import CrossInfo, cross_approximation
from htf.tensors import ht_distance, ht_norm

BINARY_WEIGHTS = 0.5 ** np.arange(1, 61)
ANGLES = np.random.RandomState(7).standard_normal(60)

FUNCTIONS = {
    "reciprocal": lambda i: 1 / (1 + i @ BINARY_WEIGHTS),
    "sine of binary digits": lambda i: np.sin(20 * (i @ BINARY_WEIGHTS)),
    "sine of any weights": lambda i: np.sin(i @ ANGLES),
    "root": lambda i: np.sqrt(i @ BINARY_WEIGHTS),
    "narrow peak": lambda i: np.exp(-400 * (i @ BINARY_WEIGHTS - 0.3) ** 2),
}


def fresh_error(x, function, count=3000, seed=123):
    """Relative error on random entries that the approximation has not seen."""
    rng = np.random.RandomState(seed)
    rows = np.stack([rng.randint(0, dim, size=count) for dim in x.dims], 1)
    values = np.asarray(function(rows))
    return np.linalg.norm(np.asarray(x.entries(rows)) - values) / np.linalg.norm(values)


@pytest.mark.parametrize(("rank", "seed"), [(4, 0), (5, 1)])
def test_random_tensor_of_2_to_the_60_entries(rank, seed):
    z = htf.random_ht((2,) * 60, rank=rank, random_state=seed)
    x, info = cross_approximation(z.entries, z.shape, random_state=0, return_info=True)
    assert info.converged
    assert info.evaluations <= 100_000
    assert float(ht_distance(x, z) / ht_norm(z)) < 1e-10
    assert fresh_error(x, z.entries) < 1e-10
    assert x.rank == z.rank


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_60_binary_digits(name):
    x, info = cross_approximation(FUNCTIONS[name], (2,) * 60, random_state=0, return_info=True)
    assert info.converged
    assert info.evaluations <= 100_000
    assert fresh_error(x, FUNCTIONS[name]) < 1e-8


def test_sine_has_rank_two():
    x = cross_approximation(FUNCTIONS["sine of any weights"], (2,) * 60, random_state=0)
    assert max(x.rank) == 2


def test_100_modes():
    z = htf.random_ht((2,) * 100, rank=3, random_state=5)
    x = cross_approximation(z.entries, z.shape, random_state=0)
    assert float(ht_distance(x, z) / ht_norm(z)) < 1e-10


def test_50_variables_on_a_grid():
    def gaussian(i):
        return np.exp(-((i / 9 - 0.5) ** 2).sum(1)) + np.cos(i.sum(1))

    x, info = cross_approximation(gaussian, (10,) * 50, tol=1e-6, random_state=0, return_info=True)
    assert info.error <= 1e-6
    assert max(x.rank) == 3
    assert fresh_error(x, gaussian) < 1e-6


@pytest.mark.parametrize(
    ("shape", "tree"),
    [
        ((7,), None),
        ((6, 9), None),
        ((1, 5, 1, 6, 3, 1), None),
        ((1, 1), None),
        ((3, 4, 2, 5, 3, 2), htf.DimensionTree.linear(6)),
        ((3, 4, 2, 5, 3, 2, 2), htf.DimensionTree.balanced(7, 3)),
        ((3, 4, 2, 5), htf.DimensionTree.balanced(4, 4)),
        ((3, 4, 2, 5), htf.DimensionTree.from_nested(((3, 0), (2, 1)))),
    ],
)
def test_all_entries_of_small_tensors(shape, tree):
    def function(i):
        return 1 / (1 + i @ np.arange(1, len(shape) + 1))

    x = cross_approximation(function, shape, tree=tree, tol=1e-10, random_state=0)
    dense = function(np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1)).reshape(shape)
    assert np.linalg.norm(x.to_tensor() - dense) <= 1e-10 * np.linalg.norm(dense)


def test_linear_tree_of_60_modes():
    tree = htf.DimensionTree.linear(60)
    z = htf.random_ht((2,) * 60, rank=3, tree=tree, random_state=0)
    x = cross_approximation(z.entries, z.shape, tree=tree, random_state=0)
    assert float(ht_distance(x, z) / ht_norm(z)) < 1e-10


@pytest.mark.parametrize("value", [0.0, 3.0, -1e200, 1e-200])
def test_constants(value):
    x, info = cross_approximation(lambda i: np.full(len(i), value), (2,) * 20, random_state=0, return_info=True)
    assert info.converged
    assert set(x.rank) == {1}
    rows = np.random.RandomState(0).randint(0, 2, (50, 20))
    np.testing.assert_allclose(x.entries(rows), value, rtol=1e-12)


def test_starts_below_the_rank():
    z = htf.random_ht((2,) * 30, rank=6, random_state=0)
    x, info = cross_approximation(z.entries, z.shape, initial_rank=1, random_state=0, return_info=True)
    assert info.sweeps > 1
    assert float(ht_distance(x, z) / ht_norm(z)) < 1e-10


def test_evaluations_are_counted_and_batched():
    calls = []

    def counted(i):
        calls.append(len(i))
        return np.sin(i @ ANGLES)

    _, info = cross_approximation(counted, (2,) * 60, random_state=0, return_info=True)
    assert info.evaluations == sum(calls)
    assert len(calls) < 20 * info.sweeps


def test_evaluation_limit_is_kept():
    z = htf.random_ht((2,) * 60, rank=8, random_state=0)
    calls = []

    def counted(i):
        calls.append(len(i))
        return z.entries(i)

    with pytest.warns(UserWarning, match=r"relative error of \d.*above tol=1e-08.*max_evaluations"):
        x, info = cross_approximation(counted, z.shape, max_evaluations=20_000, random_state=0, return_info=True)
    assert sum(calls) == info.evaluations <= 20_000
    assert not info.converged
    assert 0.1 < info.error / fresh_error(x, z.entries) < 10


def test_limit_below_a_first_sweep():
    with pytest.raises(ValueError, match="max_evaluations is 1000; the first sweep alone takes more"):
        cross_approximation(FUNCTIONS["root"], (2,) * 60, max_evaluations=1000)
    with pytest.raises(ValueError, match="max_evaluations is 10; n_test=400 alone takes more"):
        cross_approximation(FUNCTIONS["root"], (2,) * 60, max_evaluations=10)


def test_max_rank_and_sweeps():
    with pytest.warns(UserWarning, match="no longer fell"):
        x = cross_approximation(FUNCTIONS["root"], (2,) * 60, max_rank=3, random_state=0)
    assert max(x.rank) == 3
    assert fresh_error(x, FUNCTIONS["root"]) < 1e-2
    with pytest.warns(UserWarning, match="max_sweeps is 1"):
        cross_approximation(FUNCTIONS["root"], (2,) * 60, max_sweeps=1, initial_rank=1, random_state=0)


def test_reproducible():
    first, second = (cross_approximation(FUNCTIONS["reciprocal"], (2,) * 60, random_state=3) for _ in range(2))
    for a, b in zip(first.factors, second.factors, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_values_and_result():
    x, info = cross_approximation(
        lambda i: torch.sin(torch.as_tensor(i @ ANGLES)),
        (2,) * 60,
        like=torch.zeros(1, dtype=torch.float32),
        random_state=0,
        return_info=True,
    )
    assert isinstance(info, CrossInfo)
    assert x.dtype == torch.float32
    assert fresh_error(x, FUNCTIONS["sine of any weights"]) < 1e-5


def test_progress_shows_error_and_evaluations(capsys):
    cross_approximation(FUNCTIONS["reciprocal"], (2,) * 60, random_state=0, progress=True)
    shown = capsys.readouterr().err
    assert "evaluations, error" in shown


def test_an_interrupt_is_passed_on_until_there_is_something_to_return():
    calls = 0

    def interrupted(i, after):
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return FUNCTIONS["root"](i)

    with pytest.raises(KeyboardInterrupt):
        cross_approximation(lambda i: interrupted(i, 3), (2,) * 60)
    calls = 0
    with pytest.warns(UserWarning, match="it was interrupted"):
        x, info = cross_approximation(lambda i: interrupted(i, 40), (2,) * 60, random_state=0, return_info=True)
    assert 0 < info.error < 1
    assert not info.converged
    assert fresh_error(x, FUNCTIONS["root"]) < 10 * info.error


def test_function_may_write_to_its_argument():
    def writing(i):
        values = np.sin(i @ ANGLES)
        i[:] = -1
        return values

    assert fresh_error(cross_approximation(writing, (2,) * 60, random_state=0), FUNCTIONS["sine of any weights"]) < 1e-8


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (5, TypeError, "function is a int; expected a callable"),
        (lambda i: np.array(["a"] * len(i)), TypeError, "expected numbers"),
        (lambda i: np.where(i[:, 0] == 2, np.nan, 1.0) * 1j, ValueError, r"at index row \[2, "),
        (lambda i: np.ones((len(i), 1)), ValueError, r"shape \(\d+, 1\); expected \(\d+,\)"),
        (lambda i: 1.0, ValueError, r"shape \(\); expected"),
        (lambda i: np.where(i[:, 0] == 2, np.nan, 1.0), ValueError, r"returned nan at index row \[2, "),
        (lambda i: np.where(i[:, 1] == 1, np.inf, 1.0), ValueError, r"returned inf at index row \[\d, 1, "),
        (lambda i: np.ma.masked_equal(1.0 + i[:, 0], 2), TypeError, "what function returned is a MaskedArray"),
        (lambda i: torch.ones(len(i), device="meta"), TypeError, "what function returned is on the meta device"),
    ],
)
def test_bad_functions(function, error, message):
    with pytest.raises(error, match=message):
        cross_approximation(function, (3, 3, 3, 3), random_state=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tol": 0.0}, ValueError, "tol is 0; expected a positive"),
        ({"tol": -1.0}, ValueError, "tol is -1.0; expected a number of at least 0"),
        ({"tol": "small"}, TypeError, "tol is 'small'"),
        ({"max_rank": 0}, ValueError, "max_rank is 0"),
        ({"max_evaluations": 2.5}, TypeError, "max_evaluations is 2.5"),
        ({"initial_rank": 0}, ValueError, "initial_rank is 0"),
        ({"n_test": 0}, ValueError, "n_test is 0"),
        ({"shape": (3, 0)}, ValueError, r"dims\[1\] is 0"),
        ({"shape": (3, 2.5)}, TypeError, r"dims\[1\] is 2.5"),
        ({"shape": ()}, ValueError, "order is 0"),
        ({"shape": 3}, TypeError, "shape is 3; expected a sequence of dimensions"),
        ({"tol": np.True_}, TypeError, "tol is np.True_; expected a number"),
        ({"max_rank": np.True_}, TypeError, "max_rank is np.True_; expected an integer"),
        ({"like": torch.ones(1, device="meta")}, TypeError, "like is on the meta device"),
        ({"start": torch.zeros((1, 3), dtype=int, device="meta")}, TypeError, "start is on the meta device"),
        ({"start": np.ma.masked_equal([[0, 1, 2]], 1)}, TypeError, "start is a MaskedArray"),
        ({"shape": (3, 3, 3), "tree": htf.DimensionTree.balanced(4)}, ValueError, "tree has 4 modes"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        cross_approximation(lambda i: i.sum(1), **{"shape": (3, 3), **options})


def test_maxvol_bounds_the_coefficients():
    Q = np.linalg.qr(np.random.RandomState(0).standard_normal((200, 7)))[0]
    coefficients, rows = maxvol(Q)
    assert len(set(rows)) == 7
    assert np.abs(coefficients).max() <= 1.05 + 1e-12
    np.testing.assert_allclose(coefficients @ Q[rows], Q, atol=1e-12)


def test_no_warnings_where_the_tolerance_is_reached():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_approximation(FUNCTIONS["reciprocal"], (2,) * 60, random_state=0)


def test_values_of_the_smallest_floats_of_pytorch_are_read():
    x = cross_approximation(lambda i: torch.as_tensor(1.0 + i.sum(1)).bfloat16(), (3, 4, 5), random_state=0)
    np.testing.assert_allclose(x.to_tensor(), 1.0 + np.indices((3, 4, 5)).sum(0), rtol=1e-12)


def test_one_test_entry_is_enough_for_a_sweep():
    x = cross_approximation(lambda i: 1.0 + i.sum(1), (3, 4, 5), n_test=1, random_state=0)
    np.testing.assert_allclose(x.to_tensor(), 1.0 + np.indices((3, 4, 5)).sum(0), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 1e307), (np.float32, 1e37), (np.complex64, 1e37)])
def test_a_norm_beyond_all_numbers_is_no_obstacle(dtype, scale):
    """Entries are in range, and their norm, which would be that of the root, is not."""
    shape = (6, 5, 7, 6)
    unscaled = 1 + np.indices(shape).sum(0)
    x = cross_approximation(
        lambda i: (1.0 + i.sum(1)) / 2 * scale, shape, like=np.zeros(1, dtype), tol=1e-6, random_state=0
    )
    assert x.dtype == dtype
    np.testing.assert_allclose(x.to_tensor() / dtype(scale), unscaled / 2, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e200, 1e-60])
def test_values_beyond_the_range_of_single_precision_are_refused(scale):
    with pytest.raises(ValueError, match=r"values of size up to \S+, which is beyond the range of \S*float32"):
        cross_approximation(
            lambda i: (1.0 + i.sum(1)) * scale, (3, 4, 5), like=torch.zeros(1, dtype=torch.float32), random_state=0
        )
