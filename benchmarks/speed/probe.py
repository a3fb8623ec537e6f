"""Training epochs of rank-fit probes, side by side: this library, the papers' code and TensorKrowch's tree.

    python -m benchmarks.speed.probe --data-dir DATA --imp-reg-in-tf CHECKOUT --imp-reg-htf CHECKOUT

Every comparison is on the same images and batches, in one run, and starts from equal weights: outputs must agree
before anything is timed.  Both sides first train one batch untimed; this library's time is a mean over --epochs epochs,
without the planning that is done once (reported beside it), a peer's that of one epoch.  Peers that are not there are
left out.  Without --data-dir the images are random blobs of MNIST's size, which share fewer subtrees than real ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import htf
from htf._files import write_json
from htf.datasets import ImageData, load, one_hot, one_vs_all, quantize

from .peers import importable
from .timing import made_by, mean_seconds

RATE = 5e-4  # of Adam, as in the papers
CP_RANKS = range(1, 16)
WIDTH = 16


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    data = _data(options)
    indices, targets = quantize(data.train_images), one_vs_all(data.train_labels, 6)
    batches = list(zip(indices.split(options.batch), targets.split(options.batch), strict=True))
    report = made_by() | {
        "dataset": data.name,
        "samples": len(targets),
        "batch": options.batch,
        "epochs": options.epochs,
    }
    report["own_peak_GiB"] = own_peak(batches)
    report["cp"] = compare_cp(batches, options)
    report["ht"] = compare_ht(batches, options)
    report["tree"] = compare_tree(batches, options)
    print(json.dumps(report, indent=1))
    if options.json:
        write_json(options.json, report)


Batches = list[tuple[Tensor, Tensor]]
Epoch = Callable[[int | None], None]  # trains on the first so many batches, or all


def own_peak(batches: Batches) -> float:
    """Peak memory of the process after an epoch of each of this library's two fits, before any peer is loaded."""
    order = batches[0][0].shape[1]
    _ours(htf.nn.CPNetwork([2] * order, list(CP_RANKS), seed=0), batches, 1)
    _ours(htf.nn.HTNetwork(htf.DimensionTree.grid(28, 28), 2, WIDTH, seed=0), batches, 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_cp(batches: Batches, options: argparse.Namespace) -> dict[str, Any]:
    """CP ranks 1 to 15, one class: one network here, fifteen models there."""
    ranks = list(CP_RANKS)
    order = batches[0][0].shape[1]
    init = htf.nn.init.gaussian(1.0, 1e-3)
    network = htf.nn.CPNetwork([2] * order, ranks, init=init, seed=0)
    start = [torch.stack([network.factor(m, k).detach().clone() for m in range(order)]) for k in range(len(ranks))]
    result = _ours(network, batches, options.epochs)
    if options.imp_reg_in_tf is None:
        return result
    with importable(options.imp_reg_in_tf):
        from tensor_factorization.models.tensor_factorizations import (  # type: ignore[import-not-found]
            LargeScaleTensorCPFactorization,
        )

        models = []
        for rank, factors in zip(ranks, start, strict=True):
            model = LargeScaleTensorCPFactorization(2, order, rank)
            model.factors.data.copy_(factors)
            models.append(model)
        encoded = [(one_hot(x, 2), y) for x, y in batches]
        fresh = htf.nn.CPNetwork([2] * order, ranks, init=init, seed=0)
        ours = fresh(batches[0][0])
        theirs = torch.stack([m(encoded[0][0]) for m in models], 1)
        return _against("imp_reg_in_tf", result, ours, theirs, _trainer(models, encoded))


def compare_ht(batches: Batches, options: argparse.Namespace) -> dict[str, Any]:
    """An HT fit at width 16 on imp_reg_htf's own tree (square pooling), or on a grid without it."""
    order = batches[0][0].shape[1]
    if options.imp_reg_htf is None:
        network = htf.nn.HTNetwork(htf.DimensionTree.grid(28, 28), 2, WIDTH, seed=0)
        return _ours(network, batches, options.epochs)
    with importable(options.imp_reg_htf):
        from tensor_factorization.models.ht_tensor_factorization import (  # type: ignore[import-not-found]
            HierarchicalTensorFactorization,
        )

        torch.manual_seed(0)
        model = HierarchicalTensorFactorization(
            [2] * order, pool_size=4, pool_pattern="checkerboard_sq", layer_widths=[WIDTH] * 5, init_std=0.1
        )
        tree, chains = _tree_of(model)
        with torch.no_grad():
            # Near the start of a fit: identities inside, so that the two see the same, moderate outputs.
            for layer, parameters in enumerate(model.per_hidden_layer_parameter_lists):
                for p in parameters:
                    p.copy_((torch.eye(*p.shape) if layer else 1) + 0.03 * torch.randn(p.shape))
            model.output_layer_parameters.fill_(0.1 / WIDTH)
        network = htf.nn.HTNetwork(tree, 2, WIDTH, seed=0)
        with torch.no_grad():
            for node, chain in chains.items():
                network.matrix(node).copy_(torch.linalg.multi_dot(chain) if len(chain) > 1 else chain[0])
        encoded = [(one_hot(x, 2), y) for x, y in batches]
        ours, theirs = network(batches[0][0]).squeeze(1), model(encoded[0][0])
        result = _ours(network, batches, options.epochs)
        return _against("imp_reg_htf", result, ours, theirs, _trainer([model], encoded))


def compare_tree(batches: Batches, options: argparse.Namespace) -> dict[str, Any]:
    """A binary tree over the images padded to 32 x 32, of width 16; TensorKrowch's has dense transfer tensors."""
    tree = htf.DimensionTree.balanced(1024)
    padded = [(torch.nn.functional.pad(x.view(-1, 28, 28), (2, 2, 2, 2)).flatten(1), y) for x, y in batches]
    network = htf.nn.HTNetwork(tree, 2, WIDTH, seed=0)
    try:
        import tensorkrowch as tk
    except ImportError:
        return _ours(network, padded, options.epochs)
    sites = [512 >> k for k in range(10)]
    shapes = [[2, 2, WIDTH]] + [[WIDTH, WIDTH, WIDTH]] * 8 + [[WIDTH, WIDTH, 1]]
    model = tk.models.Tree(sites_per_layer=sites, bond_dim=shapes)
    with torch.no_grad():
        for nodes, layer in zip(list(tree)[1:], model.layers, strict=True):
            for node, site in zip(nodes, layer, strict=True):
                w, (left, right) = network.matrix(node), tree.children(node)
                first, second = torch.eye(WIDTH), torch.eye(WIDTH)
                if left < tree.order:
                    first, second = network.matrix(left), network.matrix(right)
                site.tensor = torch.einsum("ar,br,ro->abo", first, second, w)
    # A part of the first batch: its dense contractions keep several GiB otherwise.
    few = [(x[: options.tree_batch], y[: options.tree_batch]) for x, y in padded[: options.tree_batches]]
    encoded = [(one_hot(x, 2), y) for x, y in few]
    model.auto_stack, model.auto_unbind = True, True
    model.trace(encoded[0][0][:1])
    ours, theirs = network(few[0][0]).squeeze(1), model(encoded[0][0]).squeeze(1)
    result = _ours(network, few, options.epochs)
    result["samples"] = sum(len(y) for _, y in few)
    return _against("tensorkrowch", result, ours, theirs, _trainer([model], encoded))


def _ours(network: Any, batches: Batches, epochs: int) -> dict[str, Any]:
    start = time.perf_counter()
    plans = [(network.plan(x), y) for x, y in batches]
    planning = time.perf_counter() - start
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)

    def epoch() -> None:
        for plan, y in plans:
            _step(network, optimizer, plan, y)

    _step(network, optimizer, *plans[0])  # the first allocates
    seconds = mean_seconds(epoch, epochs)
    return {
        "seconds_per_epoch": seconds,
        "seconds_planning_once": planning,
        "multiplications_forward": sum(plan.multiplications for plan, _ in plans),
    }


