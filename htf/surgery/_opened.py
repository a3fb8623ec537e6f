"""Attention and recurrent layers with each of their matrices in a linear layer, where it can be exchanged.

torch's own keep their matrices as parameters of one module, which hands them to its kernels.  The classes here are
subclasses that keep them in layers by name and hand the layers' weights to the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from htf.nn.layers.drop_in import DropInLayer
from htf.surgery._walk import Place, copy_with

# The matrices that attention layers have, one for all inputs or one each, as layers.
_PROJECTIONS = {
    "in_proj": "in_proj_weight",
    "q_proj": "q_proj_weight",
    "k_proj": "k_proj_weight",
    "v_proj": "v_proj_weight",
}


class _Opened(nn.Module):
    """Writes out each matrix once a call, however often torch's own code reads it."""

    def _read(self, name: str) -> Tensor | None:
        found: dict[str, Tensor] | None = vars(self).get("_written")
        layer = self._modules.get(name)
        if layer is None:
            return self._parameters.get(name)
        if found is None or name not in found:
            weight: Any = layer._computed_weight() if isinstance(layer, DropInLayer) else layer.weight
            if found is None:
                return weight
            found[name] = weight
        return found[name]

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As of torch's."""
        vars(self)["_written"] = {}
        try:
            return super().forward(*arguments, **named)
        finally:
            del vars(self)["_written"]


def _projection(name: str) -> Any:
    return property(lambda self: self._read(name), doc=f"The matrix of the layer {name}; None where there is none.")


