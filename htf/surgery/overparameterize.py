"""Layers of a model exchanged for over-parameterized ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from torch import Generator, nn

from htf._checks import positive
from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear
from htf.surgery._convert import Start, build_each, check_start, exchange, make_generator, select
from htf.surgery._eligible import check_types
from htf.surgery.report import Example, Report, Snapshot

_LAYERS: dict[type[nn.Module], Any] = {
    nn.Linear: OverparamLinear,
    nn.Conv1d: OverparamConv1d,
    nn.Conv2d: OverparamConv2d,
    nn.Conv3d: OverparamConv3d,
}


class _Options(TypedDict, total=False):
    width: int | None
    kernel_sizes: Sequence[int | Sequence[int]] | None
    residual: Sequence[int]
    batch_norm: bool
    modules: Iterable[str] | None
    types: type[nn.Module] | Iterable[type[nn.Module]] | None
    start: Start
    seed: int | Generator | None
    example: Example | None


@overload
def overparameterize(
    model: nn.Module, depth: int = ..., *, with_report: Literal[False] = ..., **options: Unpack[_Options]
) -> nn.Module: ...
@overload
def overparameterize(
    model: nn.Module, depth: int = ..., *, with_report: Literal[True], **options: Unpack[_Options]
) -> tuple[nn.Module, Report]: ...
def overparameterize(
    model: nn.Module,
    depth: int = 2,
    *,
    width: int | None = None,
    kernel_sizes: Sequence[int | Sequence[int]] | None = None,
    residual: Sequence[int] = (),
    batch_norm: bool = False,
    modules: Iterable[str] | None = None,
    types: type[nn.Module] | Iterable[type[nn.Module]] | None = None,
    start: Start = "same",
    seed: int | Generator | None = None,
    example: Example | None = None,
    with_report: bool = False,
) -> nn.Module | tuple[nn.Module, Report]:
    """A copy of a model in which linear layers and convolutions are products of several.

    Training such a model promotes weights of low rank; `collapse` makes it plain again, with the same outputs.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    depth, width, residual, batch_norm
        Of each layer; see `htf.nn.OverparamLinear`.
    kernel_sizes : sequence of int or tuple, optional
        Of the factors of each convolution, as `htf.nn.OverparamConv2d` has them: (1, 3, 1), or (3, 3) for 5 × 5.
        Convolutions whose kernel is another are left alone.
    modules : iterable of str, optional
        Names of modules, or patterns as in `fnmatch` (``"layer3"``, ``"*.conv1"``), each standing for all below it
        too; by default the whole model.
    types : type or iterable of types, optional
        From ``nn.Linear`` and ``nn.Conv1d`` to ``nn.Conv3d``, all by default.  Subclasses of these are never changed,
        as they may use the weight in other ways.
    start : {"same", "random"}
        Whether products begin at the layers' weights or are drawn anew.
    seed : int or torch.Generator, optional
        Of what is drawn; None draws from torch's global generator.
    example : Tensor or tuple of Tensor, optional
        Inputs for which operations are counted in the report, by calls of the model in evaluation mode, hooks included.
    with_report : bool
        Whether to return a report too.

    Returns
    -------
    torch.nn.Module, or (torch.nn.Module, Report)
        Names, hooks, device, dtype, modes, buffers and what is trained are as before.  A module used under two names is
        one module still, and layers that shared a weight share factors.

    Raises
    ------
    TypeError
        For a scripted, compiled or quantized model.
    ValueError
        If nothing can be changed, or names fit nothing; arguments that do not fit are named.

    See Also
    --------
    htf.collapse : the plain model after training.
    htf.truncate : lowers ranks of products that have become low.
    htf.nn.OverparamLinear, htf.nn.OverparamConv2d : its layers.

    Notes
    -----
    Layers whose weight is used elsewhere too, or made by weight_norm and the like, are left alone; the report says why.
    Parameters are new ones, but for biases: make the optimizer afterwards.  Attributes that were set on a layer itself
    are not carried over.

    References
    ----------
    .. [1] L. Jing, J. Zbontar, Y. LeCun, "Implicit rank-minimizing autoencoder", NeurIPS 2020.
    .. [2] M. Huh et al., "The low-rank simplicity bias in deep networks", TMLR 2023.
    .. [3] S. Guo, J. Alvarez, M. Salzmann, "ExpandNets: linear over-parameterization to train compact convolutional
       networks", NeurIPS 2020.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> deep = htf.overparameterize(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), depth=3, seed=0)
    >>> [type(layer).__name__ for layer in deep]
    ['OverparamLinear', 'ReLU', 'OverparamLinear']
    """
    positive("depth", depth)
    if width is not None:
        positive("width", width)
    check_start(start)
    selection = select(model, modules, check_types(types, tuple(_LAYERS)), tuple(_LAYERS), "over-parameterized")
    generator = make_generator(seed)
    if start == "same":
        selection.check_values()

    def build(layer: nn.Module) -> DropInLayer:
        options: dict[str, Any] = {"width": width, "residual": residual, "batch_norm": batch_norm}
        if kernel_sizes is not None and not isinstance(layer, nn.Linear):
            options["kernel_sizes"] = kernel_sizes
        return cast(DropInLayer, _LAYERS[type(layer)].from_plain(layer, depth, **options, start=start, seed=generator))

    new = build_each(selection, build, "over-parameterized")
    before = Snapshot.of(model, selection.places, example)
    changed = exchange(model, new, fresh=start == "random")
    if not with_report:
        return changed
    return changed, before.report(changed, new, selection.left_alone, example, {})
