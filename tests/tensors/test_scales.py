"""Norms, distances and inner products at every scale that numbers have, and their derivatives at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import htf
from htf.tensors import ht_distance, ht_norm

DIMS = (4, 5, 6)
POWERS = {"float32": (-140, -126, -100, -64, 0, 64, 100, 120), "float64": (-1060, -1022, -540, 0, 540, 1000)}
CASES = [(dtype, power) for dtype, powers in POWERS.items() for power in powers]


def tensor(backend, dtype, order=None, seed=0):
    x = (
        htf.random_ht(DIMS, 3, random_state=seed)
        if order is None
        else htf.random_ht((2,) * order, 2, random_state=seed)
    )
    return (x / x.norm()).to(np.dtype(dtype)).to_backend(backend)


def exact_norm(x):
    return float(x.to_backend("numpy").to(np.float64).norm())


def at_root(x, scale):
    return htf.HTTensor((x.tree, [*x.factors[:-1], x.factors[-1] * scale]))


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize(("dtype", "power"), CASES)
def test_norms_are_right_to_rounding_at_every_scale(backend, dtype, power):
    # Multiplied by a power of two, which rounds nothing, so the norm has to be multiplied by it exactly.
    x = tensor(backend, dtype)
    limits = np.finfo(dtype)
    if power < np.log2(limits.tiny) + 10:  # below the normal numbers: the scale is put together from two factors
        half = 2.0 ** (power // 2)
        y = htf.HTTensor((x.tree, [x.factors[0] * half, *x.factors[1:-1], x.factors[-1] * 2.0 ** (power - power // 2)]))
        expected = float(np.dtype(dtype).type(exact_norm(x) * 2.0**power))
        assert float(y.norm()) == pytest.approx(expected, abs=2 * float(limits.smallest_subnormal))
        return
    y = at_root(x, 2.0**power)
    for value in (y.norm(), ht_norm((y.tree, y.factors)), ht_distance(y, at_root(x, 0.0)), 2 * ht_distance(y, y / 2)):
        assert float(value) / 2.0**power == pytest.approx(exact_norm(x), rel=8 * float(limits.eps))


@pytest.mark.parametrize("scale", [1e-30, 3e-38, 1e-20, 7e15, 1e30, 1e37])
def test_single_precision_norms_of_batches_and_of_any_node(scale):
    x = htf.random_ht(DIMS, 3, outputs=4, random_state=0).to_backend("pytorch").to(torch.float32)
    for node in (0, 3, x.tree.root):
        factors = [f * scale if n == node else f for n, f in enumerate(x.factors)]
        y = htf.HTTensor((x.tree, factors))
        assert float(y.norm()) == pytest.approx(float(y.to(torch.float64).norm()), rel=1e-6)
    stacked = [torch.stack([f, f * (scale if n == 0 else 1)]) for n, f in enumerate(x.factors)]
    norms = torch.func.vmap(lambda *f: ht_norm((x.tree, f)))(*stacked)
    assert float(norms[1]) == pytest.approx(scale * float(norms[0]), rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("order", [1, 2, 33])
@pytest.mark.parametrize(("dtype", "beyond"), [("float32", 1e30), ("float64", 1e200)])
def test_inner_products_out_of_range_are_infinite_or_zero(backend, order, dtype, beyond):
    x = tensor(backend, dtype, order)
    large, small = (htf.HTTensor((x.tree, [x.factors[0] * scale, *x.factors[1:]])) for scale in (beyond, 1 / beyond))
    assert float(large.inner(large)) == np.inf
    assert float(large.inner(-large)) == -np.inf
    assert float(small.inner(small)) == 0
    # What goes out of range on the way only is right.
    assert float(large.inner(small)) == pytest.approx(1, rel=1e-4)
    assert float((-large).inner(small)) == pytest.approx(-1, rel=1e-4)


@pytest.mark.parametrize("order", [1, 2, 40])
@pytest.mark.parametrize("zeroed", ["leaf", "root", "all"])
def test_the_gradient_of_a_norm_at_zero_is_zero(order, zeroed):
    x = tensor("pytorch", "float64", order)
    gone = {"leaf": {0}, "root": {x.tree.root}, "all": set(range(x.tree.n_nodes))}[zeroed]
    factors = [(0 * f if n in gone else f).clone().requires_grad_() for n, f in enumerate(x.factors)]
    y = htf.HTTensor((x.tree, factors))
    for value in (y.norm(), ht_distance(y, y), ht_distance(y, y.detach())):
        assert float(value.detach()) == 0
        for gradient in torch.autograd.grad(value, factors, retain_graph=True):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_gradients_of_differences_are_finite_and_right():
    x, y = (tensor("pytorch", "float64", seed=seed) for seed in (0, 1))
    factors = [f.clone().requires_grad_() for f in x.factors]
    z = htf.HTTensor((x.tree, factors))
    for value in ((z - z).norm(), (z - z.detach()).norm(), ht_distance(z, z), ht_distance(z, z.detach())):
        assert float(value.detach()) < 1e-7
        # No norm changes faster than its tensor does.
        assert all(float(g.norm()) < 10 for g in torch.autograd.grad(value, factors))
    expected = torch.autograd.grad((z.to_tensor() - y.to_tensor()).norm(), factors)
    for value in (ht_distance(z, y), (z - y).norm()):
        for found, right in zip(torch.autograd.grad(value, factors), expected, strict=True):
            torch.testing.assert_close(found, right)
    # The two together have frames of lower rank than columns, of which no QR decomposition has a derivative.
    expected = torch.autograd.grad((z.to_tensor() - 0.9 * x.to_tensor()).norm(), factors)
    for found, right in zip(torch.autograd.grad(ht_distance(z, 0.9 * x), factors), expected, strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_single_precision_gradients_of_norms_at_every_scale(scale):
    x = tensor("pytorch", "float32")
    factors = [f.clone().requires_grad_() for f in [*x.factors[:-1], x.factors[-1] * scale]]
    found = torch.autograd.grad(htf.HTTensor((x.tree, factors)).norm(), factors)
    double = [f.detach().double().requires_grad_() for f in factors]
    for g, right in zip(found, torch.autograd.grad(htf.HTTensor((x.tree, double)).norm(), double), strict=True):
        torch.testing.assert_close(g.double() / right.abs().max(), right / right.abs().max(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_orthogonalized_and_rounded_tensors_keep_their_scale(scale):
    x = at_root(tensor("pytorch", "float32"), scale)
    norm = exact_norm(x)
    for y in (x.orthogonalize(), x.round(rank=3), x.round(tol=1e-7)):
        assert exact_norm(y) == pytest.approx(norm, rel=1e-6)
    values = x.singular_values()[0].double()
    assert float(values.norm()) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("recorded", [False, True])
def test_digits_lost_below_the_range_on_the_way_are_found_again(backend, recorded):
    # Overlaps of a leaf have a few digits below the normal numbers; enlarged at the root, the result looks ordinary.
    if recorded and backend == "numpy":
        pytest.skip("NumPy records no gradients")
    x = tensor("numpy", "float64")
    y = htf.HTTensor((x.tree, [x.factors[0] * 2.0**-530, *x.factors[1:-1], x.factors[-1] * 2.0**530]))
    y = y.to_backend(backend)
    if recorded:
        y.requires_grad_()
    for value in (y.inner(y), y.norm(), y.orthogonalize().norm(), ht_distance(y, 2 * y)):
        assert float(value.detach() if recorded else value) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("order", [8, 12, 20])
@pytest.mark.parametrize("power", [-7, -4, 3, 5])
def test_nodes_of_many_children_at_every_scale(backend, order, power):
    # Single precision: the overlaps of the children, each in range, have a product that is not.
    tree = htf.DimensionTree.balanced(order, arity=order)
    leaf, root = np.full((4, 1), 2.0**power, np.float32), np.ones((1,) * order + (1,), np.float32)
    x = htf.HTTensor((tree, [leaf] * order + [root])).to_backend(backend)
    for value in (x.norm(), x.orthogonalize().norm(), ht_distance(x, 2 * x), x.round(tol=1e-3).norm()):
        assert float(value) == pytest.approx(2.0 ** (order * (power + 1)), rel=1e-5, abs=0)


# PyTorch compiles some of its own rules with what it deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("order", [2, 5])
def test_forward_derivatives_of_norms_and_inner_products(order):
    x, direction = (tensor("pytorch", "float64", order, seed) for seed in (0, 1))
    with forward_ad.dual_level():
        factors = [forward_ad.make_dual(f, g) for f, g in zip(x.factors, direction.factors, strict=True)]
        y = htf.HTTensor((x.tree, factors))
        found = [float(forward_ad.unpack_dual(value).tangent) for value in (y.norm(), y.inner(x))]
    changed = [
        htf.HTTensor((x.tree, [*x.factors[:n], direction.factors[n], *x.factors[n + 1 :]]))
        for n in range(x.tree.n_nodes)
    ]
    inner = float(sum(x.inner(each) for each in changed))
    assert found == pytest.approx([inner / float(x.norm()), inner], rel=1e-10)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize(("dtype", "power"), [("float32", 60), ("float64", 500)])
@pytest.mark.parametrize(
    "tree", [htf.DimensionTree.balanced(4), htf.DimensionTree.linear(5), htf.DimensionTree.balanced(64)]
)
def test_summands_whose_factors_have_sizes_of_their_own(backend, dtype, power, tree):
    """At every node one is larger by far than the other, and their sizes as a whole are alike."""
    rng = np.random.RandomState(0)

    def spread(x):
        # As many nodes are larger as are smaller; one of an odd number is neither.
        pairs = tree.n_nodes // 2
        powers = rng.permutation([-power] * pairs + [power] * pairs + [0] * (tree.n_nodes % 2))
        return htf.HTTensor((x.tree, [f * 2.0 ** int(p) for f, p in zip(x.factors, powers, strict=True)]))

    plain = [htf.random_ht((3,) * tree.order, r, tree=tree, random_state=r) for r in (2, 3)]
    plain = [x / x.norm() for x in plain]
    x, y = (spread(each.to(np.dtype(dtype))).to_backend(backend) for each in plain)
    digits = {"rel": 1e-4 if dtype == "float32" else 1e-10}
    assert float(ht_distance(x, y)) == pytest.approx(float(ht_distance(*plain)), **digits)
    total = htf.tensors.ht_round_sum([x, y], rank=5)
    assert float(total.norm()) == pytest.approx(float((plain[0] + plain[1]).norm()), **digits)
    # A zero is none, whatever its factors are.
    zero = htf.HTTensor((x.tree, [*[f * 0 for f in x.factors[:1]], *x.factors[1:]]))
    assert float(ht_distance(y, zero)) == pytest.approx(1, **digits)
    assert float(ht_distance(zero, zero)) == 0
