"""neuraloperator's tensorized Fourier neural operator with HT weights."""

import importlib.util
import warnings

import pytest
import tensorly as tl
import torch

if importlib.util.find_spec("neuralop") is None or importlib.util.find_spec("tltorch") is None:
    pytest.skip("neuraloperator is not installed", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import htf.tltorch

    with htf.tltorch._backend_kept():
        from neuralop.models.fno import TFNO


def smoothed(n_samples, size):
    """Random fields and their solutions of (1 - Laplacian/100) u = f on the torus."""
    fields = torch.randn(n_samples, 1, size, size, generator=torch.Generator().manual_seed(0))
    k = torch.fft.fftfreq(size, 1 / size)
    damping = 1 / (1 + 0.1 * (k[:, None] ** 2 + k[None, :] ** 2))
    return fields, torch.fft.ifft2(torch.fft.fft2(fields) * damping).real


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("factorization", "implementation"), [("ht", "factorized"), ("complexht", "reconstructed")])
def test_tfno_trains_with_ht_weights(factorization, implementation):
    torch.manual_seed(0)
    inputs, targets = smoothed(16, 12)
    with tl.backend_context("pytorch", local_threadsafe=True):
        options = {"n_modes": (8, 8), "in_channels": 1, "out_channels": 1, "hidden_channels": 8, "n_layers": 2}
        model = TFNO(factorization=factorization, rank=0.3, implementation=implementation, **options)
        dense = TFNO(factorization=None, implementation="reconstructed", **options)
        weights = [each for each in model.modules() if isinstance(each, htf.tltorch.HTFactorized)]
        assert len(weights) == 2
        count = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
        assert count < 0.6 * sum(p.numel() * (2 if p.is_complex() else 1) for p in dense.parameters())
        before = [p.detach().clone() for p in weights[0].parameters()]
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean() / targets.square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        assert losses[-1] < 0.3 * losses[0]
        assert all(not torch.equal(a, b) for a, b in zip(before, weights[0].parameters(), strict=True))
        # Coarser modes than trained with: slices of the weight.
        assert model(smoothed(2, 6)[0]).shape == (2, 1, 6, 6)
