"""Weights that layers compute from their parameters: to be read, and never written to without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

# Python's augmented assignments, and what assigns entries and attributes (data, grad, requires_grad).
_WRITING = {"__setitem__", "__set__", "__delete__"} | {
    f"__i{name}__"
    for name in "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor div".split()  # noqa: SIM905
}


class _Comparable(type(Tensor)):  # type: ignore[misc]
    """Counts parameters as instances: `torch.testing` compares only what has related types."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, nn.Parameter) or super().__instancecheck__(instance)


class ComputedWeight(Tensor, metaclass=_Comparable):
    """A tensor that was computed, with the gradients of one, which refuses to be changed in place.

    What shares its memory, as views and ``data`` do, refuses too; results of all other operations are plain tensors.
    It is `Tensor` itself while torch compiles or exports.
    """

    _refusal: str

    @classmethod
    def of(cls, weight: Tensor, refusal: str) -> Self:
        """The tensor, and what there is to say where it would be written to."""
        guarded = weight.as_subclass(cls)
        guarded._refusal = refusal
        return guarded

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for written in _written(func, args, kwargs):
            if type(written) is ComputedWeight:
                raise RuntimeError(f"{getattr(func, '__name__', func)}: {written._refusal}")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        first = next((each for each in args if type(each) is ComputedWeight), None)
        if first is None or not isinstance(result, (Tensor, tuple, list)):
            return result
        if isinstance(result, Tensor):
            return _guarded(result, first)
        # A named tuple, such as what max returns, is made of new tensors.
        return type(result)(_guarded(each, first) for each in result) if type(result) in (tuple, list) else result

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Files hold plain tensors.
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def refusal(owner: str, what: str = "weight") -> str:
    """What there is instead of writing to the weight, or other tensor, of a layer of the type `owner`."""
    return (
        f"the {what} of {owner} is computed from its factors at every access, so that changing it would change nothing;"
        " call layer.set_weight(weight) to give the layer another one, change layer.factors, or make a layer of a plain"
        f" one by {owner}.from_plain; to compute with a copy, clone it"
    )


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """What a function writes to: its first argument if it is one in place, and what it is given as `out`."""
    name = getattr(func, "__name__", "")
    in_place = name in _WRITING or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") is True
    first = [*args, *kwargs.values()][:1] if in_place else []
    given = [*first, kwargs.get("out")]
    return [part for each in given for part in (each if isinstance(each, (tuple, list)) else [each])]


def _guarded(result: Any, first: ComputedWeight) -> Any:
    if not isinstance(result, Tensor):
        return result
    if type(result) is ComputedWeight:
        result = result.as_subclass(Tensor)
    return ComputedWeight.of(result, first._refusal) if _share_memory(result, first) else result


def _share_memory(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or one.device != other.device:
        return False
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # tensors of torch's transforms have no memory of their own
        return False
