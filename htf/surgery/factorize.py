"""Layers of a model exchanged for factorized ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from torch import Generator, nn

from htf._checks import positive
from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.factorized import (
    FactorizedConv1d,
    FactorizedConv2d,
    FactorizedConv3d,
    FactorizedConvTranspose1d,
    FactorizedConvTranspose2d,
    FactorizedConvTranspose3d,
    FactorizedEmbedding,
    FactorizedLinear,
)
from htf.nn.layers.factorized.tensorized import Tensorized
from htf.surgery._budget import check_budget, fit_into
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
from htf.surgery._eligible import check_types, held_outside
from htf.surgery._opened import CONTAINERS, closed, layers_within, opened, reason_against_opening
from htf.surgery._transfer import relative_error
from htf.surgery._walk import Place, check_model, places
from htf.surgery.report import Example, Report, Snapshot, count_parameters

_LAYERS: dict[type[nn.Module], Any] = {
    nn.Linear: FactorizedLinear,
    nn.Conv1d: FactorizedConv1d,
    nn.Conv2d: FactorizedConv2d,
    nn.Conv3d: FactorizedConv3d,
    nn.ConvTranspose1d: FactorizedConvTranspose1d,
    nn.ConvTranspose2d: FactorizedConvTranspose2d,
    nn.ConvTranspose3d: FactorizedConvTranspose3d,
    nn.Embedding: FactorizedEmbedding,
}
_SUPPORTED = (*_LAYERS, *CONTAINERS)
_WHAT = "factorized"


class _Options(TypedDict, total=False):
    rank: int | float | None
    energy: float | None
    budget: int | float | None
    shape: int | None
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
    shape: int | None = None,
    modules: Iterable[str] | None = None,
    types: type[nn.Module] | Iterable[type[nn.Module]] | None = None,
    start: Start = "same",
    seed: int | Generator | None = None,
    example: Example | None = None,
    with_report: bool = False,
) -> nn.Module | tuple[nn.Module, Report]:
    """A copy of a model in which linear layers, convolutions and embeddings have factorized weights.

    So have the matrices of ``nn.MultiheadAttention``, ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``: where one is factorized,
    the module becomes one of a subclass that has each matrix in a layer of the matrix's name.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    format : {"ht", "tt", "tucker", "cp", "matrix"}
        See `htf.nn.FactorizedLinear`, `htf.nn.FactorizedConv2d` and `htf.nn.FactorizedEmbedding`.
    rank : int or float, optional
        Every rank at most, or the share of each plain layer's weights that is kept.
    energy : float, optional
        Share of each weight's squared norm that is kept.
    budget : float or int, optional
        Share or number of the parameters of the whole model that it has afterwards at most.  The layers get a common
        relative error, as small as possible; drawn anew, a common share.  Exactly one of `rank`, `energy` and `budget`
        is given.
    shape : int, optional
        Into how many modes each side of the matrices of linear layers and embeddings is split.  See
        `htf.nn.FactorizedLinear` for the default, and `htf.nn.FactorizedEmbedding`.
    modules, types, seed, example, with_report
        See `overparameterize`; of types there are ``nn.Linear``, convolutions and transposed ones of one to three
        dimensions, ``nn.Embedding``, ``nn.MultiheadAttention``, ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``.
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

    See Also
    --------
    htf.truncate : lowers ranks further, in place.
    htf.collapse : plain layers again.
    htf.ranks.compressibility : how small layers may be.
    htf.nn.FactorizedLinear, htf.nn.FactorizedConv2d : its layers.

    Notes
    -----
    A layer that would not be smaller than it is, or cannot have the rank, is left alone; the report says so.

    A budget takes about ten decompositions of every layer.

    Matrices of attention and recurrent layers, and kernels other than those of 2-D convolutions of one group, are
    written out from their factors at every call: there are fewer parameters, not fewer operations.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> small = htf.factorize(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), "matrix", rank=8)
    >>> [type(layer).__name__ for layer in small]
    ['FactorizedLinear', 'ReLU', 'Linear']
    """
    given = {"rank": rank, "energy": energy, "budget": budget}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        raise ValueError(f"{' and '.join(asked) or 'nothing'} given; expected exactly one of rank, energy and budget")
    check_start(start)
    if shape is not None and format == "matrix":
        raise ValueError(f"shape is {shape}; expected None for format 'matrix', which has two modes")
    options = {} if shape is None else {"shape": positive("shape", shape)}
    if start == "random" and energy is not None:
        raise ValueError("energy is of trained weights; with start='random' give rank or budget")
    kinds = check_types(types, _SUPPORTED)
    model = _with_matrices(model, kinds)
    only_within = nn.Linear not in kinds and any(kind in CONTAINERS for kind in kinds)
    selection = select(model, modules, (*kinds, nn.Linear) if only_within else kinds, _SUPPORTED, _WHAT)
    if only_within:
        within = layers_within(selection.found)
        for group in [each for each in selection.groups if any(_is_other(place, within) for place in each)]:
            selection.keep(group, "its type was not asked for")
        selection.check_some(_WHAT)
    if start == "same":
        selection.check_values()
    make = _decompose(format, options) if start == "same" else _draw(format, options, make_generator(seed))
    if budget is None:
        new = build_each(selection, _smaller(make(**{asked[0]: given[asked[0]]})), _WHAT)
    else:
        key = "energy" if start == "same" else "rank"
        new = _fit(model, selection, make, key, check_budget(budget, count_parameters(model)))
    before = Snapshot.of(model, selection.places, example)
    changed = closed(exchange(model, new, fresh=start == "random"))
    if not with_report:
        return changed
    found = selection.places if start == "same" else []
    errors = {id(place.module): relative_error(new[id(place.module)], place.module.weight) for place in found}
    report = before.report(changed, new, selection.left_alone, example, errors)
    return changed, report


def _with_matrices(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """The model, or a copy in which attention and recurrent layers have their matrices in layers."""
    check_model(model)
    found = places(model)
    held = held_outside(found)
    chosen = [place for place in found if type(place.module) in CONTAINERS and type(place.module) in kinds]
    chosen = [p for p in chosen if id(p.module) not in held and reason_against_opening(p.module, found) is None]
    return opened(model, chosen) if chosen else model


def _is_other(place: Place, within: dict[int, type[nn.Module]]) -> bool:
    return type(place.module) is nn.Linear and id(place.module) not in within


def _decompose(format: str, given: dict[str, Any]) -> Callable[..., Build]:
    def with_options(**options: Any) -> Build:
        def decomposed(layer: nn.Module) -> DropInLayer:
            kind = _LAYERS[type(layer)]
            return cast(DropInLayer, kind.from_plain(layer, format, **options, **_fitting(kind, given)))

        return decomposed

    return with_options


def _draw(format: str, given: dict[str, Any], generator: Generator | None) -> Callable[..., Build]:
    def with_rank(rank: int | float) -> Build:
        def drawn(layer: Any) -> DropInLayer:
            kind, like = _LAYERS[type(layer)], {"device": layer.weight.device, "dtype": layer.weight.dtype}
            options = {"format": format, "rank": rank, "seed": generator, **like, **_fitting(kind, given)}
            return cast(DropInLayer, kind(**kind.arguments_of(layer), **options))

        return drawn

    return with_rank


def _fitting(kind: type[nn.Module], given: dict[str, Any]) -> dict[str, Any]:
    """Options that a kind of layer has: kernels have the modes that they have."""
    return given if issubclass(kind, Tensorized) else {}


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
