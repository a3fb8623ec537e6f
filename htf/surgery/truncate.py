"""Lowering the ranks of over-parameterized and factorized layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from htf._checks import positive
from htf.nn.layers.drop_in import DropInLayer
from htf.surgery._budget import check_budget, fit_into
from htf.surgery._eligible import SUPPORTED, LeftAlone, check_values, has_weights, reason_against
from htf.surgery._transfer import become, factors, relative_error, share
from htf.surgery._walk import Place, as_patterns, check_model, choose, places
from htf.surgery.collapse import read_by_parents, size_in_use
from htf.surgery.report import Example, Report, Snapshot, count_parameters

_Layers = dict[int, DropInLayer]


@torch.no_grad()
def truncate(
    model: nn.Module,
    *,
    tol: float | None = None,
    rank: int | float | None = None,
    budget: int | float | None = None,
    modules: Iterable[str] | None = None,
    example: Example | None = None,
) -> Report:
    """Lower the ranks of over-parameterized and factorized layers, in place.

    Parameters
    ----------
    model : torch.nn.Module
        Its layers stay the same objects, so this works for a single layer too; factors are new parameters, of which an
        optimizer has to be told by making it anew.
    tol : float, optional
        Largest error of each weight relative to its Frobenius norm.
    rank : int or float, optional
        Every rank at most, or the share of each plain layer's weights that is kept.
    budget : float or int, optional
        Share or number of parameters that the whole model has afterwards at most, reached with one relative error for
        all layers, as small as possible.  Before and after, parameters are those of the model in use: of what
        `collapse` makes of over-parameterized layers, and of factorized layers as they are, or as it makes them where
        that is smaller.  Exactly one of `tol`, `rank` and `budget` is given.
    modules : iterable of str, optional
        Names or patterns, as in `overparameterize`.
    example : Tensor or tuple of Tensor, optional
        Inputs for which operations are counted in the report.

    Returns
    -------
    Report
        What was done; ``print`` shows a table.

    Raises
    ------
    TypeError
        For a scripted, compiled or quantized model.
    ValueError
        If there is no such layer, names fit none, or the budget cannot be met, in which case nothing is changed.

    See Also
    --------
    htf.factorize, htf.overparameterize : make layers that can be truncated.
    htf.collapse : plain layers again.
    htf.surgery.Report : what it returns.

    Notes
    -----
    Layers that share their factors share the truncated ones.  Plain layers are left alone: see `factorize`.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> model = htf.factorize(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), "matrix", rank=16)
    >>> report = htf.truncate(model, rank=4)
    >>> report.parameters_before, report.parameters_after
    (2112, 576)
    """
    check_model(model)
    given = {"tol": tol, "rank": rank, "budget": budget}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        raise ValueError(f"{' and '.join(asked) or 'nothing'} given; expected exactly one of tol, rank and budget")
    _check_measure(tol, rank)
    found = places(model)
    groups, reasons = _select(found, modules)
    check_values(place for group in groups for place in group)
    in_use = _InUse(model, found)
    before_use = in_use.total()
    if budget is None:
        new = _cut_each(groups, {asked[0]: given[asked[0]]}, reasons)
    else:
        new = _fit(in_use, groups, check_budget(budget, before_use), reasons)
    after_use = in_use.total(new)
    changing = [place for place in found if id(place.module) in new]
    before = Snapshot.of(model, changing, example)
    errors = {id(place.module): relative_error(new[id(place.module)], place.module.weight) for place in changing}
    for place in changing:
        assert isinstance(place.module, DropInLayer)
        become(place.module, new[id(place.module)])
    left = [LeftAlone(p.name, type(p.module).__name__, r) for p in found if (r := reasons.get(id(p.module)))]
    report = before.report(model, {id(p.module): p.module for p in changing}, left, example, errors)
    return replace(report, in_use_before=before_use, in_use_after=after_use)


def _check_measure(tol: float | None, rank: int | float | None) -> None:
    if tol is not None and not isinstance(tol, (float, int)):
        raise TypeError(f"tol is {tol!r}; expected a number from 0 to below 1")
    if tol is not None and not 0 <= tol < 1:
        raise ValueError(f"tol is {tol}; expected from 0 to below 1")
    if isinstance(rank, float) and not 0 < rank <= 1:
        raise ValueError(f"rank is {rank}; expected a share above 0 and up to 1, or an integer")
    if rank is not None and not isinstance(rank, float):
        positive("rank", rank)


def _select(found: list[Place], modules: Iterable[str] | None) -> tuple[list[list[Place]], dict[int, str]]:
    """Groups of layers with the same factors, and reasons against all other layers with weights."""
    layers = [place for place in found if isinstance(place.module, DropInLayer)]
    if not layers:
        raise ValueError("model has no over-parameterized or factorized layers; expected one of which ranks can be cut")
    patterns = as_patterns(modules)
    chosen = choose(found, patterns)
    for pattern in patterns or ():
        if not any(place.matches(pattern) for place in layers):
            raise ValueError(f"modules has {pattern!r}, where no layer is over-parameterized or factorized")
    reasons = {id(p.module): _reason(p, chosen) for p in found if has_weights(p.module)}
    groups: dict[tuple[int, ...], list[Place]] = {}
    for place in chosen:
        if isinstance(place.module, DropInLayer):
            del reasons[id(place.module)]
            groups.setdefault(tuple(map(id, factors(place.module).values())), []).append(place)
    for key in [key for key in groups if _entangled(key, groups, found)]:
        reasons |= dict.fromkeys((id(place.module) for place in groups.pop(key)), "another module has its factors too")
    return list(groups.values()), reasons


def _entangled(key: tuple[int, ...], groups: Iterable[tuple[int, ...]], found: list[Place]) -> bool:
    """Whether some of these parameters are in other modules, or in layers that do not share all of them."""
    elsewhere = {number for other in groups if other != key for number in other}
    elsewhere |= {
        id(p) for place in found if not isinstance(place.module, DropInLayer) for p in place.module.parameters(False)
    }
    return not elsewhere.isdisjoint(key)


def _reason(place: Place, chosen: list[Place]) -> str:
    if not any(place is each for each in chosen):
        return "not selected"
    return reason_against(place.module, SUPPORTED, SUPPORTED) or "plain: factorize it first"


def _cut_each(groups: list[list[Place]], options: dict[str, Any], reasons: dict[int, str]) -> _Layers:
    """New layers where they are smaller, by the old one's ``id``; else there is a reason."""
    new: _Layers = {}
    for group in groups:
        try:
            new |= _cut(group, options)
        except ValueError as error:
            reasons |= dict.fromkeys((id(place.module) for place in group), str(error))
    return new


