"""Layers of a model exchanged for factorized ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from torch import Generator, nn

from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.surgery._budget import check_budget, fit_into
from htf.surgery._carry import relative_error
from htf.surgery._convert import (
    Build,
    Selection,
    Start,
    build_each,
    build_group,
    check_start,
    exchange,
    make_generator,
    select,
    size_of,
)
from htf.surgery._eligible import check_types
from htf.surgery._walk import Place
from htf.surgery.report import Example, Report, Snapshot, count_parameters

_LAYERS: dict[type[nn.Module], Any] = {nn.Linear: FactorizedLinear, nn.Conv2d: FactorizedConv2d}
_WHAT = "factorized"


class _Options(TypedDict, total=False):
    rank: int | float | None
    energy: float | None
    budget: int | float | None
    modules: Iterable[str] | None
    types: type[nn.Module] | Iterable[type[nn.Module]] | None
    start: Start
    seed: int | Generator | None
    example: Example | None


@overload
def factorize(
    model: nn.Module, format: str = ..., *, with_report: Literal[False] = ..., **options: Unpack[_Options]
) -> nn.Module: ...
@overload
def factorize(
    model: nn.Module, format: str = ..., *, with_report: Literal[True], **options: Unpack[_Options]
) -> tuple[nn.Module, Report]: ...
def factorize(
    model: nn.Module,
    format: str = "ht",
    *,
    rank: int | float | None = None,
    energy: float | None = None,
    budget: int | float | None = None,
    modules: Iterable[str] | None = None,
    types: type[nn.Module] | Iterable[type[nn.Module]] | None = None,
    start: Start = "same",
    seed: int | Generator | None = None,
    example: Example | None = None,
    with_report: bool = False,
) -> nn.Module | tuple[nn.Module, Report]:
    """A copy of a model in which linear layers and 2-D convolutions have factorized weights.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    format : {"ht", "tt", "tucker", "cp", "matrix"}
        See `htf.nn.FactorizedLinear` and `htf.nn.FactorizedConv2d`.
    rank : int or float, optional
        Every rank at most, or the share of each plain layer's weights that is kept.
    energy : float, optional
        Share of each weight's squared norm that is kept.
    budget : float or int, optional
        Share or number of the parameters of the whole model that it has afterwards at most.  The layers get a common
        relative error, as small as possible; drawn anew, a common share.  Exactly one of `rank`, `energy` and `budget`
        is given.
    modules, types, seed, example, with_report
        See `overparameterize`; of types there are ``nn.Linear`` and ``nn.Conv2d``.
    start : {"same", "random"}
        Whether the layers' weights are decomposed, or factors drawn anew.

    Returns
    -------
    torch.nn.Module, or (torch.nn.Module, Report)
        As of `overparameterize`; the report has the relative errors of the weights.

    Raises
    ------
    TypeError
        For a scripted, compiled or quantized model.
    ValueError
        If nothing can be changed, names fit nothing, or the budget cannot be met; arguments that do not fit are named.

    Notes
    -----
    A layer that would not be smaller than it is, or cannot have the rank, is left alone; the report says so.

    A budget takes about ten decompositions of every layer.

    Examples
    --------
    >>> small = factorize(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), "matrix", rank=8)
    >>> [type(layer).__name__ for layer in small]
    ['FactorizedLinear', 'ReLU', 'Linear']
    """
    given = {"rank": rank, "energy": energy, "budget": budget}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        raise ValueError(f"{' and '.join(asked) or 'nothing'} given; expected exactly one of rank, energy and budget")
    check_start(start)
    if start == "random" and energy is not None:
        raise ValueError("energy is of trained weights; with start='random' give rank or budget")
    selection = select(model, modules, check_types(types, tuple(_LAYERS)), tuple(_LAYERS), _WHAT)
    if start == "same":
        selection.check_values()
    make = _decompose(format) if start == "same" else _draw(format, make_generator(seed))
    if budget is None:
        new = build_each(selection, _smaller(make(**{asked[0]: given[asked[0]]})), _WHAT)
    else:
        key = "energy" if start == "same" else "rank"
        new = _fit(model, selection, make, key, check_budget(budget, count_parameters(model)))
    before = Snapshot.of(model, selection.places, example)
    changed = exchange(model, new, fresh=start == "random")
    if not with_report:
        return changed
    found = selection.places if start == "same" else []
    errors = {id(place.module): relative_error(new[id(place.module)], place.module.weight) for place in found}
    report = before.report(changed, new, selection.left_alone, example, errors)
    return changed, report


def _decompose(format: str) -> Callable[..., Build]:
    def with_options(**options: Any) -> Build:
        return lambda layer: cast(DropInLayer, _LAYERS[type(layer)].from_plain(layer, format, **options))

    return with_options


def _draw(format: str, generator: Generator | None) -> Callable[..., Build]:
    def with_rank(rank: int | float) -> Build:
        return lambda layer: _drawn(layer, format, rank, generator)

    return with_rank


def _drawn(layer: Any, format: str, rank: int | float, generator: Generator | None) -> DropInLayer:
    options: dict[str, Any] = {"format": format, "rank": rank, "seed": generator}
    options |= {"device": layer.weight.device, "dtype": layer.weight.dtype}
    names = ["in_features", "out_features"]
    if isinstance(layer, nn.Conv2d):
        names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
        options["padding_mode"] = layer.padding_mode
    sizes = {name: getattr(layer, name) for name in names}
    return cast(DropInLayer, _LAYERS[type(layer)](**sizes, bias=layer.bias is not None, **options))


def _smaller(build: Build) -> Build:
    """The same, but for layers that would not be smaller than they are."""

    def build_smaller(layer: nn.Module) -> DropInLayer:
        new = build(layer)
        size, plain = size_of([new]), size_of([layer])
        if size >= plain:
            raise ValueError(f"{size:,} parameters in place of {plain:,} would be no fewer")
        return new

    return build_smaller


def _fit(
    model: nn.Module, selection: Selection, make: Callable[..., Build], key: str, limit: int
) -> dict[int, DropInLayer]:
    """The layers of least error, drawn ones of the largest share, with which the model is within the limit."""
    groups = selection.groups
    plain = {id(group[0].module): size_of([group[0].module]) for group in groups}
    rest = count_parameters(model) - sum(plain.values())

    def attempt(options: dict[str, float]) -> tuple[int, tuple[dict[int, DropInLayer], list[tuple[list[Place], str]]]]:
        new: dict[int, DropInLayer] = {}
        size, against = rest, []
        for group in groups:
            try:
                layers = build_group(group, _smaller(make(**options)))
            except ValueError as error:
                against.append((group, str(error)))
                size += plain[id(group[0].module)]
            else:
                new |= layers
                size += size_of(layers.values())
        return size, (new, against)

    def at(error: float) -> tuple[int, Any]:
        return attempt({key: 1 - error**2 if key == "energy" else 1 - error})

    new, against = fit_into(limit, at, lambda: attempt({"rank": 1}))
    for group, reason in against:
        selection.keep(group, reason)
    selection.check_some(_WHAT)
    return new
