"""Checks of the arguments of over-parameterized layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from htf._checks import positive
from htf.nn.layers.overparam._composition import ConvChain


def channels_of_chain(
    ends: tuple[int, int], depth: int, width: int | Sequence[int] | None, free: Sequence[int], groups: int
) -> tuple[int, ...]:
    """Channels of all states; `free` are the hidden widths that leave the weight free."""
    if width is None:
        hidden = tuple(free)
    elif isinstance(width, Iterable):
        hidden = tuple(positive(f"width[{k}]", value) for k, value in enumerate(width))
        if len(hidden) != depth - 1:
            raise ValueError(f"width has {len(hidden)} entries; depth {depth} has {depth - 1} hidden layers")
    else:
        hidden = (positive("width", width),) * (depth - 1)
    for k, channels in enumerate(hidden):
        if channels % groups:
            name = f"width[{k}]" if isinstance(width, Iterable) else "width"
            raise ValueError(f"{name} is {channels}; expected a multiple of groups = {groups}")
    return (ends[0], *hidden, ends[1])


def check_intervals(residual: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Intervals of residual connections, each once; -1 stands for the depth."""
    given = list(residual) if isinstance(residual, Iterable) else [residual]
    found: dict[int, None] = {}
    for k, interval in enumerate(given):
        name = f"residual[{k}]" if isinstance(residual, Iterable) else "residual"
        whole = interval == -1 and not isinstance(interval, bool)
        if not whole and positive(name, interval) > depth:
            raise ValueError(f"{name} is {interval}; expected from 1 to the depth, {depth}, or -1")
        found[depth if whole else int(interval)] = None
    return tuple(found)


def connected(layout: ConvChain, residual: tuple[int, ...]) -> ConvChain:
    """The chain with residual connections at intervals, which must be possible."""
    connections = [(m - n, m) for n in residual for m in range(n, layout.depth + 1, n)]
    for start, stop in connections:
        before, after = layout.channels[start], layout.channels[stop]
        if before != after:
            raise ValueError(
                f"residual {stop - start} connects {before} channels (state {start}) with {after} (state {stop}); "
                "expected equal numbers"
            )
        kernel = layout.kernel_of(start, stop)
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(
                f"residual {stop - start} spans a kernel of {kernel}, which has no centre; expected odd sizes"
            )
    return ConvChain(layout.channels, layout.kernels, layout.groups, tuple(connections))


def check_plain(layer: object, expected: type[nn.Module], start: str) -> None:
    """A layer of torch that can be replaced, and a way to start that there is."""
    name = type(layer).__name__
    if not isinstance(layer, expected) or type(layer).forward is not expected.forward:
        raise TypeError(f"layer is a {name}; expected a torch.nn.{expected.__name__}")
    weight = layer.weight
    if not isinstance(weight, nn.Parameter) or nn.parameter.is_lazy(weight):
        raise TypeError(
            f"layer is a {name} whose weight is a {type(weight).__name__}; expected a Parameter with values"
        )
    if not weight.is_floating_point():
        raise TypeError(f"layer is a {name} of {weight.dtype}; expected real floating point numbers")
    if start not in {"same", "random"}:
        raise ValueError(f'start is {start!r}; expected "same" or "random"')
