"""Share of a trained network's output that depends on the contents of two distant patches together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from htf._checks import check_seed, natural, positive
from htf._files import read_json, write_json
from htf._modes import evaluated
from htf._outputs import check_outputs
from htf._random import seeded
from htf._repr import brief
from htf.patches.grids import DrawnGrids, centred, doubly_centred, draw_grids, grid_images
from htf.patches.sampling import Patch, PatchSampler, check_patches, random_patches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND = "a separation profile"
# Outputs of one image in different batches differ by a few roundings.
_ROUNDINGS = 16


@dataclass(frozen=True)
class SeparationProfile:
    """Interactions of pairs of patches, by the distance between them.

    Attributes
    ----------
    distances : tuple of int
        Pixels between the two patches.
    shares : tuple of float
        The part of the variance that the two patches make together, and neither makes alone: 0 for a sum of functions
        of each, 1 where either says something by the other only.  Estimates: they may exceed 1.
    errors : tuple of float
        Standard errors of the shares, as if the grids of different images were independent.  Those of few images share
        contents, and vary more: with 300 images and grids of 5 × 5 by 1.4 times.
    strengths : tuple of float
        The same part of the variance, relative to that of the output over the images: what interactions of one such
        pair of patches amount to.
    strength_errors : tuple of float
    settings : dict
        The measurement's settings, as JSON can hold them.

    See Also
    --------
    htf.ranks.separation_profile : measures it.
    htf.plotting.plot_separation_profile : draws it.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> products = lambda x: (x[..., 1:] * x[..., :-1]).sum((1, 2, 3))  # of each pixel and the next one
    >>> profile = htf.ranks.separation_profile(products, x, [0, 1, 2], patch=1)
    >>> [share > 0.01 for share in profile.shares]  # relates neighbours only
    [True, False, False]
    >>> profile.table().splitlines()[0]
    'distance    share   error   strength     error'
    """

    distances: tuple[int, ...]
    shares: tuple[float, ...]
    errors: tuple[float, ...]
    strengths: tuple[float, ...]
    strength_errors: tuple[float, ...]
    settings: dict[str, Any]

    __repr__ = brief

    def table(self) -> str:
        """Format as text, a row per distance."""
        lines = [f"{'distance':>8}  {'share':>7} {'error':>7}  {'strength':>9} {'error':>9}"]
        columns = (self.distances, self.shares, self.errors, self.strengths, self.strength_errors)
        for distance, share, error, strength, strength_error in zip(*columns, strict=True):
            lines.append(f"{distance:>8}  {share:>7.4f} {error:>7.4f}  {strength:>9.2e} {strength_error:>9.2e}")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None, *, strength: bool = False, label: str | None = None) -> Axes:
        """Draw it; see `htf.plotting.plot_separation_profile`."""
        from htf.plotting.separation import plot_separation_profile

        return plot_separation_profile(self, ax, strength=strength, label=label)

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file with a checksum; `load` reads it."""
        write_json(Path(path), asdict(self), _KIND)

    @classmethod
    def load(cls, path: str | Path) -> SeparationProfile:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, or no profile.
        """
        content = read_json(Path(path), _KIND)
        try:
            columns = {name: tuple(content[name]) for name in cls.__dataclass_fields__ if name != "settings"}
            if len({len(column) for column in columns.values()}) > 1:
                raise TypeError("its columns are of unequal length")
            if not all(isinstance(number, int | float) for column in columns.values() for number in column):
                raise TypeError("its columns hold what is no number")
            return cls(**columns, settings=content["settings"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a separation profile ({error})") from error


def separation_profile(
    model: Callable[[Tensor], Tensor],
    data: Dataset[Any] | Sequence[Tensor] | Tensor,
    distances: Iterable[int] | Mapping[int, PatchSampler],
    *,
    patch: int | tuple[int, int] = 2,
    samples: int = 128,
    grid: int = 4,
    seed: int = 0,
    batch_size: int = 256,
) -> SeparationProfile:
    r"""Measure how much a network's output depends on interactions of pixels, by their distance.

    Images of the data set are changed at two patches A and B, which take contents from other images.  For an output f,
    the rest of the image held fixed, its variance over contents is :math:`\sigma_A^2 + \sigma_B^2 + \sigma_{AB}^2`, by
    what A makes alone, what B makes alone, and what they make together.  At every distance, over random images and
    pairs of patches, the share is :math:`\sum \sigma_{AB}^2 / \sum (\sigma_A^2 + \sigma_B^2 + \sigma_{AB}^2)`, and the
    strength is the mean of :math:`\sigma_{AB}^2` relative to the variance of f over the images.

    Parameters
    ----------
    model : nn.Module
        From images to (n,), (n, 1) or (n, classes) outputs, whose variances are added.  Evaluated without gradients, in
        evaluation mode; each module's mode is put back.
    data : Dataset, (x, y) or x
        Images (n, channels, height, width) of a floating type, or a data set of (image, label), such as ``data.test``.
    distances : iterable of int, or mapping
        Pixels between the patches, along the axis on which they lie farther apart.  A mapping gives a sampler for each:
        ``{20: preset_areas(a, b)}`` measures two areas.
    patch : int or (int, int)
        Height and width of the patches; not looked at where samplers are given.
    samples : int
        Images, drawn without replacement; fewer if there are not as many.  At every distance each has a pair of patches
        of its own, with contents from the others.
    grid : int
        Contents of each patch, crossed, at least 2.
    seed : int
        Seed of all that is drawn.  The same images and patches are drawn for every model.
    batch_size : int
        Images evaluated at once, at most, but for a single grid.

    Returns
    -------
    SeparationProfile

    Raises
    ------
    TypeError
        If `data` is nothing of the kind, or images are not of a floating type.
    ValueError
        For distances that do not fit the images, naming the largest, less than two images, and outputs of another
        shape, or not finite.

    See Also
    --------
    htf.ranks.SeparationProfile : what it returns.
    htf.ranks.separation_rank : of tensors and networks on a tree, exactly.
    htf.regularizers.Interaction : a term of a loss that promotes such interactions.

    Notes
    -----
    ``samples * grid**2`` images are evaluated for each distance.  Variances are estimated without bias, so that shares
    do not depend on `grid`, from the sums of squares of a two-way analysis of variance.  Sums over images come before
    the ratio: blank patches, where nothing varies, weigh nothing.  Grids that vary by rounding alone count as constant;
    where all do, the share is 0.

    References
    ----------
    .. [1] I. M. Sobol, "Sensitivity estimates for nonlinear mathematical models", Math. Model. Comput. Exp. 1 (1993).
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.rand(20, 1, 8, 8)
    >>> profile = htf.ranks.separation_profile(lambda x: x[:, 0, 0, 0] + x[:, 0, 7, 7], x, [0, 4])
    >>> [round(share, 6) for share in profile.shares]
    [0.0, 0.0]
    """
    if not callable(model):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")
    grid, seed, batch_size = positive("grid", grid), check_seed(seed), positive("batch_size", batch_size)
    if grid < 2:
        raise ValueError(f"grid is {grid}; expected at least 2 contents of each patch")
    images, total = _drawn_images(data, positive("samples", samples), seed)
    grid = min(grid, len(images))
    samplers = _samplers(distances, patch)
    # All patches are drawn before anything is evaluated, so that a distance that does not fit is told at once.
    draws = [_draw(sampler, distance, images, grid, seed) for distance, sampler in samplers.items()]
    with evaluated(model), torch.no_grad():
        images = _moved(images, model)
        of_images = torch.cat([_outputs(model, part) for part in images.split(batch_size)])
        variance = float(of_images.double().var(0).sum())
        measured = [
            _measured(list(_grids(model, images, drawn, pairs, max(1, batch_size // grid**2))), variance)
            for drawn, pairs in draws
        ]
    shares, errors, strengths, strength_errors = zip(*measured, strict=True)
    settings = {
        "model": type(model).__name__,
        "images": [total, *images.shape[1:]],
        "samples": len(images),
        "grid": grid,
        "patch": None if isinstance(distances, Mapping) else list(draws[0][1][0][0][2:]),
        "seed": seed,
        "output_variance": variance,
    }
    return SeparationProfile(tuple(samplers), shares, errors, strengths, strength_errors, settings)


def _samplers(
    distances: Iterable[int] | Mapping[int, PatchSampler], patch: int | tuple[int, int]
) -> dict[int, PatchSampler]:
    if isinstance(distances, Mapping):
        found = {natural("distance", distance): sampler for distance, sampler in distances.items()}
    else:
        if not isinstance(distances, Iterable):
            raise TypeError(f"distances is {distances!r}; expected several, or a mapping of samplers")
        found = {
            number: random_patches(patch, number, adjacent=True)
            for number in (natural("distance", distance) for distance in distances)
        }
    if not found:
        raise ValueError("distances is empty; expected at least one")
    return found


def _drawn_images(data: Any, samples: int, seed: int) -> tuple[Tensor, int]:
    """Images of the data, in random order, and how many there were to draw from."""
    if isinstance(data, tuple | list) and data and isinstance(data[0], Tensor):
        separate = all(isinstance(image, Tensor) and image.ndim == 3 for image in data)
        data = data if separate else data[0]
    if not isinstance(data, Tensor) and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(
            f"data is a {type(data).__name__}; expected a data set of images, such as data.test, or tensors"
        )
    if len(data) < 2:
        raise ValueError(f"data has {len(data)} images; expected at least 2, as their patches are exchanged")
    chosen = torch.randperm(len(data), generator=seeded(seed, 0), device="cpu")[:samples]
    if len(chosen) < 2:
        raise ValueError(f"samples is {samples}; expected at least 2, as their patches are exchanged")
    if isinstance(data, Tensor):
        images = data[chosen.to(data.device)]
    else:
        items = [data[index] for index in chosen.tolist()]
        first = [item[0] if isinstance(item, tuple | list) else item for item in items]
        tensors = [x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu") for x in first]
        if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
            raise ValueError(f"data has images of shapes {', '.join(map(str, sorted(shapes)))}; expected one shape")
        images = torch.stack(tensors)
    if images.ndim != 4:
        raise ValueError(f"data has images of shape {tuple(images.shape[1:])}; expected (channels, height, width)")
    if not images.dtype.is_floating_point:
        raise TypeError(f"data has images of dtype {images.dtype}; expected a real floating type")
    return images, len(data)


def _draw(
    sampler: PatchSampler, distance: int, images: Tensor, grid: int, seed: int
) -> tuple[DrawnGrids, list[tuple[Patch, Patch]]]:
    """A grid for every image, with patches of its own; of a distance, whatever other distances are asked for."""
    generator = seeded(seed, distance + 1)
    height, width = images.shape[-2:]
    drawn = draw_grids(len(images), len(images), grid, generator)
    return drawn, [check_patches(sampler(height, width, generator), height, width) for _ in range(len(images))]


def _grids(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    drawn: DrawnGrids,
    pairs: list[tuple[Patch, Patch]],
    at_once: int,
) -> Iterator[Tensor]:
    """Outputs of grids, (some, outputs, size, size)."""
    contents_of_a, contents_of_b = drawn.contents
    for start in range(0, len(pairs), at_once):
        rows = slice(start, start + at_once)
        of_batch = []
        for number, pair in zip(range(len(pairs))[rows], pairs[rows], strict=True):
            own = DrawnGrids(drawn.base[number, None], (contents_of_a[number, None], contents_of_b[number, None]))
            of_batch.append(grid_images(images, own, pair))
        outputs = _outputs(model, torch.cat(of_batch))
        yield outputs.view(-1, drawn.size, drawn.size, outputs.shape[1]).permute(0, 3, 1, 2)


def _measured(parts: list[Tensor], variance: float) -> tuple[float, float, float, float]:
    """Share, its error, strength and its error, from the outputs of grids."""
    values = torch.cat(parts)
    eps, values = torch.finfo(values.dtype).eps, values.double()
    count, size = len(values), values.shape[-1]
    constant = values.amax((2, 3)) - values.amin((2, 3)) <= _ROUNDINGS * eps * values.abs().amax((2, 3))
    grids = torch.where(constant[..., None, None], 0.0, values).flatten(0, 1)
    squares_of_both = doubly_centred(grids).square().sum((1, 2))
    squares_alone = centred(grids).square().sum((1, 2)) - squares_of_both
    both = squares_of_both / (size - 1) ** 2
    # Means of rows and columns vary by the interaction too, by 1/size of its variance each.
    every = squares_alone / (size - 1) / size + both * (1 - 2 / size)
    both, every = (variances.view(count, -1).sum(1) for variances in (both, every))
    share = _ratio(both.sum(), every.sum())
    error = _ratio((both - share * every).square().mean().sqrt() / (count - 1) ** 0.5, every.mean())
    return share, error, _ratio(both.mean(), variance), _ratio(both.std() / count**0.5, variance)


def _ratio(part: Tensor, whole: Tensor | float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _outputs(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    out = check_outputs(model(images), len(images))
    if not bool(out.isfinite().all()):
        raise ValueError("the model's outputs hold values that are NaN or infinite")
    return out.reshape(len(images), -1).cpu()


def _moved(images: Tensor, model: Callable[[Tensor], Tensor]) -> Tensor:
    """Move images to the device and dtype of the model's parameters."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images if first is None else images.to(first.device, first.dtype)
