"""Whether gradients can be differentiated again; torch says so in the backward pass of the loss, and not what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import Node

_KERNEL = (
    "an operation has none in torch. Of attention, only the math kernel has, so a model that chooses a kernel itself "
    "must choose torch.nn.attention.sdpa_kernel(SDPBackend.MATH); of recurrent layers on a GPU, only torch's own have, "
    "so call the regularizer under torch.backends.cudnn.flags(enabled=False)"
)
_COMPILED = (
    "it is compiled by torch.compile, which does not support them; give the regularizer the model that is not "
    "compiled, which has the same parameters (compiled._orig_mod), and no out of the compiled one"
)
# By the names of nodes of torch's graph that raise an error when they are reached.
_REASONS = {
    "torch::autograd::NotImplemented": _KERNEL,
    "torch::autograd::Error": (
        "a torch.autograd.Function of the model is marked with once_differentiable; write its backward pass of "
        "differentiable operations, without the mark"
    ),
    "CompiledFunctionBackwardBackward": _COMPILED,
}


def refusal(reason: str) -> RuntimeError:
    """The error, with what to do."""
    return RuntimeError(f"the model has no second derivatives, which the regularizer takes: {reason}")


@contextmanager
def first_derivatives() -> Iterator[None]:
    """Where gradients are made with a graph: a compiled model may refuse even that."""
    try:
        yield
    except RuntimeError as error:
        if "donated buffer" in str(error) or "support double backward" in str(error):
            raise refusal(_COMPILED) from error
        raise


def without_second_derivative(gradient: Tensor) -> str:
    """Why a gradient that has a graph cannot be differentiated, and the remedy; "" if it can.

    Looks through the nodes of the graph, of which it takes a small part of the time that making them took.
    """
    seen: set[Node] = set()
    ahead = [gradient.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (name := node.name()) in _REASONS:
            return _REASONS[name]
        ahead.extend(following for following, _ in node.next_functions)
    return ""
