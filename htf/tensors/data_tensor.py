"""A data set as a tensor: the mean of the outer products of its samples' feature vectors, held by its samples.

Of a tensor with a mode per feature only Gram matrices of the samples are ever computed: those of the samples' products
over a set of modes are entrywise products of the modes' own.  Vectors are divided by their norms, which become weights
of the samples by their logarithms, so that products over any number of modes stay in range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htf._machine import usable_device
from htf.linalg.backend import check_tensor, host_array

Encoder = Callable[[Tensor], Tensor]

# Standard deviations at which features are cut: a feature that differs in one sample alone would turn full circles.
_FARTHEST = 5.0
# Part of the tensor's squared norm that a factor of lower rank may leave out, and of up to how many samples: entropies
# change by less than 1e-12, and by 1e-8 where it saves most of the time.
_LEFT_OUT = {500: 1e-14, float("inf"): 1e-10}
# Rows of Gram matrices that are computed together.
_ROWS = 64
# Columns that a factor grows by, and how far below their largest eigenvalue they are taken.
_BLOCK, _SPREAD = 64, 1e-4
# Dimension up to which modes are multiplied out.
EXPLICIT = 64
# Sums of signed samples below this part of their terms are rounding.
_ROUNDING = 1e-13


class DataTensor:
    r"""The tensor :math:`\frac{1}{M} \sum_i c_i \otimes \phi(x_{i1}) \otimes \dots \otimes \phi(x_{iN})` of samples.

    Parameters
    ----------
    vectors : Tensor, (samples, modes, dim)
        Feature vectors, in double precision.
    codes : Tensor, (samples, width), optional
        Vectors of the labels, which make a further mode; without them the samples are added up as they are.

    Attributes
    ----------
    units : Tensor, (modes, samples, dim)
        Vectors of length 1.
    weights : Tensor, (samples, width)
        Codes times the norms of the samples' products, the largest of which is 1.
    norms : Tensor, (samples, 1)
    codes : Tensor, (samples, width)
    """

    def __init__(self, vectors: Tensor, codes: Tensor | None = None) -> None:
        units = vectors.double().transpose(0, 1)
        # Scaled by the largest entry before squares are taken, which small or large ones would leave the range.
        largest = units.abs().amax(2, keepdim=True)
        scaled = units / torch.where(largest > 0, largest, 1.0)
        lengths = scaled.norm(dim=2, keepdim=True)
        self.units = (scaled / torch.where(largest > 0, lengths, 1.0)).contiguous()
        log = (largest.log() + torch.where(largest > 0, lengths, 1.0).log()).sum(0)
        self.norms = (log - log.max()).exp() if bool(log.isfinite().any()) else torch.zeros_like(log)
        self.codes = torch.ones_like(self.norms) if codes is None else codes.double()
        self.weights = self.norms * self.codes

    def take(self, rows: Tensor) -> DataTensor:
        """The tensor of some of the samples."""
        found = copy(self)
        rows = rows.to(self.units.device)
        found.units = self.units[:, rows].contiguous()
        found.norms, found.codes, found.weights = self.norms[rows], self.codes[rows], self.weights[rows]
        return found

    def padded(self, order: int) -> DataTensor:
        """The tensor with further modes, up to so many, in which all samples are the same."""
        found = copy(self)
        same = torch.zeros(order - self.order, *self.units.shape[1:], dtype=self.units.dtype, device=self.units.device)
        same[..., 0] = 1
        found.units = torch.cat([self.units, same])
        return found

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.units.shape[1]

    @property
    def order(self) -> int:
        """Number of modes of features."""
        return self.units.shape[0]

    @property
    def dim(self) -> int:
        """Dimension of each of them."""
        return self.units.shape[2]

    def explicit(self, count: int) -> bool:
        """Whether products over so many modes are short enough to be written out."""
        return self.dim**count <= min(EXPLICIT, max(self.samples, self.dim))

    def products(self, modes: Iterable[int]) -> Tensor:
        """Products of the samples' unit vectors over a few modes, (samples, dim ** modes)."""
        found = self.units.new_ones(self.samples, 1)
        for mode in modes:
            found = (found.unsqueeze(2) * self.units[mode].unsqueeze(1)).flatten(1)
        return found

    def gram(self, modes: Iterable[int]) -> Tensor:
        """Gram matrix of the samples' products over modes, (samples, samples), whose diagonal is 1."""
        modes = list(modes)
        # A few modes at once: a matrix product costs less than entrywise ones.
        count = next(k for k in (4, 3, 2, 1) if k == 1 or self.explicit(k))
        groups = [self.products(modes[k : k + count]) for k in range(0, len(modes), count)]
        found = self.units.new_empty(self.samples, self.samples)
        # Rows that stay in the cache while they are multiplied.
        for rows in torch.arange(self.samples, device=found.device).split(_ROWS):
            part = found[rows[0] : rows[-1] + 1]
            torch.mm(groups[0][rows], groups[0].T, out=part)
            for group in groups[1:]:
                part *= group[rows] @ group.T
        return found

    def spectrum(self, modes: Iterable[int]) -> Tensor:
        """Squared singular values of the matricization of modes against the rest and labels, divided by their sum.

        Raises
        ------
        ValueError
            If `modes` is empty or all of them and there are no labels, which leave nothing on one side.
        """
        modes = sorted(set(modes))
        rest = [mode for mode in range(self.order) if mode not in set(modes)]
        above = self.gram(rest) if rest else self.units.new_ones(self.samples, self.samples)
        factor = self.products(modes) if self.explicit(len(modes)) else self.factor(self.gram(modes), above)
        return normalized(density(factor, above, self.weights))

    def factor(self, below: Tensor, above: Tensor, readings: Iterable[Tensor] = ()) -> Tensor:
        """Factor of a Gram matrix of one side that suffices for the squared norm under any of some weights."""
        met = below * above
        # A sample of the largest weight has a part 1 in the trace.
        most = min(
            float(((met @ weights) * weights).sum() / weights.square().sum(1).amax().clamp(min=1e-300))
            for weights in (self.weights, *readings)
        )
        part = next(part for samples, part in _LEFT_OUT.items() if self.samples <= samples)
        return factor_of(below, part * most)