def _step(network: Any, optimizer: torch.optim.Optimizer, plan: htf.engine.Plan, y: Tensor) -> None:
    optimizer.zero_grad()
    (network(plan) - y[:, None]).square().mean(0).sum().backward()
    optimizer.step()


def _against(peer: str, result: dict[str, Any], ours: Tensor, theirs: Tensor, epoch: Epoch) -> dict[str, Any]:
    """Check that outputs agree, then time one epoch of the peer."""
    difference = float(((ours - theirs).abs().max() / theirs.abs().max()).detach())
    if not difference < 1e-3:
        raise AssertionError(f"outputs of {peer} and htf differ by {difference:.1e} of the largest on equal weights")
    epoch(1)
    seconds = mean_seconds(lambda: epoch(None), 1)
    result |= {"peer": peer, "peer_seconds_per_epoch": seconds, "largest_output_difference": difference}
    result["ratio"] = seconds / result["seconds_per_epoch"]
    result["ratio_of_a_first_epoch_with_planning"] = seconds / (
        result["seconds_per_epoch"] + result["seconds_planning_once"]
    )
    return result


def _trainer(models: list[Any], batches: Batches) -> Epoch:
    optimizers = [torch.optim.Adam(model.parameters(), lr=RATE) for model in models]

    def epoch(limit: int | None) -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for x, y in batches[:limit]:
                optimizer.zero_grad()
                (model(x).view(-1) - y).square().mean().backward()
                optimizer.step()

    return epoch


