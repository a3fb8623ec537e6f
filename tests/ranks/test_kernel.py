"""Gram matrices of features against singular values, and clusters in order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf.ranks import effective_rank
from htf.ranks.kernel import cluster_order, kernel_effective_rank, kernel_matrix


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_entries_are_inner_products_or_cosines():
    features = draw(2, 5, 3)
    plain, cosines = kernel_matrix(features, normalize=False), kernel_matrix(features)
    for run in range(2):
        for i in range(5):
            for j in range(5):
                a, b = features[run, i], features[run, j]
                torch.testing.assert_close(plain[run, i, j], a @ b)
                torch.testing.assert_close(cosines[run, i, j], a @ b / a.norm() / b.norm())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 8), width=st.integers(1, 8), normalize=st.booleans(), seed=st.integers(0, 100))
def test_effective_rank_is_that_of_the_gram_matrix(n, width, normalize, seed):
    features = draw(2, n, width, seed=seed)
    ranks = kernel_effective_rank(features, normalize)
    kernels = kernel_matrix(features, normalize)
    for rank, kernel, each in zip(ranks, kernels, features, strict=True):
        singular = torch.linalg.svdvals(kernel)
        torch.testing.assert_close(rank, effective_rank(singular))
        assert 1 - 1e-9 <= float(rank) <= min(n, width) + 1e-9
        # No rotation of the features and no order of the samples matters.
        turned = each.flip(0) @ torch.linalg.qr(draw(width, width, seed=seed + 1))[0]
        torch.testing.assert_close(rank, kernel_effective_rank(turned, normalize))


def test_known_ranks():
    assert float(kernel_effective_rank(torch.eye(4))) == pytest.approx(4)
    assert float(kernel_effective_rank(torch.ones(4, 7))) == pytest.approx(1)
    # Cosines do not see lengths; inner products do.
    lengths = torch.diag(torch.tensor([1.0, 2.0]))
    assert float(kernel_effective_rank(lengths)) == pytest.approx(2)
    p = torch.tensor([0.2, 0.8])
    entropy = -(p * p.log()).sum()
    assert float(kernel_effective_rank(lengths, normalize=False)) == pytest.approx(float(entropy.exp()))
    assert float(kernel_effective_rank(torch.zeros(3, 2))) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("normalize", [True, False])
def test_scale_does_not_matter(scale, normalize):
    features = draw(6, 4).float()
    expected = kernel_effective_rank(features, normalize)
    torch.testing.assert_close(kernel_effective_rank(features * scale, normalize), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 4, 4)])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients(shape, normalize):
    features = draw(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: kernel_effective_rank(f, normalize), features)


def test_gradients_are_finite_at_equal_and_zero_eigenvalues_and_rows():
    features = torch.zeros(5, 4, dtype=torch.float64)
    features[0, 0] = features[1, 1] = 1
    features.requires_grad_()
    rank = kernel_effective_rank(features)
    rank.backward()
    assert float(rank.detach()) == pytest.approx(2)
    assert bool(features.grad.isfinite().all())
    empty = torch.zeros(3, 2, requires_grad=True)
    kernel_effective_rank(empty).backward()
    assert bool((empty.grad == 0).all())


def test_clusters_come_together_however_they_were_shuffled():
    centres = 10 * torch.eye(3, dtype=torch.float64)
    labels = torch.arange(3).repeat_interleave(5)
    features = centres[labels] + 0.1 * draw(15, 3)
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    order = cluster_order(kernel_matrix(features[shuffled]))
    assert sorted(order.tolist()) == list(range(15))
    found = labels[shuffled][order].tolist()
    assert sum(a != b for a, b in pairwise(found)) == 2


def test_samples_on_a_line_are_put_in_their_order():
    at = torch.linspace(0, 1, 9, dtype=torch.float64)[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    angles = torch.stack([torch.cos(at), torch.sin(at)], 1)
    order = cluster_order(kernel_matrix(angles))
    steps = np.diff(at[order].numpy())
    assert (steps > 0).all() or (steps < 0).all()


@pytest.mark.parametrize("n", [1, 2])
def test_few_samples_stay(n):
    assert cluster_order(torch.eye(n)).tolist() == list(range(n))


def test_equal_samples_have_an_order():
    assert sorted(cluster_order(torch.ones(4, 4)).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("function", [kernel_matrix, kernel_effective_rank])
@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([1.0], TypeError, "features is a list; expected a tensor"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "features has dtype torch.int64"),
        (torch.ones(2), ValueError, r"features has shape \(2,\); expected \(..., n, width\)"),
        (torch.ones(0, 2), ValueError, r"features has shape \(0, 2\); expected at least one sample"),
        (torch.full((2, 2), torch.nan), ValueError, "features has NaN or infinite entries"),
    ],
)
def test_bad_features(function, features, error, message):
    with pytest.raises(error, match=message):
        function(features)


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (None, TypeError, "kernel is a NoneType"),
        (torch.ones(2, 3), ValueError, r"kernel has shape \(2, 3\); expected \(n, n\)"),
        (torch.ones(3), ValueError, r"kernel has shape \(3,\)"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), ValueError, "kernel is not symmetric"),
        (torch.tensor([[torch.inf]]), ValueError, "kernel has NaN or infinite entries"),
    ],
)
def test_bad_kernels(kernel, error, message):
    with pytest.raises(error, match=message):
        cluster_order(kernel)