class OpenedAttention(_Opened, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with its matrices in layers: `in_proj` or one each for q, k and v, and `out_proj`."""

    in_proj_weight = _projection("in_proj")
    q_proj_weight = _projection("q_proj")
    k_proj_weight = _projection("k_proj")
    v_proj_weight = _projection("v_proj")


class _OpenedRecurrent(_Opened, nn.RNNBase):
    """Its matrices are in layers that are named as they are in torch: `weight_ih_l0`, `weight_hh_l0`, ..."""

    @property
    def _flat_weights(self) -> list[Any]:
        return [self._read(name) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: Any) -> None:
        """Read from the layers at every use, so there is nothing to keep."""

    def _init_flat_weights(self) -> None:
        """Likewise."""

    def _update_flat_weights(self) -> None:
        """Likewise."""

    def flatten_parameters(self) -> None:
        """Weights that are computed have no memory to be put in one piece."""

    @property
    def all_weights(self) -> list[list[Any]]:
        """Per layer and direction."""
        return [[self._read(name) for name in names] for names in self._all_weights]


class OpenedLSTM(_OpenedRecurrent, nn.LSTM):
    """``nn.LSTM`` with its matrices in layers."""


class OpenedGRU(_OpenedRecurrent, nn.GRU):
    """``nn.GRU`` with its matrices in layers."""


class OpenedRNN(_OpenedRecurrent, nn.RNN):
    """``nn.RNN`` with its matrices in layers."""


_OPENED: dict[type[nn.Module], type[nn.Module]] = {
    nn.MultiheadAttention: OpenedAttention,
    nn.LSTM: OpenedLSTM,
    nn.GRU: OpenedGRU,
    nn.RNN: OpenedRNN,
}
CONTAINERS = tuple(_OPENED)


def reason_against_opening(module: nn.Module, found: Iterable[Place] = ()) -> str | None:
    """Why a module's matrices stay where they are, or None."""
    own = [p for p in module._parameters.values() if p is not None]
    names = getattr(module, "_flat_weights_names", ())
    if any(name not in module._parameters for name in names):
        return "its matrices are made from other parameters (weight_norm, pruning); remove that first"
    if any(type(p) is not nn.Parameter for p in own):
        return "its matrices are no plain parameters"
    if any(p._backward_hooks for p in own):
        return "hooks are registered on its parameters"
    if "forward" in vars(module):
        return "its forward was replaced"
    if isinstance(module, nn.MultiheadAttention):
        last = module.out_proj
        if type(last) is not nn.modules.linear.NonDynamicallyQuantizableLinear:
            return f"its out_proj is a {type(last).__name__}"
        own += [p for p in last._parameters.values() if p is not None]
    inside = {id(each) for each in module.modules()}
    outside = {id(p) for place in found if id(place.module) not in inside for p in place.module._parameters.values()}
    if len({id(p) for p in own}) < len(own) or outside.intersection(map(id, own)):
        return "its matrices are shared"
    return None


def opened(model: nn.Module, chosen: Iterable[Place]) -> nn.Module:
    """A copy of the model in which containers have their matrices in layers."""
    return copy_with(model, {id(place.module): _open(place.module) for place in chosen})[0]


def closed(model: nn.Module) -> nn.Module:
    """The same model, with containers in which no layer was exchanged as they were; changed in place."""
    kept: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for slot, child in parent._modules.items():
            if child is not None and _as_it_was(child):
                parent._modules[slot] = kept.setdefault(id(child), _close(child))
    return _close(model) if _as_it_was(model) else model


def layers_within(found: Iterable[Place]) -> dict[int, type[nn.Module]]:
    """By the ``id`` of each layer that holds a matrix of an opened module, torch's type of that."""
    plain = {own: kind for kind, own in _OPENED.items()}
    return {
        id(layer): plain[type(place.module)]
        for place in found
        if type(place.module) in plain
        for layer in place.module._modules.values()
    }


def is_opened(module: nn.Module) -> bool:
    """Whether a module has its matrices in layers."""
    return type(module) in _OPENED.values()


def _as_it_was(module: nn.Module) -> bool:
    return is_opened(module) and not any(isinstance(layer, DropInLayer) for layer in module.modules())


def _open(module: nn.Module) -> nn.Module:
    own = _OPENED[type(module)]
    new = own.__new__(own)
    skipped = ("_flat_weights", "_flat_weight_refs")
    vars(new).update({name: value for name, value in vars(module).items() if name not in skipped})
    vars(new).update(_parameters=dict(module._parameters), _modules=dict(module._modules))
    if isinstance(module, nn.RNNBase):
        vars(new)["_flat_weight_refs"] = []
    if isinstance(module, nn.MultiheadAttention):
        for layer, name in _PROJECTIONS.items():
            if (matrix := new._parameters.pop(name, None)) is not None:
                new._modules[layer] = _layer(matrix, None, module)
        last = new._modules.pop("out_proj")
        assert isinstance(last, nn.Linear)
        new._modules["out_proj"] = _layer(last.weight, last.bias, last)
        return new
    for name, matrix in module._parameters.items():
        if matrix is not None and matrix.ndim == 2:
            del new._parameters[name]
            new._modules[name] = _layer(matrix, None, module)
    return new


def _close(module: nn.Module) -> nn.Module:
    plain = next(kind for kind, own in _OPENED.items() if own is type(module))
    new = plain.__new__(plain)
    layers = {name: layer for name, layer in module._modules.items() if layer is not None}
    vars(new).update(vars(module))
    vars(new).update(_parameters=dict(module._parameters), _modules={})
    if isinstance(module, nn.MultiheadAttention):
        matrices = {
            name: layers[layer]._parameters["weight"] if layer in layers else None
            for layer, name in _PROJECTIONS.items()
        }
        # In torch's order, which is that of the state.
        vars(new)["_parameters"] = matrices | module._parameters
        last = layers["out_proj"]
        assert isinstance(last, nn.Linear)
        out = nn.modules.linear.NonDynamicallyQuantizableLinear(1, 1, device="meta")
        vars(out).update(vars(last))
        new._modules["out_proj"] = out
        return new
    own = module._parameters | {name: layer._parameters["weight"] for name, layer in layers.items()}
    assert isinstance(new, nn.RNNBase)
    assert isinstance(module, nn.RNNBase)
    vars(new)["_parameters"] = {name: own[name] for name in module._flat_weights_names}
    new._init_flat_weights()
    return new


def _layer(matrix: Any, bias: Any, like: nn.Module) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
    layer._parameters.update(weight=matrix, bias=bias)
    return layer.train(like.training)
