import pytest
import torch
from dense import dense_ht
from dynamics_cases import (
    DOUBLE,
    TREES,
    cp_network,
    dense,
    ht_network,
    loss_for,
    matrix_network,
    with_gradients,
)

import htf
from htf.dynamics import component_rates


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=DOUBLE), rtol=1e-9, atol=1e-12)


def check(rates, order, by_run):
    """Against values and alignments of each run from dense tensors; what is beyond is padding."""
    assert rates.order == order
    assert rates.values.dtype == rates.alignments.dtype == DOUBLE
    assert rates.counts.tolist() == [len(values) for values, _ in by_run]
    for run, (values, alignments) in enumerate(by_run):
        count = len(values)
        close(rates.values[run, :count], values)
        close(rates.alignments[run, :count], alignments)
        exact = [order * g * v ** (2 - 2 / order) for v, g in zip(values, alignments, strict=True)]
        close(rates.predicted[run, :count], exact)
        for padded in (rates.values, rates.alignments, rates.predicted):
            assert bool((padded[run, count:] == 0).all())


@pytest.mark.parametrize(("depth", "width"), [(1, None), (2, None), (3, 2), (4, (7, 3, 5))])
def test_of_matrices(depth, width):
    network = matrix_network(depth, width)
    loss = loss_for(network)
    expected = []
    for run in range(2):
        gradient = loss.gradient(network, run)
        u, s, vh = torch.linalg.svd(dense(network, run).detach(), full_matrices=False)
        count = min((4, *network.widths))
        alignments = [-float((gradient * torch.outer(u[:, r], vh[r])).sum()) for r in range(count)]
        expected.append((s[:count].tolist(), alignments))
    with_gradients(network, loss)
    check(component_rates(network)["end matrix"], depth, expected)
    rates = component_rates(network, network.end_gradient(loss.of_tensors))
    assert list(rates) == ["end matrix"]
    check(rates["end matrix"], depth, expected)


@pytest.mark.parametrize(("order", "outputs"), [(2, 1), (3, 1), (4, 1), (3, 2)])
def test_of_cp(order, outputs):
    network = cp_network(order, outputs)
    loss = loss_for(network)
    expected = []
    for run, rank in enumerate(network.ranks):
        gradient = loss.gradient(network, run)
        factors = [factor.detach() for factor in network.parameters_for(run).values()]
        values, alignments = [], []
        for r in range(rank):
            component = torch.ones((), dtype=DOUBLE)
            for factor in factors:
                component = component[..., None] * factor[:, r]
            values.append(float(component.norm()))
            alignments.append(-float((gradient * component).sum() / component.norm()))
        expected.append((values, alignments))
    rates = component_rates(with_gradients(network, loss))
    assert list(rates) == ["components"]
    check(rates["components"], order + (outputs > 1), expected)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", list(TREES))
def test_of_local_components(name, outputs):
    tree = TREES[name]
    widths = [2, {node: 2 + node % 3 for node in tree.inner_nodes}, 4]
    network = ht_network(name, outputs, widths)
    loss = loss_for(network)
    rates = component_rates(with_gradients(network, loss))
    assert list(rates) == [f"node {node}" for node in tree.inner_nodes]
    for node in tree.inner_nodes:
        expected = []
        for run in range(3):
            gradient = loss.gradient(network, run)
            own = {k: matrix.detach() for k, matrix in network.parameters_for(run).items()}
            values, alignments = [], []
            for r, row in enumerate(own[node]):
                norm = float(row.norm())
                for child in tree.children(node):
                    norm *= float(own[child][:, r].norm())
                alone = torch.zeros_like(own[node])
                alone[r] = row / norm
                end = dense_ht(tree, network.dims, own | {node: alone})
                values.append(norm)
                alignments.append(-float((gradient * end).sum()))
            expected.append((values, alignments))
        check(rates[f"node {node}"], len(tree.children(node)) + 1, expected)


def test_components_of_norm_zero_do_not_move():
    cp, ht, matrix = cp_network(3), ht_network("binary", widths=3), matrix_network(3)
    with torch.no_grad():
        cp.factor(1, 0)[:, 1] = 0
        ht.matrix(6)[1] = 0
        ht.matrix(0)[:, 2] = 0
        for weight in matrix.weights:
            weight[1] = 0
    for network, group, at in ((cp, "components", (0, 1)), (ht, "node 6", (0, 1)), (ht, "node 4", (0, 2))):
        rates = component_rates(with_gradients(network, loss_for(network)))[group]
        for tensor in (rates.values, rates.alignments, rates.predicted):
            assert float(tensor[at]) == 0
            assert bool(tensor.isfinite().all())
            assert int((tensor == 0).sum()) == 1 + (network is cp) * 3  # the zero, and padding
    loss = loss_for(matrix)
    for end_gradient in (None, matrix.end_gradient(loss.of_tensors)):
        rates = component_rates(with_gradients(matrix, loss), end_gradient)["end matrix"]
        for tensor in (rates.values, rates.alignments, rates.predicted):
            assert bool((tensor[1] == 0).all())
            assert bool((tensor[0] != 0).all())


def test_what_the_network_says_of_its_norms():
    cp, ht, matrix = cp_network(3), ht_network("ternary"), matrix_network(3)
    for network in (cp, ht, matrix):
        with_gradients(network, loss_for(network))
    for run in range(2):
        close(component_rates(cp)["components"].values[run, : cp.ranks[run]], cp.component_norms(run).detach())
        for node, norms in ht.local_component_norms(run).items():
            close(component_rates(ht)[f"node {node}"].values[run, : len(norms)], norms.detach())
    close(component_rates(matrix)["end matrix"].values, matrix.singular_values())


def test_norms_below_the_range_of_the_parameters():
    # Each vector has norm 1e-4; the product of twenty is far below float32.
    network = htf.nn.CPNetwork((3,) * 20, 2, init=htf.nn.init.gaussian(1e-4, 0), seed=0)
    network(torch.zeros(1, 20, dtype=torch.int64)).sum().backward()
    values = component_rates(network)["components"].values
    assert values[0].tolist() == pytest.approx([(1e-4 * 3**0.5) ** 20] * 2, rel=1e-5)


def test_many_children():
    tree = htf.DimensionTree.balanced(6, arity=6)
    network = htf.nn.HTNetwork(tree, 2, 3, init="gaussian", seed=0, dtype=DOUBLE)
    loss = loss_for(network)
    assert component_rates(with_gradients(network, loss))["node 6"].order == 7


class TestErrors:
    def test_other_networks(self):
        with pytest.raises(
            TypeError, match="network is a Linear; expected a MatrixFactorization, CPNetwork or HTNetwork"
        ):
            component_rates(torch.nn.Linear(2, 2))

    def test_no_gradients(self):
        for network in (cp_network(), ht_network("binary"), matrix_network()):
            with pytest.raises(ValueError, match="network has no gradients; call backward"):
                component_rates(network)

    def test_end_gradients(self):
        with pytest.raises(TypeError, match="end_gradient is of end matrices; the network is a CPNetwork"):
            component_rates(cp_network(), torch.zeros(2, 4, 6))
        with pytest.raises(ValueError, match=r"end_gradient has shape \(4, 6\); expected \(2, 4, 6\)"):
            component_rates(matrix_network(), torch.zeros(4, 6))

    def test_shared_matrices(self):
        network = htf.nn.HTNetwork(TREES["binary"], 2, 3, shared=True, seed=0)
        with pytest.raises(ValueError, match="network has shared=True"):
            component_rates(network)
