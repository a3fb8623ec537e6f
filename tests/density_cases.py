"""Densities of a few modes beside the tables of all their probabilities."""

from functools import lru_cache

import numpy as np
import torch

from htf.models import TensorDensity


def linked(levels, order, samples=400, seed=0):
    """Samples whose middle value is the first, and whose last is more often 0."""
    x = torch.randint(0, levels, (samples, order), generator=torch.Generator().manual_seed(seed))
    x[:, order // 2] = x[:, 0]
    x[::2, -1] = 0
    return x


def everything(levels, order):
    return torch.cartesian_prod(*[torch.arange(levels)] * order)


@lru_cache(maxsize=64)
def fitted(levels, order, dtype=torch.float64, **settings):
    settings = {"width": 4, "epochs": 3, "batch_size": 80, "device": "cpu"} | settings
    return TensorDensity(levels=levels, dtype=dtype, **settings).fit(linked(levels, order))


def table(density, levels, order):
    """All probabilities, from the dense tensor."""
    tensor = density.network.to_tensor().to_tensor().detach().double()
    return tensor.square() if density.squared else tensor


def summed(whole, sample, missing):
    """Entries of a table at what is known of a sample, the missing modes last."""
    return whole[tuple(slice(None) if gone else int(value) for value, gone in zip(sample, missing, strict=True))]


def check_conditionals(density, whole, x):
    """Probabilities of what is missing given the rest, and an expectation under them, are those of the table."""
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    missing[missing.all(1), 0] = False
    found = density.log_prob(x) - density.log_prob(x, missing=missing)
    for row, gone, log in zip(x, missing, found, strict=True):
        shares = summed(whole, row, gone)
        shares = shares / shares.sum()
        assert abs(float(log.exp() - shares[tuple(row[gone])])) < 1e-10
    # The mean of a count over all samples that agree with one, by their conditional probabilities.
    row, gone = x[0], missing[0]
    values = torch.cartesian_prod(*[torch.arange(n) for n in whole.shape]).view(-1, x.shape[1])
    values = values[(values[:, ~gone] == row[~gone]).all(1)]
    chances = (density.log_prob(values) - density.log_prob(row[None], missing=gone[None])).exp()
    shares = summed(whole, row, gone).flatten()
    assert abs(float(chances.sum()) - 1) < 1e-10
    expected = (shares / shares.sum() * values.sum(1)).sum()
    assert abs(float((chances * values.sum(1)).sum() - expected)) < 1e-10


def chi_square(samples, probabilities):
    """Standardized chi-square statistic of samples (n, modes) against a table; cells of few are one."""
    n, shape = len(samples), probabilities.shape
    strides = torch.tensor([int(np.prod(shape[k + 1 :])) for k in range(len(shape))])
    counts = torch.bincount((samples * strides).sum(1), minlength=probabilities.numel()).double()
    expected = probabilities.flatten() * n
    many = expected >= 5
    parts = [((counts - expected).square() / expected)[many]]
    if bool((~many).any()):
        rest = expected[~many].sum()
        parts.append(((counts[~many].sum() - rest).square() / rest.clamp(min=1e-9)).reshape(1))
    statistic = torch.cat(parts)
    freedom = max(len(statistic) - 1, 1)
    return float((statistic.sum() - freedom) / (2 * freedom) ** 0.5)
