import math

import pytest
import torch
from dynamics_cases import DOUBLE, cp_network, dense, ht_network, loss_for, matrix_network
from dynamics_descent import moment_of

import htf
from htf.dynamics import norm_lower_bound, norms
from htf.dynamics.end_norms import schatten_norm


def measured(tracker, network):
    about = tracker.describe(network)
    found = tracker.measure(moment_of(network, loss_for(network)))
    assert list(found) == [f"schatten {p}" for p in about["p"]]
    return found


def test_schatten_norms_of_matrices():
    network = matrix_network(3, 3)
    found = measured(norms((0.5, 1, 2, 3, math.inf)), network)
    ends = network.end_matrices().detach()
    torch.testing.assert_close(found["schatten 1"], torch.linalg.matrix_norm(ends, "nuc"))
    torch.testing.assert_close(found["schatten 2"], torch.linalg.matrix_norm(ends, "fro"))
    torch.testing.assert_close(found["schatten inf"], torch.linalg.matrix_norm(ends, 2))
    values = torch.linalg.svdvals(ends)[:, :3]
    torch.testing.assert_close(found["schatten 0.5"], values.sqrt().sum(1).square())
    torch.testing.assert_close(found["schatten 3"], values.pow(3).sum(1).pow(1 / 3))
    assert list(measured(norms(), network)) == ["schatten 1", "schatten 2"]
    assert list(measured(norms(1), network)) == ["schatten 1"]
    assert all(tensor.dtype == DOUBLE for tensor in found.values())


def test_of_zero_and_of_tiny_matrices():
    for p in (0.5, 1.0, 2.0, math.inf):
        assert schatten_norm(torch.zeros(2, 3, dtype=DOUBLE), p).tolist() == [0, 0]
        small = torch.tensor([3e-200, 4e-200], dtype=DOUBLE)
        assert float(schatten_norm(small, p)) == pytest.approx(1e-200 * float(schatten_norm(small * 1e200, p)))


@pytest.mark.parametrize(
    "network", [cp_network(3), cp_network(4, 2), ht_network("ternary"), ht_network("binary", 2)], ids=str
)
@pytest.mark.parametrize("p", [None, 2, (2.0,)])
def test_frobenius_norms_of_tensors(network, p):
    found = measured(norms(p), network)
    expected = [dense(network, run).detach().norm() for run in range(network.runs)]
    torch.testing.assert_close(found["schatten 2"], torch.stack(expected))


def test_errors():
    for p in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"p is {p}; expected above 0"):
            norms((1, p))
    for p in ("nuc", True, [[1]]):
        with pytest.raises(TypeError, match=r"p is .*; expected a number above 0"):
            norms([p])
    with pytest.raises(ValueError, match="p is empty"):
        norms(())
    for network in (cp_network(), ht_network("binary")):
        with pytest.raises(ValueError, match=r"p holds 0\.5; a .*Network has the Frobenius norm only, p=2"):
            norms((2, 0.5)).describe(network)
    with pytest.raises(TypeError, match="the network is a Linear"):
        norms().describe(torch.nn.Linear(2, 2))


# -- the diverging problem -----------------------------------------------------------------------------


def loss_of(w):
    return ((w[..., 0, 1] - 1) ** 2 + (w[..., 1, 0] - 1) ** 2 + w[..., 1, 1] ** 2) / 3


def of_loss(loss, directions):
    """Matrices of that loss, with observed entries off by multiples of directions (n, 3), and w11 = 1 to be changed."""
    off = directions / directions.norm(dim=1, keepdim=True) * math.sqrt(3 * loss)
    w = torch.ones(len(off), 2, 2, dtype=DOUBLE)
    w[:, 0, 1] += off[:, 0]
    w[:, 1, 0] += off[:, 1]
    w[:, 1, 1] = off[:, 2]
    return w


