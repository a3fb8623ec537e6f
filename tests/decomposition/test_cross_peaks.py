"""Functions whose norm lies in few entries: found to tolerance, or said not to be."""

import warnings

import numpy as np
import pytest

import htf

GRID = np.linspace(-1, 1, 8)
NEAR = np.random.default_rng(1).integers(2, 6, size=(2000, 12))


def peak(beta):
    def function(indices):
        x = GRID[np.asarray(indices)]
        return np.exp(-beta * ((x**2).sum(1) + 0.3 * (x[:, :-1] * x[:, 1:]).sum(1)))

    return function


def cross(function, shape, **options):
    return htf.cross_approximation(function, shape, random_state=0, return_info=True, **options)


@pytest.mark.parametrize("tree", ["balanced", "linear"])
@pytest.mark.parametrize("beta", [20, 50])
def test_a_peak_in_twelve_modes(beta, tree):
    function = peak(beta)
    x, info = cross(function, (8,) * 12, tree=getattr(htf.DimensionTree, tree)(12), tol=1e-8)
    expected = function(NEAR)
    assert np.linalg.norm(x.entries(NEAR) - expected) <= 1e-7 * np.linalg.norm(expected)
    assert info.converged
    assert info.evaluations <= 200_000


def test_a_random_array_is_exact_by_as_many_evaluations_as_it_has_entries():
    array = np.random.default_rng(0).standard_normal((10, 10, 10))
    x, info = cross(lambda i: array[tuple(i.T)], array.shape)
    np.testing.assert_allclose(x.to_tensor(), array, atol=1e-10)
    assert info.evaluations <= 1000


@pytest.mark.parametrize("centre", [0.5, 1 / np.pi])
def test_a_narrow_gaussian_on_binary_digits(centre):
    weights = 0.5 ** np.arange(1, 21)

    def function(bits):
        return np.exp(-0.5 * ((bits @ weights - centre) / 1e-4) ** 2)

    x, info = cross(function, (2,) * 20, tol=1e-8)
    numbers = np.clip(np.round((centre + 1e-4 * np.linspace(-3, 3, 500)) * 2**20).astype(np.int64), 0, 2**20 - 1)
    near = numbers[:, None] >> np.arange(19, -1, -1) & 1
    expected = function(near)
    assert np.linalg.norm(x.entries(near) - expected) <= 1e-7 * np.linalg.norm(expected)
    assert info.converged


def test_two_far_peaks_are_both_found():
    def function(indices):
        x = GRID[np.asarray(indices)]
        return np.exp(-20 * ((x - 0.7) ** 2).sum(1)) + np.exp(-20 * ((x + 0.7) ** 2).sum(1))

    x, info = cross(function, (8,) * 12, tol=1e-8)
    tops = np.array([[1] * 12, [6] * 12])
    np.testing.assert_allclose(x.entries(tops), function(tops), rtol=1e-6)
    assert info.converged


def test_a_needle_that_no_entry_met_tells_of_is_not_called_found():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, info = cross(lambda i: np.all(i == 1, axis=1).astype(float), (2,) * 60)
    assert not info.converged
    assert any("start" in str(warning.message) for warning in caught)
