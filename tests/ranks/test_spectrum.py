"""Ranks of one list of singular values."""

import math

import numpy as np
import pytest
import torch

from htf import ranks

MEASURES = [ranks.effective_rank, ranks.stable_rank, ranks.participation_ratio]
BACKENDS = [np.array, lambda values: torch.tensor(values, dtype=torch.float64)]


@pytest.mark.parametrize("array", BACKENDS)
def test_values(array):
    values = array([3.0, 1.0, 0.0])
    p = np.array([0.75, 0.25])
    assert float(ranks.effective_rank(values)) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert float(ranks.stable_rank(values)) == pytest.approx(10 / 9)
    assert float(ranks.participation_ratio(values)) == pytest.approx(100 / 82)
    assert ranks.numerical_rank(values) == 2
    assert ranks.numerical_rank(values, tol=0.5) == 1
    assert ranks.numerical_rank(values, tol=0) == 2


@pytest.mark.parametrize("array", BACKENDS)
@pytest.mark.parametrize("measure", MEASURES)
def test_limits(measure, array):
    assert float(measure(array([2.0] * 5))) == pytest.approx(5)
    assert float(measure(array([0.0, 7.0]))) == pytest.approx(1)
    assert float(measure(array([0.0, 0.0]))) == 0
    # Squares of these leave the range of doubles.
    assert float(measure(array([1e200, 1e200]))) == pytest.approx(2)
    assert float(measure(array([1e-200, 1e-200]))) == pytest.approx(2)


@pytest.mark.parametrize("measure", MEASURES)
def test_gradients(measure):
    values = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(measure, values)
    for edge in ([1.0, 1.0, 0.0], [0.0, 0.0]):
        values = torch.tensor(edge, dtype=torch.float64, requires_grad=True)
        measure(values).backward()
        assert bool(torch.isfinite(values.grad).all())


def test_effective_rank_of_repeated_values_is_stationary():
    values = torch.ones(4, dtype=torch.float64, requires_grad=True)
    ranks.effective_rank(values).backward()
    assert float(values.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("measure", [*MEASURES, ranks.numerical_rank])
@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ([1.0], TypeError, "is a list"),
        (np.ones((2, 2)), ValueError, r"shape \(2, 2\)"),
        (np.ones(0), ValueError, "empty"),
        (np.ones(2, dtype=int), TypeError, "dtype int"),
        (np.array([1.0, np.nan]), ValueError, "NaN"),
        (torch.tensor([1.0, math.inf]), ValueError, "infinite"),
        (np.array([1.0, -0.5]), ValueError, "holds -0.5"),
    ],
)
def test_bad_spectra(measure, values, error, match):
    with pytest.raises(error, match=match):
        measure(values)


@pytest.mark.parametrize(("tol", "error"), [(-0.1, ValueError), (math.nan, ValueError), ("a", TypeError)])
def test_bad_tolerances(tol, error):
    with pytest.raises(error, match="tol is"):
        ranks.numerical_rank(np.ones(2), tol)


def test_sparse_spectra_are_refused_by_name():
    message = r"singular_values is a tensor of layout torch\.sparse_coo; expected a dense one"
    with pytest.raises(TypeError, match=message):
        ranks.effective_rank(torch.eye(3).to_sparse()[0])
