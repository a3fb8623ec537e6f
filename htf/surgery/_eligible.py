"""Which layers can be changed: those whose weight is theirs alone and used as a linear layer or convolution does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from htf.nn.layers.drop_in import DropInLayer
from htf.surgery._opened import CONTAINERS, reason_against_opening
from htf.surgery._walk import Place, sealed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SUPPORTED = (nn.Linear, *CONVOLUTIONS)
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class LeftAlone(NamedTuple):
    """A layer that was not changed, and why."""

    name: str
    type: str
    reason: str


def check_types(types: object, supported: tuple[type[nn.Module], ...]) -> tuple[type[nn.Module], ...]:
    """`types` as a tuple of supported ones; all of these for None."""
    if types is None:
        return supported
    given = tuple(types) if isinstance(types, Iterable) and not isinstance(types, str) else (types,)
    for kind in given:
        if kind not in supported:
            names = ", ".join(each.__name__ for each in supported)
            raise TypeError(f"types has {getattr(kind, '__name__', kind)!r}; expected some of {names}")
    if not given:
        raise ValueError("types is empty; expected layer types, or None for all")
    return given


def check_values(layers: Iterable[Place], hint: str = "") -> None:
    """Refuse layers on the meta device, of whose weights there are only shapes."""
    for place in layers:
        if any(parameter.is_meta for parameter in place.module.parameters()):
            raise ValueError(
                f"model has no values for {place.name}, which is on the meta device; load them first{hint}"
            )


def has_weights(module: nn.Module) -> bool:
    """Whether a module is one that readers of a report look for: a layer, or a module with matrices of its own."""
    if isinstance(module, DropInLayer) or is_parametrized(module) or sealed(module) is not None:
        return True
    if isinstance(module, ParametrizationList):
        return False
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    return any(nn.parameter.is_lazy(parameter) or parameter.ndim > 1 for parameter in own)


def reason_against(
    module: nn.Module, types: tuple[type[nn.Module], ...], supported: tuple[type[nn.Module], ...]
) -> str | None:
    """Why a module is left alone whatever the others are, or None where it can be changed."""
    kind = type(module)
    if kind in CONTAINERS and kind in supported:
        asked = reason_against_opening(module) or "its matrices are shared, or an attribute holds it"
        return asked if kind in types else "its type was not asked for"
    if kind in types:
        return _reason_against_state(module)
    if is_parametrized(module):
        return "it is parametrized (torch.nn.utils.parametrize); remove that first"
    if isinstance(module, DropInLayer):
        return "it is over-parameterized or factorized already"
    if kind in supported:
        return "its type was not asked for"
    if any(nn.parameter.is_lazy(p) for p in module._parameters.values() if p is not None):
        return "it has no weights yet; call the model once first"
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return "MultiheadAttention reads its weight"
    if isinstance(module, TRANSPOSED):
        return "transposed convolutions are not supported"
    if isinstance(module, SUPPORTED):
        known = [each for each in SUPPORTED if isinstance(module, each)]
        if kind in known:
            return f"not supported; expected {', '.join(each.__name__ for each in supported)}"
        return f"a subclass of {known[0].__name__} may use its weight in another way"
    return "not a linear layer or convolution" if module._parameters else "it has no weights"


def held_outside(found: list[Place]) -> dict[int, str]:
    """Reasons against modules that attributes hold beside torch's registration, where nothing can be exchanged."""
    reasons = {}
    for place in found:
        for name, value in vars(place.module).items():
            if name == "_modules":
                continue
            inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            for held in (value, *inside):
                if isinstance(held, nn.Module):
                    reasons[id(held)] = f"the attribute {name} of {place.name} holds it beside torch's registration"
    return reasons


def shared_outside(found: list[Place], eligible: list[Place]) -> dict[int, str]:
    """Reasons against modules whose weight is also a parameter of one that is not changed."""
    changed = {id(place.module) for place in eligible}
    elsewhere = {
        id(parameter): f"its weight is also that of {place.name} ({type(place.module).__name__})"
        for place in found
        if id(place.module) not in changed
        for parameter in place.module._parameters.values()
    }
    weights = {id(place.module): id(place.module._parameters["weight"]) for place in eligible}
    return {module: elsewhere[weight] for module, weight in weights.items() if weight in elsewhere}


def _reason_against_state(module: nn.Module) -> str | None:
    """Reason why a layer of the right type is left alone, from what was done to it."""
    weight = module._parameters.get("weight")
    if weight is None or not set(module._parameters) <= {"weight", "bias"}:
        return "its weight is made from other parameters (weight_norm, spectral_norm, pruning); remove that first"
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    if not weight.is_floating_point() or weight.numel() == 0:
        return f"its weight has dtype {weight.dtype} and shape {tuple(weight.shape)}"
    if any(_hooked(parameter) for parameter in module._parameters.values() if parameter is not None):
        return "hooks are registered on its parameters"
    if any(getattr(module, name) for name in _STATE_HOOKS):
        return "hooks are registered on its state_dict"
    if module._buffers or module._modules:
        return "it has buffers or modules of its own"
    if "forward" in vars(module):
        return "its forward was replaced"
    return None


def _hooked(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks) or bool(getattr(parameter, "_post_accumulate_grad_hooks", None))