LOSSES = [1e-8, 1e-4, 0.01, 0.1, 0.2, 0.25, 0.3, 0.33]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_matrix_of_positive_determinant_is_as_large_as_the_bound(loss):
    generator = torch.Generator().manual_seed(0)
    w = of_loss(loss, torch.randn(200_000, 3, dtype=DOUBLE, generator=generator))
    # The infimum of |w11| over positive determinants, for each choice of the other entries.
    least = w[:, 0, 1] * w[:, 1, 0] / w[:, 1, 1]
    bound = norm_lower_bound(loss)
    assert float(least.abs().min()) > bound
    # It is the best one: among so many some come near.
    assert float(least.abs().min()) < 1.01 * bound
    w[:, 0, 0] = least * (1 + 1e-9)
    assert bool((torch.linalg.det(w) > 0).all())
    values = torch.linalg.svdvals(w[:1000])
    torch.testing.assert_close(loss_of(w), torch.full((len(w),), loss, dtype=DOUBLE))
    for p in (0.3, 1.0, 2.0, math.inf):
        assert bool((schatten_norm(values, p) > bound).all())


def test_no_bound_beyond_a_third_and_none_for_negative_determinants():
    # Entries that are all 0 have loss 2/3; with w12 = 0 the determinant is w11 w22 however small w11 is.
    tiny = torch.tensor([[1e-9, 0.0], [1.0, 1e-3]], dtype=DOUBLE)
    assert float(torch.linalg.det(tiny)) > 0
    assert float(loss_of(tiny)) > 1 / 3
    assert norm_lower_bound(float(loss_of(tiny))) == 0


def test_the_bound_as_a_function():
    losses = torch.tensor([0.0, *LOSSES, 1 / 3, 5.0], dtype=DOUBLE)
    bounds = norm_lower_bound(losses)
    assert math.isinf(float(bounds[0]))
    assert bool((bounds[1:-2].diff() < 0).all())
    assert bounds[-2:].tolist() == pytest.approx([0, 0], abs=1e-7)
    assert norm_lower_bound(1e-14) == pytest.approx(1 / math.sqrt(3e-14), rel=1e-6)
    assert norm_lower_bound(1e-300) == pytest.approx(1 / math.sqrt(3e-300), rel=1e-9)
    assert norm_lower_bound(0.25 - 1e-12) == pytest.approx(norm_lower_bound(0.25 + 1e-12), rel=1e-9)
    assert torch.equal(norm_lower_bound(losses[None, :, None]), bounds[None, :, None])


def test_bad_losses():
    for loss in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"loss is {loss}; expected at least 0"):
            norm_lower_bound(loss)
    with pytest.raises(ValueError, match=r"loss is -0\.5"):
        norm_lower_bound(torch.tensor([1.0, -0.5]))


@pytest.mark.parametrize("depth", [2, 3])
def test_descent_from_a_positive_determinant_diverges(depth):
    problem = htf.datasets.diverging_completion()
    network = htf.nn.MatrixFactorization((2, 2), depth, dtype=DOUBLE)
    with torch.no_grad():
        for weight in network.weights:
            weight[0] = 0.3 * torch.eye(2)
    losses, sizes = [], []
    for _ in range(1000):
        network.zero_grad()
        loss = (network(problem.indices)[:, 0] - problem.values).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        sizes.append(abs(float(network.to_tensor().detach()[0, 0])))
        with torch.no_grad():
            for weight in network.weights:
                weight -= 0.1 * weight.grad
    end = network.to_tensor().detach()
    # That of the end matrix itself is lost in rounding.
    assert all(float(torch.linalg.det(weight[0].detach())) > 0 for weight in network.weights)
    assert losses[-1] < 0.02
    assert all(size > norm_lower_bound(loss) for loss, size in zip(losses, sizes, strict=True))
    assert sizes[-1] > 3 > 10 * sizes[0]
    assert float(htf.ranks.effective_rank(torch.linalg.svdvals(end))) < 1.3
