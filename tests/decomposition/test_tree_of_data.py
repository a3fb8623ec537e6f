"""Trees chosen for data: those of their dense tensors."""

import numpy as np
import pytest
import torch

import htf
from htf.tensors.data_tensor import angles, label_codes


def table(samples=40):
    x = np.random.default_rng(0).normal(size=(samples, 2))
    return np.concatenate([x, x + 0.3 * np.random.default_rng(1).normal(size=x.shape)], 1), np.arange(samples) % 2


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
@pytest.mark.parametrize("tol", [1e-1, 1e-2])
def test_the_tree_of_data_is_that_of_their_tensor(method, tol):
    x, labels = table()
    vectors = angles(torch.from_numpy(x)).numpy()
    dense = np.einsum("ma,mb,mc,md->abcd", *vectors.transpose(1, 0, 2))
    signs = label_codes(labels, 40).numpy()[:, 0]
    signed = np.einsum("m,ma,mb,mc,md->abcd", signs, *vectors.transpose(1, 0, 2))
    assert htf.optimize_tree((x, None), tol, method) == htf.optimize_tree(dense, tol, method)
    assert htf.optimize_tree((x, labels), tol, method) == htf.optimize_tree(signed, tol, method)


def test_features_that_belong_together_are_joined_by_any_map():
    x, labels = table(100)
    expected = htf.DimensionTree.from_nested(((0, 2), (1, 3)))
    assert htf.optimize_tree((x, None), 0.2) == expected
    levels = torch.from_numpy((x > 0).astype(int))

    def one_hot(features):
        return htf.datasets.one_hot(features.long(), 2)

    assert htf.optimize_tree((levels, labels), 0.3, encoder=one_hot).order == 4


@pytest.mark.parametrize(
    ("data", "settings", "error", "message"),
    [
        ((table()[0],), {}, ValueError, "tensor is a tuple of 1"),
        ((table()[0], np.zeros(40)), {}, ValueError, "labels has one class"),
        ((np.full((9, 4), np.nan), None), {}, ValueError, "NaN or infinite"),
        ((table()[0][:, :1], None), {}, ValueError, "order 1"),
        (table(), {"tol": 2.0}, ValueError, r"tol is 2\.0"),
        (table(), {"method": "best"}, ValueError, "method is 'best'"),
        (np.ones((2, 2)), {"encoder": angles}, TypeError, "encoder is given with a tensor"),
    ],
)
def test_what_is_refused(data, settings, error, message):
    with pytest.raises(error, match=message):
        htf.optimize_tree(data, **{"tol": 0.1, **settings})
