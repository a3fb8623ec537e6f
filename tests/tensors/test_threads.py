"""Large NumPy tensors are decomposed by PyTorch where threads are shared; results are NumPy's all the same."""

import numpy as np
import pytest
import torch

import htf
from htf.linalg.threads import suits_pytorch
from htf.tensors import ht_inner, ht_orthogonalize, ht_round, ht_singular_values


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("read_only", [False, True])
def test_operations_are_those_of_one_thread(two_threads, dtype, read_only):
    x = htf.random_ht((24, 25, 26), rank=24, random_state=0)
    factors = [f.astype(dtype) * (1 + 1j if dtype.startswith("complex") else 1) for f in x.factors]
    for f in factors:
        f.flags.writeable = not read_only
    x = htf.HTTensor((x.tree, factors))
    assert suits_pytorch(x.factors, max(x.rank))
    operations = (lambda: ht_round(x, rank=6), lambda: ht_round(x, tol=0.3), lambda: ht_orthogonalize(x))
    shared = [operation() for operation in operations]
    spectra, norm = ht_singular_values(x), ht_inner(x, x)
    torch.set_num_threads(1)
    assert not suits_pytorch(x.factors, max(x.rank))
    digits = 1e-3 if dtype == "float32" else 1e-10
    for found, operation in zip(shared, operations, strict=True):
        assert all(type(f) is np.ndarray and f.dtype == dtype for f in found.factors)
        expected = operation()
        assert found.rank == expected.rank
        np.testing.assert_allclose(found.to_tensor(), expected.to_tensor(), atol=digits * float(x.norm()) / 100)
    for node, values in ht_singular_values(x).items():
        assert type(spectra[node]) is np.ndarray
        np.testing.assert_allclose(spectra[node], values, rtol=digits, atol=digits * values[0])
    np.testing.assert_allclose(norm, ht_inner(x, x), rtol=digits)


def test_overflow_names_the_dtype_of_the_array(two_threads):
    x = htf.random_ht((24, 25, 26), rank=24, random_state=0)
    x = htf.HTTensor((x.tree, [f * 1e200 for f in x.factors]))
    with pytest.raises(OverflowError, match="range of float64"):
        ht_orthogonalize(x)


def test_gradients_stay_in_pytorch(two_threads):
    x = htf.random_ht((24, 25, 26), rank=24, random_state=0).to_backend("pytorch")
    factors = [f.requires_grad_() for f in x.factors]
    ht_inner(htf.HTTensor((x.tree, factors)), x).backward()
    assert all(torch.isfinite(f.grad).all() for f in factors)
