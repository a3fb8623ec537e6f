"""Reports of surgery: layers changed and left alone, parameters and operations before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from htf._modes import evaluated
from htf._repr import brief
from htf.nn.layers.drop_in import DropInLayer
from htf.surgery._eligible import CONVOLUTIONS, TRANSPOSED, LeftAlone
from htf.surgery._walk import Place

Example = Tensor | tuple[Tensor, ...]
Operations = dict[str, int] | None


@dataclass(frozen=True)
class Change:
    """A layer that was changed.

    Attributes
    ----------
    name : str
    before, after : str
        Types with sizes.
    parameters_before, parameters_after : int
        Those shared with a layer further up count there.
    operations_before, operations_after : int or None
        Multiplications for the example; None without one.
    error : float or None
        Of the weight, relative to its Frobenius norm, where it was approximated.

    See Also
    --------
    htf.surgery.Report : all changes of a model.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> _, report = htf.factorize(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), "matrix", rank=8, with_report=True)
    >>> change = report.rows[0]
    >>> change.name, change.before, change.parameters_before, change.parameters_after
    ('0', 'Linear(64, 64)', 4160, 1088)
    """

    name: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int
    operations_before: int | None = None
    operations_after: int | None = None
    error: float | None = None


@dataclass(frozen=True)
class Report:
    """Report of what surgery did to a model; ``print`` shows it as a table.

    Attributes
    ----------
    rows : tuple of Change
        Layers that were changed, in the order of the model.
    left_alone : tuple of (name, type, reason)
        Layers with weights that were not.
    parameters_before, parameters_after : int
        Of the whole model; those that modules share count once.
    operations_before, operations_after : int or None
        Multiplications of matrix products and convolutions in one evaluation of the whole model on the example, in
        evaluation mode, those that make weights included; None without an example.  What recurrent layers (LSTM) do in
        one step of torch's own does not count.
    in_use_before, in_use_after : int or None
        Of `truncate`: parameters as its `budget` counts them, those of over-parameterized layers as `collapse` makes
        them; None from other functions.

    See Also
    --------
    htf.factorize, htf.overparameterize, htf.truncate, htf.collapse : what gives one.
    htf.surgery.Change : a row of it.

    Examples
    --------
    >>> import htf
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    >>> small, report = htf.overparameterize(model, depth=3, with_report=True)
    >>> print(report)
    layer        before          after                                                parameters
    0            Linear(64, 64)  OverparamLinear(depth 3, widths 64-64)  4,160 → 12,352 (296.9%)
    2            Linear(64, 2)   OverparamLinear(depth 3, widths 2-2)         130 → 138 (106.2%)
    whole model                                                          4,290 → 12,490 (291.1%)
    """

    rows: tuple[Change, ...]
    left_alone: tuple[LeftAlone, ...]
    parameters_before: int
    parameters_after: int
    operations_before: int | None = None
    operations_after: int | None = None
    in_use_before: int | None = None
    in_use_after: int | None = None

    __repr__ = brief

    def __str__(self) -> str:
        errors = any(row.error is not None for row in self.rows)
        head = ["layer", "before", "after", "parameters", "operations", "error"]
        cells = [head, *([*_cells(row), "" if row.error is None else f"{row.error:.2e}"] for row in self.rows)]
        total = [_step(self.parameters_before, self.parameters_after)]
        total.append(_step(self.operations_before, self.operations_after))
        cells.append(["whole model", "", "", *total, ""])
        in_use = (self.in_use_before, self.in_use_after)
        if None not in in_use and in_use != (self.parameters_before, self.parameters_after):
            cells.append(["in use", "", "", _step(*in_use), "", ""])
        kept = [0, 1, 2, 3, *([4] if self.operations_before is not None else []), *([5] if errors else [])]
        lines = _align([[line[k] for k in kept] for line in cells], right={3, 4, 5} & set(kept))
        if self.left_alone:
            lines += ["left alone:", *(f"  {line}" for line in _align([list(each) for each in self.left_alone]))]
        return "\n".join(lines)


def describe(module: nn.Module) -> str:
    """Type and sizes of a layer in a few words."""
    kind = type(module).__name__
    if isinstance(module, nn.Sequential):
        return ", ".join(describe(part) for part in module)
    if isinstance(module, DropInLayer):
        return f"{kind}({_inside(module)})"
    if isinstance(module, nn.Linear):
        return f"{kind}({module.in_features}, {module.out_features})"
    if isinstance(module, nn.Embedding):
        return f"{kind}({module.num_embeddings}, {module.embedding_dim})"
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        size = "×".join(map(str, module.kernel_size))
        groups = f", groups {module.groups}" if module.groups > 1 else ""
        return f"{kind}({module.in_channels}, {module.out_channels}, {size}{groups})"
    return kind


def count_parameters(model: nn.Module) -> int:
    """Numbers in all parameters, shared ones once, those not yet initialized not at all."""
    return sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p))


def count_operations(model: nn.Module, example: Example | None) -> Operations:
    """Multiplications per module name for an example, "" the whole model; None without an example."""
    if example is None:
        return None
    inputs = (example,) if isinstance(example, Tensor) else example
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(f"example is a {type(example).__name__}; expected a tensor or a tuple of tensors")
    counter = FlopCounterMode(display=False)
    # A transformer layer in one step of torch's own, as in evaluation mode, would count nothing.
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with evaluated(model), torch.no_grad(), counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    # Two for each multiplication, which comes with an addition.
    counts = {path: sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    root = type(model).__name__
    found = {path.removeprefix(f"{root}."): count for path, count in counts.items() if path not in ("Global", root)}
    return {**found, "": counts.get("Global", 0)}


@dataclass(frozen=True)
class Snapshot:
    """State of a model before it is changed, for a report."""

    places: tuple[Place, ...]
    described: tuple[str, ...]
    sizes: tuple[int, ...]
    parameters: int
    operations: Operations

    @classmethod
    def of(cls, model: nn.Module, changing: Iterable[Place], example: Example | None) -> Snapshot:
        """Note the state of a model in which the modules of these places are going to be changed."""
        found = tuple(changing)
        sizes = tuple(_new_sizes(place.module for place in found))
        described = tuple(describe(place.module) for place in found)
        return cls(found, described, sizes, count_parameters(model), count_operations(model, example))

    def report(
        self,
        model: nn.Module,
        new: Mapping[int, nn.Module],
        left_alone: Iterable[LeftAlone],
        example: Example | None,
        errors: Mapping[int, float],
    ) -> Report:
        """On what the model became, given the new module and the error of each changed one, by its ``id``."""
        operations = count_operations(model, example)
        modules = [new[id(place.module)] for place in self.places]
        rows = (
            Change(
                place.name,
                before,
                describe(module),
                size,
                new_size,
                _of_place(self.operations, place),
                _of_place(operations, place),
                errors.get(id(place.module)),
            )
            for place, before, size, module, new_size in zip(
                self.places, self.described, self.sizes, modules, _new_sizes(modules), strict=True
            )
        )
        totals = (self.parameters, count_parameters(model), _total(self.operations), _total(operations))
        return Report(tuple(rows), tuple(left_alone), *totals)


def _new_sizes(modules: Iterable[nn.Module]) -> Iterator[int]:
    """Numbers in the parameters of each module that those before do not have."""
    seen: set[int] = set()
    for module in modules:
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen |= set(new)
        yield sum(new.values())


def _of_place(operations: Operations, place: Place) -> int | None:
    # A module that is called under several names is counted under one of them.
    return None if operations is None else max((operations.get(name, 0) for name in place.names), default=0)


def _total(operations: Operations) -> int | None:
    return None if operations is None else operations[""]


def _inside(layer: DropInLayer) -> str:
    """Settings that distinguish a drop-in layer from another of its type."""
    known = (("depth", "depth {}"), ("widths", "widths {}"), ("format", "{}"), ("rank", "rank {}"))
    return ", ".join(_said(text, getattr(layer, name)) for name, text in known if hasattr(layer, name))


def _said(text: str, value: object) -> str:
    numbers = isinstance(value, (tuple, list)) and len(value)
    return text.format("-".join(map(str, value)) if numbers else value)  # type: ignore[call-overload]


def _cells(row: Change) -> list[str]:
    parameters = _step(row.parameters_before, row.parameters_after)
    return [row.name, row.before, row.after, parameters, _step(row.operations_before, row.operations_after)]


def _step(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    share = f" ({after / before:.1%})" if before else ""
    return f"{before:,} → {after:,}{share}"


def _align(lines: list[list[str]], right: Iterable[int] = ()) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