def _cut(group: list[Place], options: dict[str, Any]) -> _Layers:
    layers = [place.module for place in group]
    new = [layer.truncated(**options) for layer in layers if isinstance(layer, DropInLayer)]
    if count_parameters(new[0]) >= count_parameters(layers[0]):
        raise ValueError("nothing to cut")
    for other in new[1:]:
        share(other, new[0])
    return {id(layer): other for layer, other in zip(layers, new, strict=True)}


class _InUse:
    """Parameters of a model in use, see `size_in_use`, with its layers or with others in their places."""

    def __init__(self, model: nn.Module, found: list[Place]) -> None:
        self._read = read_by_parents(found)
        # Layers that share their factors count once.
        firsts: dict[tuple[int, ...], DropInLayer] = {}
        for place in found:
            if isinstance(place.module, DropInLayer):
                firsts.setdefault(tuple(map(id, factors(place.module).values())), place.module)
        self._sizes = {id(layer): size_in_use(layer, id(layer) in self._read) for layer in firsts.values()}
        self._plain = count_parameters(model) - sum(count_parameters(layer) for layer in firsts.values())

    def of(self, layer: DropInLayer, old: int) -> int:
        """A new layer's, given the ``id`` of the one whose place it takes."""
        return size_in_use(layer, old in self._read)

    def total(self, new: _Layers | None = None) -> int:
        """The whole model's."""
        new = new or {}
        sizes = (self.of(new[key], key) if key in new else size for key, size in self._sizes.items())
        return self._plain + sum(sizes)

    def saves(self, group: list[Place], new: _Layers) -> bool:
        """Whether the new layer of a group has fewer than the old one."""
        key = next(id(place.module) for place in group if id(place.module) in self._sizes)
        return self.of(new[key], key) < self._sizes[key]


def _fit(in_use: _InUse, groups: list[list[Place]], limit: int, reasons: dict[int, str]) -> _Layers:
    """New layers of least error with which the model is within the limit."""
    if in_use.total() <= limit:
        return _cut_each(groups, {"tol": 0.0}, reasons)

    def attempt(options: dict[str, Any]) -> tuple[int, tuple[_Layers, dict[int, str]]]:
        against: dict[int, str] = {}
        new = _cut_each(groups, options, against)
        for group in groups:
            # An error that saves nothing is none to make.
            if id(group[0].module) in new and not in_use.saves(group, new):
                for place in group:
                    del new[id(place.module)]
                    against[id(place.module)] = "nothing to cut"
        return in_use.total(new), (new, against)

    new, against = fit_into(limit, lambda error: attempt({"tol": error}), lambda: attempt({"rank": 1}))
    reasons |= against
    return new