def density(factor: Tensor, above: Tensor, weights: Tensor) -> Tensor:
    r"""The matricization times its transpose, in coordinates: :math:`F^\top (G \circ V V^\top) F`.

    Parameters
    ----------
    factor : Tensor, (samples, rank)
        F: products over the modes of one side.
    above : Tensor, (samples, samples)
        G: Gram matrix of the products over the others.
    weights : Tensor, (samples, width)
        V.
    """
    found = factor.T @ ((above * (weights @ weights.T)) @ factor)
    terms = float(weights.square().sum())
    return found if float(found.trace()) > _ROUNDING * terms else torch.zeros_like(found)


def normalized(matrix: Tensor) -> Tensor:
    """Eigenvalues of a positive semidefinite matrix, divided by their sum, descending; zeros of one that is zero."""
    values = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)
    return values / torch.where(values.sum() > 0, values.sum(), 1.0)


def factor_of(gram: Tensor, left_out: float = 0.0) -> Tensor:
    """F of as few columns as may be, (n, rank), with F Fᵀ a Gram matrix: Cholesky's with pivots, in blocks.

    Parameters
    ----------
    gram : Tensor, (n, n)
        With a diagonal of 1.
    left_out : float
        What the trace of F Fᵀ may lack.

    Notes
    -----
    O(n rank²) multiplications.
    """
    size = len(gram)
    left, found, rank = gram.diagonal().clone(), torch.empty_like(gram), 0
    plain = False
    while rank < size and float(left.sum()) > max(left_out, _ROUNDING / 10 * size):
        if not plain and (4 * rank > 3 * size or (4 * rank > size and float(left.sum()) > 1e-3 * size)):
            # Close to full rank pivots do not pay, unless rounding has made eigenvalues negative.
            plain = True
            lower, failed = torch.linalg.cholesky_ex(gram)
            if not int(failed):
                return lower
        chosen = left.topk(min(_BLOCK, size - rank)).indices
        columns = gram[:, chosen] - found[:, :rank] @ found[chosen, :rank].T
        values, vectors = torch.linalg.eigh(columns[chosen])
        # Of samples much alike, the rest is left to further rounds; below rounding there is nothing to find.
        kept = values > max(_SPREAD * float(values[-1]), 1e-15)
        if not bool(kept.any()):
            break
        new = columns @ (vectors[:, kept] / values[kept].sqrt())
        found[:, rank : rank + new.shape[1]] = new
        rank += new.shape[1]
        left = (left - new.square().sum(1)).clamp(min=0)
    return found[:, :rank]


