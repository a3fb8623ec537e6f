import json

import pytest
import torch
from dynamics_cases import DOUBLE, TREES, cp_network, ht_network, loss_for, matrix_network, with_gradients
from dynamics_descent import descend, moment_of

import htf
from htf.dynamics import component_norms, component_rates, local_component_norms, singular_values, unbalancedness
from htf.training.history import History


def measured(tracker, network):
    """What a tracker says of the network and measures, as a fit asks for it."""
    loss = loss_for(network)
    with_gradients(network, loss)
    about = json.loads(json.dumps(tracker.describe(network)))
    return about, tracker.measure(moment_of(network, loss)), loss


def check_largest(found, group, rates, top):
    """Against a sort of each run's components by hand."""
    count = min(top, rates.values.shape[1])
    for run, own in enumerate(rates.counts.tolist()):
        values = rates.values[run].tolist()
        order = sorted(range(own), key=lambda r: -values[r])[:count]
        padding = count - len(order)
        assert found[f"{group}/indices"][run].tolist() == order + [-1] * padding
        assert found[f"{group}/values"][run].tolist() == [values[r] for r in order] + [0] * padding
        alignments = [float(rates.alignments[run, r]) for r in order] + [0] * padding
        assert found[f"{group}/alignments"][run].tolist() == alignments
    assert found[f"{group}/indices"].dtype == torch.int64


@pytest.mark.parametrize("top", [1, 3, 10])
def test_singular_values(top):
    network = matrix_network(3, 3)
    about, found, loss = measured(singular_values(top), network)
    end = {"order": 3, "node": None, "modes": [0, 1], "components": [3, 3]}
    assert about == {"top": top, "groups": {"end matrix": end}}
    rates = component_rates(network, network.end_gradient(loss.of_tensors))["end matrix"]
    check_largest(found, "end matrix", rates, top)
    assert set(found) == {f"end matrix/{name}" for name in ("values", "indices", "alignments")}


@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("outputs", [1, 2])
def test_component_norms(top, outputs):
    network = cp_network(3, outputs, ranks=(2, 5, 4))
    about, found, _ = measured(component_norms(top), network)
    components = {"order": 3 + (outputs > 1), "node": 3, "modes": [0, 1, 2], "components": [2, 5, 4]}
    assert about == {"top": top, "groups": {"components": components}}
    check_largest(found, "components", component_rates(network)["components"], top)
    assert set(found) == {f"components/{name}" for name in ("values", "indices", "alignments")}


@pytest.mark.parametrize("nodes", [None, [6], (4, 6)])
def test_local_component_norms(nodes):
    network = ht_network("binary", widths=(2, 5, 3))
    about, found, _ = measured(local_component_norms(3, nodes), network)
    chosen = [4, 5, 6] if nodes is None else list(nodes)
    modes = {4: [0, 1], 5: [2, 3], 6: [0, 1, 2, 3]}
    assert about["groups"] == {
        f"node {n}": {"order": 3, "node": n, "modes": modes[n], "components": [2, 5, 3]} for n in chosen
    }
    rates = component_rates(network)
    for node in chosen:
        check_largest(found, f"node {node}", rates[f"node {node}"], 3)
    assert len(found) == 3 * len(chosen)
    ternary = local_component_norms().describe(ht_network("ternary"))["groups"]
    assert [ternary[f"node {n}"]["order"] for n in TREES["ternary"].inner_nodes] == [4, 3, 3]


def test_local_component_norms_of_cp_are_its_component_norms():
    network = cp_network(3, 2)
    about, found, _ = measured(local_component_norms(4), network)
    _, expected, _ = measured(component_norms(4), network)
    assert about["groups"]["node 3"]["order"] == 4
    for name in ("values", "indices", "alignments"):
        assert torch.equal(found[f"node 3/{name}"], expected[f"components/{name}"])


def test_components_of_norm_zero_come_before_padding():
    network = cp_network(3, ranks=(2, 4))
    with torch.no_grad():
        network.factor(0, 0)[:, 0] = 0
    _, found, _ = measured(component_norms(3), network)
    assert found["components/indices"][0].tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    "network", [matrix_network(3), cp_network(3), ht_network("ternary")], ids=["matrix", "cp", "ht"]
)
def test_unbalancedness(network):
    about, found, _ = measured(unbalancedness(), network)
    assert about == {}
    assert found["unbalancedness"].dtype == DOUBLE
    assert not found["unbalancedness"].requires_grad
    expected = [float(network.unbalancedness(run).detach()) for run in range(network.runs)]
    assert found["unbalancedness"].tolist() == pytest.approx(expected)
    assert min(expected) > 0


def test_which_ask_for_consecutive_steps():
    trackers = (singular_values(), component_norms(), local_component_norms(), unbalancedness())
    assert [tracker.consecutive for tracker in trackers] == [True, True, True, False]
    assert len({tracker.name for tracker in trackers}) == 4


def test_records_survive_saving(tmp_path):
    network = ht_network("binary")
    history = descend(network, loss_for(network), [local_component_norms(2), unbalancedness()], 12, 1e-3, every=5)
    assert history.steps.tolist() == [0, 1, 5, 6, 10, 11]
    history.save(tmp_path)
    read = History.load(tmp_path)
    for name, record in history.tracked.items():
        assert read.about(name) == history.about(name)
        for key, tensor in record.items():
            assert tensor.shape[:2] == (6, 3)
            assert torch.equal(read[name][key], tensor)
    assert len(htf.dynamics.phases(read)) == 9


class TestErrors:
    @pytest.mark.parametrize(
        ("tracker", "network", "message"),
        [
            (
                singular_values(),
                cp_network(),
                "singular_values are tracked for MatrixFactorization; the network is a CPN",
            ),
            (component_norms(), ht_network("binary"), "component_norms are tracked for CPNetwork; .* HTNetwork"),
            (component_norms(), matrix_network(), "component_norms .* MatrixFactorization"),
            (local_component_norms(), matrix_network(), "tracked for HTNetwork or CPNetwork; .* MatrixFactorization"),
            (unbalancedness(), torch.nn.Linear(2, 2), "unbalancedness .* the network is a Linear"),
        ],
    )
    def test_networks_of_another_kind(self, tracker, network, message):
        with pytest.raises(TypeError, match=message):
            tracker.describe(network)

    @pytest.mark.parametrize("node", [0, 7, -1])
    def test_nodes_that_are_not_there(self, node):
        with pytest.raises(ValueError, match=f"nodes holds {node}; the tree has the inner nodes 4 to 6"):
            local_component_norms(nodes=[5, node]).describe(ht_network("binary"))
        with pytest.raises(ValueError, match=f"nodes holds {node}; the tree has the inner nodes 3 to 3"):
            local_component_norms(nodes=[node]).describe(cp_network(3))

    def test_shared_matrices(self):
        network = htf.nn.HTNetwork(TREES["binary"], 2, 3, shared=True, seed=0)
        with pytest.raises(ValueError, match="network has shared=True"):
            local_component_norms().describe(network)

    @pytest.mark.parametrize("make", [singular_values, component_norms, local_component_norms])
    def test_counts(self, make):
        with pytest.raises(ValueError, match="top is 0; expected at least 1"):
            make(0)
        with pytest.raises(TypeError, match=r"top is 1\.5"):
            make(1.5)
