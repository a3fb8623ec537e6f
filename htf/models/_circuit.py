"""Passes along the tree of a non-negative network: what is observed upward, choices drawn or maximized downward.

All of a network of one run, in double precision.  Upward, every node knows, for each of its components, the probability
of what is observed below it; downward, a component is chosen at each node in proportion to that, from the root on, and
at last the values that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from htf._random import beside, rand
from htf.nn.networks.ht import HTNetwork

# Entries of the largest array of probabilities that is held at once.
ENTRIES = 2**24


class Observed:
    """Logarithms of the probabilities of what is observed below the nodes of a network.

    Parameters
    ----------
    network : HTNetwork
    values : Tensor
        (samples, order) levels.
    missing : Tensor
        (samples, order) booleans; values there are not read.
    most : bool
        The largest probability of one choice of components and missing values, in place of the sum over all of them.
    logs : Tensor, optional
        (samples, order, dim): the logarithm of what each level contributes, such as the density of a value under one of
        several normal distributions, in place of `values`.
    peaks : Tensor, optional
        (order, dim): with `most` and `logs`, the largest contributions of the levels.

    Attributes
    ----------
    joint : dict
        From each inner node to (samples, width), each sample's largest 0.
    """

    def __init__(
        self,
        network: HTNetwork,
        values: Tensor,
        missing: Tensor,
        most: bool = False,
        logs: Tensor | None = None,
        peaks: Tensor | None = None,
    ) -> None:
        layout = network._layout
        self.joint: dict[int, Tensor] = {}
        below: dict[int, Tensor] = {}
        for block, parameter in zip(layout.blocks, network.weights, strict=True):
            weights = parameter.detach()[0].expand(len(block.nodes), -1, -1)
            if block.level == 0:
                modes = torch.tensor(block.nodes, device=values.device)
                if logs is None:
                    at = torch.arange(len(block.nodes), device=values.device)[:, None]
                    found = weights[at, values[:, modes].T].double().log()  # (nodes, samples, columns)
                else:
                    found = (_largest if most else _summed_logs)(logs[:, modes].double().movedim(1, 0), weights)
                unseen = weights.new_zeros(()).double()
                if most:
                    top = weights.double().log()
                    unseen = (top if peaks is None else top + peaks[modes, :, None].double()).amax(1)[:, None]
                found = torch.where(missing[:, modes].T[..., None], unseen, found)
            else:
                joints = torch.stack([self._joint(layout.tree.children(node), below) for node in block.nodes])
                self.joint |= zip(block.nodes, joints.unbind(), strict=True)
                if block.nodes == (layout.tree.root,):
                    break
                found = _largest(joints, weights) if most else _summed(joints, weights)
            below |= zip(block.nodes, found.unbind(), strict=True)

    @staticmethod
    def _joint(children: tuple[int, ...], below: dict[int, Tensor]) -> Tensor:
        total = torch.stack([below[child] for child in children]).sum(0)
        largest = total.amax(-1, keepdim=True)
        return total - torch.where(largest == -math.inf, 0, largest)


def _summed(joints: Tensor, weights: Tensor) -> Tensor:
    return (joints.exp() @ weights.double()).log()


def _summed_logs(logs: Tensor, weights: Tensor) -> Tensor:
    largest = logs.amax(-1, keepdim=True)
    return _summed(logs - largest, weights) + largest


def _largest(joints: Tensor, weights: Tensor) -> Tensor:
    log = weights.double().log()
    return torch.stack(
        [
            torch.cat([(part[..., None] + w).amax(1) for part in joint.split(max(1, ENTRIES // w.numel()))])
            for joint, w in zip(joints, log, strict=True)
        ]
    )


def draw(
    network: HTNetwork,
    outputs: Tensor,
    generator: Generator | None,
    observed: tuple[Observed, Tensor, Tensor] | None = None,
) -> Tensor:
    """Draw values from the root down.

    Parameters
    ----------
    network : HTNetwork
    outputs : Tensor
        (samples,): of which output each sample is to be drawn.
    generator : Generator or None
    observed : (Observed, Tensor, Tensor), optional
        What is observed, its values and what is missing, (samples, order) each.

    Returns
    -------
    Tensor
        (samples, order) levels.

    Raises
    ------
    ValueError
        If what is observed has the probability 0.
    """

    def choose(log: Tensor) -> Tensor:
        probabilities = log.exp().cumsum(-1)
        total = probabilities[..., -1:]
        _check_possible(total)
        uniform = beside(rand(tuple(log.shape[:-1]), generator)[..., None], log)
        return (probabilities <= uniform * (1 - 1e-12) * total).sum(-1).clamp(max=log.shape[-1] - 1)

    def choose_values(weights: Tensor, node: Tensor, column: Tensor) -> Tensor:
        uniform = beside(rand((len(node),), generator), weights)
        if len(node) >= weights.shape[0] * weights.shape[1]:
            return _inverted(weights.double().cumsum(-1), node, column, uniform)
        parts = torch.arange(len(node), device=node.device).split(max(1, ENTRIES // weights.shape[-1]))
        sums = (weights[node[part], column[part]].double().cumsum(-1) for part in parts)
        at = torch.arange(max(map(len, parts), default=0), device=node.device)
        found = [
            _inverted(of_part.unsqueeze(1), at[: len(part)], at.new_zeros(len(part)), uniform[part])
            for part, of_part in zip(parts, sums, strict=True)
        ]
        return torch.cat(found) if found else node

    return _downward(network, outputs, choose, choose_values, observed)


def _inverted(sums: Tensor, node: Tensor, column: Tensor, uniform: Tensor) -> Tensor:
    """The values at which cumulative sums, (nodes, columns, rows), exceed shares of their last, by bisection."""
    rows = sums.shape[-1]
    target = uniform * (1 - 1e-12) * sums[node, column, -1]
    found, step = torch.zeros_like(node), 1 << (rows.bit_length() - 1)
    while step:
        probe = found + (step - 1)
        below = (probe < rows) & (sums[node, column, probe.clamp(max=rows - 1)] <= target)
        found, step = found + step * below, step // 2
    return found.clamp(max=rows - 1)


def most_probable(
    network: HTNetwork, outputs: Tensor, observed: tuple[Observed, Tensor, Tensor], peaks: Tensor | None = None
) -> Tensor:
    """The values of the most probable choice of components and missing values; arguments as those of `draw`.

    `observed` must have been made with ``most=True`` and the same `peaks`.
    """

    def choose(log: Tensor) -> Tensor:
        _check_possible(log.amax(-1, keepdim=True).exp())
        return log.argmax(-1)

    def choose_values(weights: Tensor, node: Tensor, column: Tensor) -> Tensor:
        return weights.argmax(-1)[node, column]

    return _downward(network, outputs, choose, choose_values, observed, peaks)


def _check_possible(total: Tensor) -> None:
    if not bool((total > 0).all()):
        raise ValueError("x has a sample whose observed values have the probability 0; expected possible ones")


def _downward(
    network: HTNetwork,
    outputs: Tensor,
    choose: Callable[[Tensor], Tensor],
    choose_values: Callable[[Tensor, Tensor, Tensor], Tensor],
    observed: tuple[Observed, Tensor, Tensor] | None,
    peaks: Tensor | None = None,
) -> Tensor:
    layout = network._layout
    tree = layout.tree
    samples = len(outputs)
    found = outputs.new_empty(samples, tree.order) if observed is None else observed[1].long().clone()
    missing = torch.ones_like(found, dtype=torch.bool) if observed is None else observed[2]
    column = {tree.root: outputs}
    for block, parameter in zip(reversed(layout.blocks), reversed(list(network.weights)), strict=True):
        weights = parameter.detach()[0].expand(len(block.nodes), -1, -1).mT
        columns = torch.stack([column.pop(node) for node in block.nodes])  # (nodes, samples)
        if block.level == 0:
            modes = torch.tensor(block.nodes, device=outputs.device)
            node, sample = missing[:, modes].T.nonzero(as_tuple=True)
            if peaks is not None:
                # What counts is how large they are beside each other.
                weights = weights * (peaks[modes] - peaks[modes].amax(1, keepdim=True)).exp()[:, None]
            found[sample, modes[node]] = choose_values(weights, node, columns[node, sample])
            continue
        for k in range(len(block.nodes)):
            log = weights[k, columns[k]].double().log()
            if observed is not None:
                log = log + observed[0].joint[block.nodes[k]]
            column |= dict.fromkeys(tree.children(block.nodes[k]), choose(log))
    return found
