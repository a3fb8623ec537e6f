"""Expectation maximization against sums over all choices, and the objective that it maximizes."""

import itertools
from functools import partial

import pytest
import torch

import htf
from htf.nn import CPNetwork, HTNetwork
from htf.nn.init import distributions
from htf.training import ExpectationMaximization, Training, objectives

TREE = htf.DimensionTree.from_nested(((0, 1), 2, 3))


def samples(levels=3, n=30):
    return torch.randint(0, levels, (n, 4), generator=torch.Generator().manual_seed(0))


def density(outputs=1, **options):
    start = distributions(samples(), **options)
    return HTNetwork(TREE, 3, 2, outputs=outputs, init=start, seed=0, dtype=torch.float64)


def expected_counts(net, x, labels, joint=False):
    """How often each choice is made, a sample; with `joint`, by the network itself whatever the samples are."""
    counts = {node: torch.zeros_like(net.matrix(node)) for node in range(TREE.n_nodes)}
    total = 0.0
    everything = itertools.product(range(3), repeat=4) if joint else [row.tolist() for row in x]
    for k, row in enumerate(everything):
        chances = []
        columns = range(net.outputs) if joint else [int(labels[k])]
        for column in columns:
            for hidden in itertools.product(range(2), repeat=len(TREE.inner_nodes)):
                chosen = dict(zip(TREE.inner_nodes, hidden, strict=True)) | dict(enumerate(row))
                of = {n: (chosen[n], column if n == TREE.root else chosen[TREE.parent(n)]) for n in counts}
                chance = 1 / net.outputs if joint else 1.0
                for node, at in of.items():
                    chance *= float(net.matrix(node)[at])
                chances.append((chance, of))
        total = 1.0 if joint else sum(chance for chance, _ in chances) * len(x)
        for chance, of in chances:
            for node, at in of.items():
                counts[node][at] += chance / total
    return counts


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("lr", [1.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@torch.no_grad()
def test_step_is_that_of_expected_counts(outputs, lr, smoothing):
    net, x = density(outputs), samples()
    labels = torch.arange(30) % outputs
    counts, own = expected_counts(net, x, labels), expected_counts(net, x, labels, joint=True)
    expected = {}
    for node, found in counts.items():
        old = net.matrix(node).clone()
        before = (own[node].sum(0) + smoothing * len(old)) * old
        new = (1 - lr) * before + lr * (found + smoothing)
        expected[node] = new / new.sum(0)
    with torch.enable_grad():
        objective = objectives.likelihood(x, labels if outputs > 1 else None, batch_size=30)
        make = partial(ExpectationMaximization, smoothing=smoothing)
        Training(net, objective, optimizer=make, lr=lr).run(steps=1)
    for node, matrix in expected.items():
        assert torch.allclose(net.matrix(node), matrix, atol=1e-12)


def test_binomial_steps_keep_leaves_binomial():
    net, x = density(leaf="binomial"), samples()
    Training(
        net,
        objectives.likelihood(x, batch_size=10),
        optimizer=partial(ExpectationMaximization, leaf="binomial"),
        lr=0.5,
    ).run(epochs=3)
    for mode in range(4):
        leaf = net.matrix(mode)
        # A thousandth is spread over all values.
        leaf = (leaf - 1e-3 / 3) / (1 - 1e-3)
        success = (leaf * torch.arange(3)[:, None]).sum(0) / 2
        again = torch.stack([(1 - success) ** 2, 2 * success * (1 - success), success**2])
        assert torch.allclose(leaf, again, atol=1e-12)


def test_shared_matrices():
    x = samples()
    tree = htf.DimensionTree.balanced(4)
    net = HTNetwork(tree, 3, 2, shared=True, init=distributions(x), seed=0, dtype=torch.float64)
    objective = objectives.likelihood(x, batch_size=30)
    losses = Training(net, objective, optimizer="expectation_maximization", lr=1.0).run(epochs=15).loss[:, 0]
    assert bool((losses.diff() <= 1e-10).all())
    assert torch.allclose(net.weights[0].sum(-2), torch.ones((), dtype=torch.float64))


def test_goes_on_after_an_interrupt(tmp_path):
    x = samples(n=40)

    def training(out, net):
        make = partial(ExpectationMaximization, smoothing=0.01)
        return Training(net, objectives.likelihood(x, batch_size=10), optimizer=make, lr=0.4, out=out)

    first, second, straight = density(), density(), density()
    training(tmp_path, first).run(epochs=2)
    training(tmp_path, second).run(epochs=4)
    training(None, straight).run(epochs=4)
    for one, other in zip(second.parameters(), straight.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_and_validation():
    x, net = samples(), density()
    weights = torch.arange(30) % 2
    objective = objectives.likelihood(x, weights=weights, validation=x[weights == 0], batch_size=30)
    history = Training(net, objective, optimizer="expectation_maximization", lr=0.01).run(epochs=1)
    start = density()
    log = start.log_abs(x)[1].detach().reshape(-1)
    assert history.loss[0, 0].item() == pytest.approx(-log[weights == 1].mean().item())
    of_held = net.log_abs(x[weights == 0])[1].detach().mean()
    assert history["validation"]["log_likelihood"][0, 0].item() == pytest.approx(of_held.item())


def test_starts():
    x = samples()
    for options in ({}, {"leaf": "binomial"}, {"contrast": 0.0}):
        for weight in density(**options).weights:
            assert torch.allclose(weight.sum(-2), torch.ones((), dtype=torch.float64))
            assert bool((weight > 0).all())
    even = density(contrast=0.0)
    assert torch.allclose(even.matrix(0)[:, 0], even.matrix(0)[:, 1])
    shares = torch.bincount(x[:, 0], minlength=3) / 30
    assert torch.allclose(even.matrix(0)[:, 0], 0.99 * shares.double() + 0.01 / 3)
    squared = density(squared=True)
    assert torch.allclose(squared.matrix(0).square().sum(0), torch.ones((), dtype=torch.float64))


def test_bad_input():
    x, net = samples(), density()
    cases = [
        (lambda: ExpectationMaximization(CPNetwork(4, 3, 2)), TypeError, "CPNetwork"),
        (lambda: ExpectationMaximization(HTNetwork(TREE, 3, 2, seed=0)), ValueError, "network has"),
        (lambda: ExpectationMaximization(net, lr=1.5), ValueError, "lr is 1.5"),
        (lambda: ExpectationMaximization(net, smoothing=-1), ValueError, "smoothing is -1"),
        (lambda: ExpectationMaximization(net, leaf="normal"), ValueError, "leaf is 'normal'"),
        (lambda: objectives.likelihood(x[0]), ValueError, "samples is"),
        (lambda: objectives.likelihood(x, batch_size=0), ValueError, "batch_size is 0"),
        (lambda: objectives.likelihood(x, weights=-torch.ones(30)), ValueError, "weights has entries"),
        (lambda: objectives.likelihood(x, weights=torch.zeros(30)), ValueError, "weights is zero for all"),
        (lambda: objectives.likelihood(x, weights=torch.ones(3)), ValueError, "weights has shape"),
        (lambda: objectives.likelihood(x, torch.ones(3)), ValueError, "labels has shape"),
        (lambda: objectives.likelihood(x, x[:, 0], validation=x), ValueError, "validation has no labels"),
        (lambda: Training(torch.nn.Linear(4, 1), objectives.likelihood(x)), TypeError, "model is a Linear"),
        (lambda: Training(density(2), objectives.likelihood(x)), ValueError, "labels is None"),
        (lambda: Training(density(2), objectives.likelihood(x, x[:, 0])), ValueError, "labels has 2"),
        (lambda: distributions(x, contrast=-1), ValueError, "contrast is -1"),
        (lambda: distributions(x, leaf="normal"), ValueError, "leaf is 'normal'"),
        (lambda: distributions(x[0]), ValueError, "samples has shape"),
        (lambda: HTNetwork(TREE, 2, 2, init=distributions(x)), ValueError, "not from 0 to 1"),
        (lambda: HTNetwork(TREE, 3, 2, init=distributions(x[:, :3])), ValueError, "samples has 3 columns"),
    ]
    for make, error, words in cases:
        with pytest.raises(error, match=words):
            make()


def test_labels_may_be_a_column():
    x, net = samples(), density(3)
    labels = torch.stack([x[:, 0], x[:, 1]], 1)[:, 1]
    Training(net, objectives.likelihood(x, labels, batch_size=10), optimizer="expectation_maximization").run(epochs=1)


def test_binomial_leaves_take_values_far_from_all_means():
    # One component expects nothing but 0, and the other nothing but 15, in both modes of either child.
    x = torch.tensor([[0, 0, 15, 15], [15, 15, 0, 0], [0, 15, 15, 0]]).repeat(10, 1)
    start = distributions(x[:2], leaf="binomial", contrast=50.0)
    net = HTNetwork(htf.DimensionTree.balanced(4), 16, 2, init=start, seed=0, dtype=torch.float32)
    make = partial(ExpectationMaximization, leaf="binomial")
    history = Training(net, objectives.likelihood(x, batch_size=30), optimizer=make, lr=1.0).run(epochs=12)
    assert bool(history.loss.isfinite().all())
    assert bool((history.loss.diff(dim=0) < 1e-4).all())
