"""Over-parameterized and factorized layers folded back into plain ones."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import nn
from torch.nn.utils import skip_init

from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.overparam.base import Overparam
from htf.surgery._opened import closed, layers_within
from htf.surgery._transfer import factors, share, take_over
from htf.surgery._walk import Place, check_model, copy_with, places
from htf.surgery.report import Example, Report, Snapshot, count_parameters


@overload
def collapse(model: nn.Module, *, example: Example | None = ..., with_report: Literal[False] = ...) -> nn.Module: ...
@overload
def collapse(
    model: nn.Module, *, example: Example | None = ..., with_report: Literal[True]
) -> tuple[nn.Module, Report]: ...
@torch.no_grad()
def collapse(
    model: nn.Module, *, example: Example | None = None, with_report: bool = False
) -> nn.Module | tuple[nn.Module, Report]:
    """A copy of a model in which over-parameterized and factorized layers are torch's own again.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    example : Tensor or tuple of Tensor, optional
        Inputs for which operations are counted in the report, by calls of the model in evaluation mode, hooks included.
    with_report : bool
        Whether to return a report too.

    Returns
    -------
    torch.nn.Module, or (torch.nn.Module, Report)
        With the same outputs in evaluation mode.  A layer becomes one layer, or an ``nn.Sequential`` of small ones
        where that has fewer parameters; its hooks go there.  All else is kept as in `overparameterize`.

    Raises
    ------
    TypeError
        For a scripted, compiled or quantized model.
    ValueError
        If there is no such layer, as in a model that was collapsed before.

    See Also
    --------
    htf.overparameterize, htf.factorize : make such models.
    htf.truncate : lowers ranks before.

    Notes
    -----
    In training mode outputs are the same too, except for layers with batch normalization inside.

    An ``nn.Sequential`` has no ``weight``: a model whose own code reads that of a layer, rather than calling it, cannot
    use the collapsed one where its rank was cut (torch's transformer layers, which do, get whole layers).

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> htf.collapse(htf.overparameterize(model, depth=3, seed=0))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
    )
    """
    check_model(model)
    found = places(model)
    layers = [place for place in found if isinstance(place.module, DropInLayer)]
    if not layers:
        raise ValueError("model has no over-parameterized or factorized layers; perhaps it was collapsed before")
    read = read_by_parents(found)
    new: dict[int, nn.Module] = {}
    first: dict[tuple[int, ...], nn.Module] = {}
    for place in layers:
        whole = id(place.module) in read
        assert isinstance(place.module, DropInLayer)
        new[id(place.module)] = plain = _plain(place.module, whole)
        twin = first.setdefault((whole, *map(id, factors(place.module).values())), plain)
        if twin is not plain:
            share(plain, twin)
    before = Snapshot.of(model, layers, example)
    changed, old = copy_with(model, new)
    for key, layer in new.items():
        take_over(old[key], layer)
    changed = closed(changed)
    return (changed, before.report(changed, new, (), example, {})) if with_report else changed


def size_in_use(layer: DropInLayer, whole: bool) -> int:
    """Numbers in the parameters of what stands for a layer when the model is used.

    That is what `collapse` makes of it; a factorized layer stays as it is where it is smaller.
    """
    collapsed = count_parameters(_plain(layer, whole))
    return collapsed if isinstance(layer, Overparam) else min(collapsed, count_parameters(layer))


def _plain(layer: DropInLayer, whole: bool) -> nn.Module:
    plain = layer.plain()
    if not (whole and isinstance(plain, nn.Sequential)):
        return plain
    weight, bias = layer.weight, layer.bias
    out_features, in_features = weight.shape
    options = {"device": weight.device, "dtype": weight.dtype}
    linear = skip_init(nn.Linear, in_features, out_features, bias is not None, **options)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    return linear


def read_by_parents(found: list[Place]) -> set[int]:
    """Layers that have to be one, as the modules that they are in read their weights.

    Of torch's transformer layers in evaluation mode, and of attention and recurrent layers always.
    """
    transformers = [p.module for p in found if isinstance(p.module, nn.TransformerEncoderLayer)]
    read = {id(layer) for module in transformers for layer in (module.linear1, module.linear2)}
    return read | set(layers_within(found))