def angles(features: Tensor) -> Tensor:
    r"""Encode standardized features z as (cos θz, sin θz) with θ = √(2 / varying features), (samples, features, 2).

    Inner products of two samples' products over all features are about exp(-\|z - z'\|² / features), the Gaussian
    kernel of scikit-learn's default width: neither are all samples alike, nor are all orthogonal to each other,
    whatever the number of features.  Features are cut at 5 standard deviations; those that do not vary are (1, 0).
    """
    features = features.double()
    spread, largest = features.std(0, correction=0), features.abs().amax(0)
    varies = spread > 1e-12 * largest
    z = (features - features.mean(0)) / torch.where(varies, spread, torch.inf)
    angle = z.clamp(-_FARTHEST, _FARTHEST) * (2 / max(int(varies.sum()), 1)) ** 0.5
    return torch.stack([angle.cos(), angle.sin()], 2)


def check_features(features: Any, name: str = "features") -> Tensor:
    """Features as a tensor in double precision, on its own device or the CPU, finite and with at least two samples."""
    if isinstance(features, Tensor):
        check_tensor(features, name)
    tensor = features.detach() if isinstance(features, Tensor) else torch.from_numpy(_host(features, name))
    if tensor.is_complex():
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected real numbers")
    if tensor.ndim < 2:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected (samples, features) or (samples, features, dim)"
        )
    if len(tensor) < 2 or not tensor.numel():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected at least 2 samples of at least one feature")
    tensor = tensor.double()
    if not bool(tensor.isfinite().all()):
        where = (~tensor.isfinite()).flatten(1).any(1).nonzero()[0].item()
        raise ValueError(f"{name} has entries that are NaN or infinite, the first in sample {where}; expected none")
    if bool((tensor == tensor[0]).all()):
        raise ValueError(f"{name} are constant: all samples are the same; expected some feature that varies")
    return tensor


def _host(features: Any, name: str) -> np.ndarray:
    array = host_array(features, name)
    if array.dtype.kind not in "uifbc":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    return np.ascontiguousarray(array.astype(np.float64) if array.dtype.kind != "c" else array)


def feature_vectors(features: Tensor, encoder: Encoder | None = None) -> Tensor:
    """A vector per feature of checked features, (samples, features, dim); `angles` of a table without an encoder."""
    if encoder is not None:
        if not callable(encoder):
            raise TypeError(f"encoder is a {type(encoder).__name__}; expected a callable, such as htf.datasets.affine")
        vectors = encoder(features)
        if not isinstance(vectors, Tensor) or vectors.ndim != 3 or len(vectors) != len(features):
            what = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"encoder gives {what}; expected vectors of shape ({len(features)}, features, dim)")
        if not bool(vectors.isfinite().all()):
            raise ValueError("encoder gives vectors that are NaN or infinite")
        return vectors.double()
    if features.ndim == 3:
        return features
    if features.ndim != 2:
        raise ValueError(
            f"features has shape {tuple(features.shape)}; expected (samples, features), (samples, features, dim), "
            "or an encoder that takes them"
        )
    return angles(features)


def label_codes(labels: Any, samples: int) -> Tensor:
    """Vectors of labels, (samples, classes): unit vectors less their mean over the classes.

    Their inner products are those of the signs 1 and -1, halved, where there are two classes.
    """
    array = host_array(labels, "labels")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (samples,):
        raise ValueError(f"labels has shape {array.shape}; expected ({samples},), one for each sample")
    if array.dtype.kind == "f" and not bool((array == np.round(array)).all()):
        raise ValueError("labels has entries that are no whole numbers; expected classes")
    classes, codes = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels has one class, {classes.tolist()[0]!r}; expected at least 2")
    return torch.eye(len(classes), dtype=torch.float64)[torch.from_numpy(codes)] - 1 / len(classes)


def data_tensor(
    features: Any, labels: Any = None, encoder: Encoder | None = None, device: torch.device | str | None = None
) -> DataTensor:
    """The tensor of a data set, of checked features and labels."""
    tensor = check_features(features)
    codes = None if labels is None else label_codes(labels, len(tensor))
    tensor = tensor if device is None else tensor.to(usable_device(device))
    vectors = feature_vectors(tensor, encoder)
    return DataTensor(vectors, None if codes is None else codes.to(vectors.device))
