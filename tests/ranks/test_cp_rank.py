"""CP ranks of tensors whose rank is known."""

import threading

import numpy as np
import pytest
import tensorly as tl
import torch
from tensorly.backend import BackendManager

import htf
from htf import ranks


def of_rank(rank, shape, seed=0):
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(n, rank)) for n in shape]
    return tl.cp_to_tensor((np.ones(rank), factors))


@pytest.mark.parametrize(("rank", "shape"), [(1, (3, 4)), (2, (3, 4, 5)), (3, (4, 4, 4)), (2, (2, 3, 2, 3))])
def test_random_tensors(rank, shape):
    found = ranks.cp_rank(of_rank(rank, shape), random_state=0)
    assert found.rank == rank == found.lower_bound
    assert list(found.errors) == [rank]
    assert found.errors[rank] < 1e-6


def test_rank_above_all_matricizations():
    # The W state: every matricization has rank 2, the tensor rank 3 and border rank 2.
    tensor = np.zeros((2, 2, 2))
    tensor[0, 0, 1] = tensor[0, 1, 0] = tensor[1, 0, 0] = 1e-200
    found = ranks.cp_rank(tensor, tol=1e-4, n_init=3, n_iter_max=300, random_state=0)
    assert (found.rank, found.lower_bound) == (3, 2)
    assert found.errors[2] > 1e-4 >= found.errors[3]


def test_tolerance_lowers_the_rank():
    tensor = of_rank(1, (3, 4, 5)) + 1e-4 * of_rank(2, (3, 4, 5), seed=1)
    assert ranks.cp_rank(tensor, tol=0.1, random_state=0).rank == 1


def test_none_up_to_max_rank():
    found = ranks.cp_rank(of_rank(4, (4, 4, 4)), max_rank=3, random_state=0)
    assert found == (None, {}, 4)
    tensor = np.zeros((2, 2, 2))
    tensor[0, 0, 1] = tensor[0, 1, 0] = tensor[1, 0, 0] = 1
    found = ranks.cp_rank(tensor, max_rank=2, n_init=1, n_iter_max=50, tol=1e-6, random_state=0)
    assert found.rank is None
    assert list(found.errors) == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pytorch(dtype):
    tensor = torch.tensor(of_rank(2, (3, 4, 5)), dtype=dtype, requires_grad=True)
    assert ranks.cp_rank(tensor, tol=1e-5, random_state=0).rank == 2


def test_zero():
    assert ranks.cp_rank(np.zeros((2, 3, 2))) == (0, {}, 0)


@pytest.mark.parametrize("made", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_equations_that_rounding_leaves_singular_end_no_search(made):
    """With a tolerance of 0, ranks above that of the tensor are tried, whose normal equations are singular."""
    x = made(htf.random_ht((3, 3, 3), 1, random_state=0).to_tensor())
    found = ranks.cp_rank(x, tol=0, max_rank=4, n_init=1, n_iter_max=100, random_state=0)
    assert found.rank is None
    assert max(found.errors.values()) < 1e-9


def test_backend_stays():
    local = BackendManager._THREAD_LOCAL_DATA.__dict__

    def state():
        return tl.get_backend(), BackendManager._backend, dict(local)

    before = state()
    ranks.cp_rank(torch.ones(2, 2, 2))
    assert state() == before
    seen = []

    def fresh():
        ranks.cp_rank(torch.ones(2, 2, 2))
        seen.append("backend" in BackendManager._THREAD_LOCAL_DATA.__dict__)

    thread = threading.Thread(target=fresh)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("tensor", "options", "error", "match"),
    [
        ([1.0], {}, TypeError, "tensor is a list"),
        (np.ones(3), {}, ValueError, r"shape \(3,\)"),
        (np.ones((3, 0)), {}, ValueError, "none of them empty"),
        (np.ones((2, 2), dtype=int), {}, TypeError, "dtype int"),
        (np.full((2, 2), np.nan), {}, ValueError, "NaN"),
        (np.ones((2, 2)), {"tol": -1}, ValueError, "tol is -1"),
        (np.ones((2, 2)), {"max_rank": 0}, ValueError, "max_rank is 0"),
        (np.ones((2, 2)), {"n_init": 0}, ValueError, "n_init is 0"),
        (np.ones((2, 2)), {"n_iter_max": 1.5}, TypeError, "n_iter_max"),
    ],
)
def test_bad_input(tensor, options, error, match):
    with pytest.raises(error, match=match):
        ranks.cp_rank(tensor, **options)
