"""Functions of the entries of HT tensors."""

import numpy as np
import pytest
import torch

import htf
from htf import tensors
from htf.tensors import random_ht

SHAPE = (6, 5, 6, 5)


def made(seed=0, **options):
    return random_ht(SHAPE, 2, random_state=seed, **options)


@pytest.mark.parametrize("function", [np.exp, np.abs, np.tanh, lambda v: 1 / (1 + v**2), lambda v: np.exp(1j * v)])
def test_functions_of_one_tensor(function):
    x = made()
    y, info = htf.apply(function, x, random_state=0, return_info=True)
    assert info.converged
    assert y.relative_error(function(x.to_tensor())) < 1e-8


def test_functions_of_several_tensors_on_any_trees():
    x, y = made(0), made(1).change_tree(htf.DimensionTree.linear(4))
    a, b = x.to_tensor(), y.to_tensor()
    for function in (np.maximum, np.arctan2, lambda u, v: u / (3 + np.abs(v))):
        z = htf.apply(function, x, y, random_state=0)
        assert z.tree == x.tree
        assert z.relative_error(function(a, b)) < 1e-8
    three = htf.apply(lambda u, v, w: u * v + np.exp(w), x, y, made(2) * 1j, tree=y.tree, random_state=0)
    assert three.tree == y.tree
    assert three.relative_error(a * b + np.exp(1j * made(2).to_tensor())) < 1e-8


def test_high_orders_and_what_few_entries_hold():
    angles = np.random.RandomState(0).rand(40, 2, 1)
    x = tensors.cp_to_ht((None, list(1 + angles / 20)))
    y, info = htf.apply(np.log, x, random_state=0, return_info=True)
    assert info.converged
    rows = np.random.RandomState(1).randint(0, 2, (500, 40))
    np.testing.assert_allclose(y.entries(rows), np.log(x.entries(rows)), rtol=1e-6)
    # A single entry, which random ones do not meet.
    ends = [4 * np.eye(4)[:, :1], *[np.eye(4)[:, :1]] * 19]
    single = htf.apply(np.sqrt, tensors.cp_to_ht((None, ends)), random_state=0)
    np.testing.assert_allclose([single[(0,) * 20], single.norm()], 2)


def test_results_are_beside_the_first_tensor():
    x = made().to_backend("pytorch").to(torch.float32)
    d = x.to_tensor().double()
    for function in (torch.exp, np.exp):
        y = htf.apply(function, x.copy().requires_grad_(), random_state=0)
        assert (y.dtype, y.requires_grad) == (torch.float32, False)
        assert y.relative_error(d.exp()) < 1e-6
    assert htf.apply(lambda v: 1j * v, x, random_state=0).dtype == torch.complex64
    assert htf.apply(lambda v: (1j * v).conj(), x.to(torch.complex64), random_state=0).dtype == torch.complex64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: htf.apply(np.log, x), ValueError, r"returned nan for the entry -\d\S* at index row \["),
        (lambda x: htf.apply(lambda v: 1 / v, 0 * x), ValueError, r"returned inf for the entry 0 at index row \["),
        (lambda x: htf.apply(lambda v: v[:2], x), ValueError, r"returned shape \(2,\); expected that of the entries"),
        (lambda x: htf.apply(lambda v: v[:, None], x), ValueError, r"returned shape \(\d+, 1\)"),
        (lambda x: htf.apply(np.sum, x), ValueError, r"returned shape \(\)"),
        (lambda x: htf.apply(lambda v: ["a"] * len(v), x), TypeError, "returned values of dtype <U1"),
        (lambda x: htf.apply(5, x), TypeError, "function is a int; expected a callable"),
        (lambda x: htf.apply(np.exp), ValueError, "there is no tensor"),
        (lambda x: htf.apply(np.exp, np.ones(3)), TypeError, "ht_tensor is a ndarray"),
        (lambda x: htf.apply(np.add, x, random_ht((3, 3), 1)), ValueError, "the tensors have shapes"),
        (lambda x: htf.apply(np.exp, random_ht((3, 3), 1, outputs=2)), ValueError, "a tensor has 2 outputs"),
        (lambda x: htf.apply(np.exp, x * float("inf")), ValueError, "NaN or infinite"),
        (lambda x: htf.apply(np.exp, x, tol=0), ValueError, "tol is 0"),
        (lambda x: htf.apply(np.exp, x, start=[0, 0]), ValueError, r"start has shape \(2,\); expected \(count, 4\)"),
        (lambda x: htf.apply(np.exp, x, shape=SHAPE), TypeError, "shape is no option of apply"),
        (lambda x: htf.apply(np.exp, x, like=np.zeros(1, np.float32)), TypeError, "like is no option of apply"),
        (lambda x: htf.apply(np.exp, x, random_state=1.5), TypeError, "random_state is 1.5; expected an integer"),
        (lambda x: htf.apply(lambda v: np.ma.masked_less(v, 0), x), TypeError, "returned is a MaskedArray"),
        (lambda x: htf.apply(lambda v: v * 1e200, x.to(np.float32)), ValueError, r"returned -?inf"),
        (
            lambda x: htf.apply(lambda v: v.astype(float) * 1e200, x.to(np.float32)),
            ValueError,
            "beyond the range of float32, the dtype of the first tensor",
        ),
    ],
)
def test_what_cannot_be_applied(call, error, message):
    with pytest.raises(error, match=message):
        call(made())