def _tree_of(model: Any) -> tuple[htf.DimensionTree, dict[int, list[Tensor]]]:
    """The tree of an imp_reg_htf model, and the matrices of each node; only children share their parent's entry."""
    levels = model.get_per_level_mode_tree_nodes()
    parameters = [list(layer) for layer in model.per_hidden_layer_parameter_lists] + [[model.output_layer_parameters]]
    nested: dict[tuple[int, ...], Any] = {(mode,): mode for (mode,) in levels[0]}
    below: dict[int, tuple[int, ...]] = {}
    chain: dict[tuple[int, ...], list[Tensor]] = {modes: [] for modes in levels[0]}
    for level, matrices in zip(levels, parameters, strict=True):
        for modes, matrix in zip(level, matrices, strict=True):
            if modes not in nested:
                nested[modes] = tuple(nested[part] for part in _parts(modes, below))
                chain[modes] = []
            chain[modes].append(matrix)
        below = {modes[0]: modes for modes in level}
    tree = htf.DimensionTree.from_nested(nested[levels[-1][0]])
    by_modes = {tree.modes(node): node for node in range(tree.n_nodes)}
    return tree, {by_modes[modes]: matrices for modes, matrices in chain.items()}


def _parts(modes: tuple[int, ...], below: dict[int, tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    while modes:
        part = below[modes[0]]
        yield part
        modes = modes[len(part) :]


def _data(options: argparse.Namespace) -> ImageData:
    if options.data_dir is not None:
        data = load("mnist", options.data_dir)
        return data if options.samples is None else data.take(options.samples)
    generator = torch.Generator().manual_seed(0)
    samples = options.samples or 10_000
    noise = torch.rand(samples, 1, 14, 14, generator=generator)
    images = torch.nn.functional.interpolate(noise, scale_factor=2).squeeze(1).mul(255).to(torch.uint8)
    labels = torch.randint(0, 10, (samples,), generator=generator)
    return ImageData("blobs", images, labels, images[:10], labels[:10])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files")
    parser.add_argument("--samples", type=int, help="use the first so many images")
    parser.add_argument("--batch", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3, help="epochs to average over (the papers' code: one)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--imp-reg-in-tf", type=Path, help="checkout of noamrazin/imp_reg_in_tf")
    parser.add_argument("--imp-reg-htf", type=Path, help="checkout of asafmaman101/imp_reg_htf")
    parser.add_argument("--tree-batch", type=int, default=1000, help="batch for TensorKrowch's tree")
    parser.add_argument("--tree-batches", type=int, default=2, help="batches for TensorKrowch's tree")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
