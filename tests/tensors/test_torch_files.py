"""HT tensors in files of torch.save."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import htf


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_torch_saves_and_loads_weights_only(tmp_path, dtype):
    x = htf.random_ht((3, 4, 5), 2, random_state=0).to_backend("pytorch").to(dtype)
    parameters = {"step": 3, "weights": [x, x.factors[0]], "linear": htf.random_ht((2, 2), 1).to_backend("pytorch")}
    torch.save(parameters, tmp_path / "state.pt")
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    y = found["weights"][0]
    assert type(y) is htf.HTTensor
    assert (y.tree, y.shape, y.rank, y.dtype) == (x.tree, x.shape, x.rank, dtype)
    for mine, other in zip(x.factors, y.factors, strict=True):
        assert torch.equal(mine, other)
    # What shares its memory does so again.
    assert found["weights"][1].data_ptr() == y.factors[0].data_ptr()
    code = f"import torch; from htf import HTTensor; torch.load({str(tmp_path / 'state.pt')!r}, weights_only=True)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_gradients_and_buffers(tmp_path):
    x = htf.random_ht((3, 4), 2, random_state=0).to_backend("pytorch").requires_grad_()
    torch.save(x, tmp_path / "x.pt")
    y = torch.load(tmp_path / "x.pt", weights_only=True)
    assert y.requires_grad


def test_a_file_with_factors_that_do_not_fit_is_refused(tmp_path):
    x = htf.random_ht((3, 4), 2, random_state=0).to_backend("pytorch")
    x.factors[0] = torch.zeros(3, 5, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="node 0 has rank 5"):
        torch.load(tmp_path / "x.pt", weights_only=True)


def test_numpy_factors_are_for_htf_save(tmp_path):
    x = htf.random_ht((3, 4), 2, random_state=0)
    htf.save(x, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(htf.load(tmp_path / "x.safetensors").to_tensor(), x.to_tensor())
