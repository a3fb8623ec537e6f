"""A fourth factorization, as a user adds one: a class of its own, which all of training and dynamics then takes."""

import pytest
import torch
from dynamics_descent import DenseLoss, moment_of
from factorization_cases import FactorizationTestCase
from fit_cases import FirstParameter
from torch import nn

import htf
from htf.dynamics import (
    compare_rates,
    component_norms,
    component_rates,
    effective_ranks,
    local_component_norms,
    norms,
    phases,
    singular_values,
    unbalancedness,
)
from htf.nn import ComponentGroup, ComponentRates, Factorization
from htf.training import GroupRMSprop, RelativeAdam, Training, center_outputs, fit, gradient_flow, objectives

DOUBLE = torch.float64


class TuckerNetwork(Factorization):
    """A core times a matrix in each of three modes; a local component is a column and its slice of the core."""

    component_kinds = ("local_component_norms",)

    def __init__(self, dims, rank, *, runs=1, std=0.5, seed=None, dtype=DOUBLE):
        super().__init__(dims, runs=runs)
        self.rank = rank
        self.core = nn.Parameter(torch.empty(runs, rank, rank, rank, dtype=dtype))
        self.factors = nn.ParameterList(torch.empty(runs, dim, rank, dtype=dtype) for dim in dims)
        self.reset_parameters(std, seed)

    def start_run(self, run, init, generator):
        for parameter in self.parameters():
            parameter[run] = init * torch.randn(parameter.shape[1:], generator=generator, dtype=DOUBLE)
        if init < 0.1:  # balanced: columns, and slices of the core, of one norm
            for U in self.factors:
                U[run] *= init / U[run].norm(dim=0)
            self.core[run] = init * torch.nn.functional.one_hot(torch.arange(self.rank)).diag_embed()

    def entries(self, plan):
        return self._outputs([U[:, plan[:, mode]] for mode, U in enumerate(self.factors)])

    def forms(self, vectors):
        modes = enumerate(zip(self.factors, self.dims, strict=True))
        return self._outputs([vectors[:, mode, :dim] @ U for mode, (U, dim) in modes])

    def _outputs(self, rows):  # (runs, batch, rank) of each mode
        return torch.einsum("rabc,rna,rnb,rnc->nr", self.core, *rows)

    def to_tensor(self, run=0):
        core, *factors = self.parameters_for(run).values()
        return torch.einsum("abc,ia,jb,kc->ijk", core, *factors)

    def rescale_(self, factors):
        with torch.no_grad():
            self.core.mul_(factors.view(-1, 1, 1, 1))

    def unbalancedness(self, run=0):
        core, *factors = (matrix.square() for matrix in self.parameters_for(run).values())
        slices = [core.sum([axis for axis in range(3) if axis != mode]) for mode in range(3)]
        return torch.stack([(U.sum(0) - own).abs().max() for U, own in zip(factors, slices, strict=True)]).max()

    def component_groups(self):
        counts = (self.rank,) * self.runs
        return {f"mode {mode}": ComponentGroup(order=2, counts=counts, modes=(mode,)) for mode in range(3)}

    def component_rates(self, end_gradient=None):
        found = {}
        for mode, U in enumerate(self.factors):
            slices = self.core.transpose(1, mode + 1).flatten(2).norm(dim=2)
            sizes = U.norm(dim=1) * slices
            counts = torch.full((self.runs,), self.rank)
            found[f"mode {mode}"] = ComponentRates(sizes, -(U * U.grad).sum(1) / sizes, 2, counts)
        return found


def planted(**changes):
    settings = {"shape": (5, 4, 6), "teacher": "cp", "rank": 1, "observed": 90, "norm": 10, "seed": 0}
    return htf.datasets.tensor_completion(**settings | changes)


def network(rank=3, **settings):
    return TuckerNetwork((5, 4, 6), rank, **{"runs": 2, "seed": 0, "std": 0.01} | settings)


class TestTucker(FactorizationTestCase):
    """All that is asked of the library's own: values and gradients by every way in, runs, norms, saving."""

    def make(self, dtype):
        return TuckerNetwork((2, 3, 4), 2, runs=3, seed=0, dtype=dtype)

    def dense(self, network, run):
        return network.to_tensor(run)


def test_it_recovers_a_planted_tensor_and_its_components_rise_at_the_rates_of_theory():
    net = network()
    history = fit(net, planted(), lr=0.03, steps=200, every=5, track=local_component_norms())
    assert float(history.loss[-1].max()) < 1e-4
    for run in range(2):
        assert float(planted().reconstruction_error(net.to_tensor(run))) < 0.02
    assert [(found.group, found.run) for found in phases(history)][:3] == [("mode 0", 0), ("mode 0", 1), ("mode 1", 0)]
    about = history.about("local_component_norms")["groups"]["mode 1"]
    assert about == {"order": 2, "node": None, "modes": [1], "components": [3, 3]}
    exponents = compare_rates(history).exponents()
    assert {each.group for each in exponents} == {"mode 0", "mode 1", "mode 2"}
    for each in exponents:
        assert each.slope == pytest.approx(1, abs=0.05)
        assert each.constant == pytest.approx(2, rel=0.05)


def test_its_rates_are_those_of_dense_tensors():
    net = network(std=0.5)
    loss = DenseLoss(torch.ones(5, 4, 6, dtype=DOUBLE), lambda own, run: own.to_tensor(run))
    loss(net).sum().backward()
    found = component_rates(net)
    for run in range(2):
        gradient = loss.gradient(net, run)
        core, *factors = (matrix.detach() for matrix in net.parameters_for(run).values())
        # Component r of mode 1: its column times its slice of the core in the other modes.
        for r in range(3):
            component = torch.einsum("j,ac,ia,kc->ijk", factors[1][:, r], core[:, r], factors[0], factors[2])
            size = factors[1][:, r].norm() * core[:, r].norm()
            torch.testing.assert_close(found["mode 1"].values[run, r], size)
            torch.testing.assert_close(found["mode 1"].alignments[run, r], -(gradient * component).sum() / size)


class InterruptedAt(FirstParameter):
    def measure(self, moment):
        if moment.step == 20:
            raise KeyboardInterrupt
        return super().measure(moment)


@pytest.mark.parametrize("optimizer", ["group_rmsprop", "relative_adam", "adam", "sgd"])
def test_it_is_resumed_bit_for_bit(optimizer, tmp_path):
    settings = {"optimizer": optimizer, "lr": 0.02, "steps": 40, "every": 5, "save_every": 0.0}
    whole = fit(expected := network(), planted(), **settings, track=FirstParameter())
    with pytest.raises(KeyboardInterrupt):
        fit(network(), planted(), **settings, track=InterruptedAt(), out=tmp_path)
    history = fit(net := network(), planted(), **settings, track=FirstParameter(), out=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(history.tensors()[name], tensor, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match=r"core"):
        fit(network(rank=2), planted(), **settings, track=FirstParameter(), out=tmp_path)


@pytest.mark.parametrize("optimizer", ["group_rmsprop", "relative_adam"])
def test_runs_step_as_they_would_alone(optimizer):
    both, alone = network(std=0.3, seed=[4, 5]), network(std=0.3, seed=[5], runs=1)
    for net in (both, alone):
        if optimizer == "group_rmsprop":
            Training(net, objectives.entries(planted()), optimizer=GroupRMSprop).run(steps=5)
        else:
            stepped = RelativeAdam(net, 0.1)
            for group in stepped.param_groups:
                group["lr"] = 1e-2  # otherwise by the sizes of all runs
            stepped.slow_down(torch.arange(net.runs) == net.runs - 1)
            (net(planted().indices) - 1).square().mean(0).sum().backward()
            stepped.step()
    for a, b in zip(both.parameters_for(1).values(), alone.parameters_for(0).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_relative_steps_are_divided_among_the_factors():
    tree = htf.DimensionTree.balanced(4)
    for net, factors in (
        (network(), 4),
        (htf.nn.MatrixFactorization((4, 5), 3, seed=0), 3),
        (htf.nn.CPNetwork((2,) * 5, 3, outputs=2, seed=0), 5),
        (htf.nn.HTNetwork(tree, 2, 3, seed=0), 7),
    ):
        optimizer = RelativeAdam(net, step=0.5)
        sizes = [float(parameter.detach().abs().mean()) for parameter in net.parameters()]
        assert optimizer.rates == pytest.approx([0.5 * size / factors for size in sizes])


def test_it_follows_the_gradient_flow_and_outputs_are_centred():
    net = network(std=0.3)
    history = gradient_flow(net, planted(), times=[0.0, 1.0, 5.0], track=[unbalancedness(), norms()])
    drift = history["unbalancedness"]["unbalancedness"]
    assert torch.allclose(drift[0], drift[-1], rtol=1e-4)
    assert bool((history.loss[-1] < history.loss[0]).all())
    inputs = planted().indices
    targets = net(inputs).detach() * torch.tensor([3.0, 0.5], dtype=DOUBLE)
    center_outputs(net, inputs, targets)
    torch.testing.assert_close(net(inputs).detach(), targets)


def test_end_tensors_are_measured_where_they_are_small():
    net = network(std=0.5)
    dense = torch.stack([net.to_tensor(run).detach() for run in range(2)])
    moment = moment_of(net, DenseLoss(dense[0], lambda own, run: own.to_tensor(run)))
    found = norms().measure(moment)
    torch.testing.assert_close(found["schatten 2"], dense.flatten(1).norm(dim=1))
    for tree, modes in ((None, (2,)), (htf.DimensionTree.from_nested(((0, 1), 2)), (0, 1))):
        tracker = effective_ranks(tree=tree)
        node = next(name for name, about in tracker.describe(net)["groups"].items() if about["modes"] == list(modes))
        for run in range(2):
            matrix = dense[run].permute(*modes, *(n for n in range(3) if n not in modes)).flatten(len(modes))
            values = torch.linalg.svdvals(matrix.reshape(-1, matrix.shape[-1]) if len(modes) == 2 else matrix)
            expected = htf.ranks.effective_rank(values)
            torch.testing.assert_close(tracker.measure(moment)[node][run], expected)
    large = TuckerNetwork((30, 30, 30), 2)
    for tracker in (norms(), effective_ranks()):
        with pytest.raises(ValueError, match=r"TuckerNetwork, .* no tree.*27,000 entries, expected at most 16,3"):
            tracker.describe(large)
    with pytest.raises(ValueError, match="tree has 4 modes; the network has 3"):
        effective_ranks(tree=htf.DimensionTree.balanced(4)).describe(net)


class Plain(TuckerNetwork):
    """Without anything that is optional."""

    component_kinds = ()
    component_groups = Factorization.component_groups
    component_rates = Factorization.component_rates
    unbalancedness = Factorization.unbalancedness


class TestWhatIsNotThereIsRefused:
    @pytest.mark.parametrize(
        ("tracker", "message"),
        [
            (
                singular_values(),
                "tracked for MatrixFactorization; the network is a TuckerNetwork, whose comp",
            ),
            (component_norms(), "tracked for CPNetwork; the network is a TuckerNetwork, .* by local_component_norms"),
            (local_component_norms(nodes=[3]), "nodes is given; the components of a TuckerNetwork are not at nodes"),
        ],
    )
    def test_trackers_of_other_components(self, tracker, message):
        with pytest.raises(TypeError, match=message):
            fit(network(), planted(), steps=5, track=tracker)

    @pytest.mark.parametrize(
        ("tracker", "message"),
        [
            (local_component_norms(), "the network is a Plain, whose components are recorded by none of the trackers"),
            (unbalancedness(), "the network is a Plain, which has no unbalancedness"),
        ],
    )
    def test_trackers_of_what_a_subclass_does_not_provide(self, tracker, message):
        net = Plain((5, 4, 6), 2, seed=0)
        assert bool(fit(net, planted(), steps=5, track=norms()).loss.isfinite().all())
        with pytest.raises(TypeError, match=message):
            fit(net, planted(), steps=5, track=tracker)

    def test_end_matrices_and_rates(self):
        for read in (network().singular_values, lambda: network().end_gradient(torch.sum)):
            with pytest.raises(TypeError, match="the network is a TuckerNetwork, which has no end matrices"):
                read()
        with pytest.raises(TypeError, match="the network is a Plain, which has no components whose rates are known"):
            component_rates(Plain((5, 4, 6), 2))
        with pytest.raises(TypeError, match="end_gradient is of end matrices; the network is a TuckerNetwork"):
            component_rates(network(), torch.zeros(2, 5, 4))
        with pytest.raises(ValueError, match="p holds 1; a TuckerNetwork has the Frobenius norm only"):
            norms((1, 2)).describe(network())

    @pytest.mark.parametrize("run", [0, 1])
    def test_trees(self, run):
        refused = "x is a TuckerNetwork; expected an HTTensor, a CPTensor, an HTNetwork or a CPNetwork"
        for reg in (htf.regularizers.TreeEntropy(0.1), htf.regularizers.TreeLogDet(0.1)):
            with pytest.raises(TypeError, match=refused):
                reg(network())
        with pytest.raises(TypeError, match=refused):
            htf.ranks.spectra(network(), run)
        with pytest.raises(TypeError, match="the network is a TuckerNetwork, which has no tree"):
            network().node_matrices(run)

    def test_inputs(self):
        net, other = network(), htf.nn.CPNetwork((5, 4, 6), 2, seed=0)
        with pytest.raises(TypeError, match="inputs is a Plan; expected a Tensor or a plan of this network"):
            net(other.plan(torch.zeros(1, 3, dtype=torch.int64)))
        with pytest.raises(IndexError, match="indices of mode 1 range from 0 to 4; its dimension is 4"):
            net(torch.tensor([[0, 0, 0], [0, 4, 0]]))
        with pytest.raises(ValueError, match="indices has 2 columns; the network has order 3"):
            net.plan(torch.zeros(5, 2, dtype=torch.int64))
        with pytest.raises(IndexError, match="run is 2; the network has runs 0 to 1"):
            net.parameters_for(2)
        with pytest.raises(ValueError, match=r"problem has shape \(5, 4, 7\); the network has dims \(5, 4, 6\)"):
            fit(net, planted(shape=(5, 4, 7)), steps=5)

    def test_subclasses_that_do_not_keep_to_the_interface(self):
        class Transposed(TuckerNetwork):
            def entries(self, plan):
                return super().entries(plan).T

        class Shared(TuckerNetwork):
            def start_run(self, run, init, generator):
                self.core.data = torch.ones(3, 3, 3, dtype=DOUBLE)

        class Renamed(TuckerNetwork):
            def component_groups(self):
                return {"core": ComponentGroup(order=2, counts=(3,), modes=(0, 1, 2))}

        settings = {"std": 0.3, "seed": 0, "runs": 1}
        # Compared with targets (90, 1), outputs (1, 90) would broadcast.
        with pytest.raises(ValueError, match=r"Transposed gave outputs of shape \(1, 90\); expected \(batch, 1\)"):
            fit(Transposed((5, 4, 6), 3, **settings), planted(), steps=5)
        with pytest.raises(ValueError, match=r"shape \(3, 3, 3\); expected the 1 runs as its first .* Shared's"):
            Shared((5, 4, 6), 3, **settings).spread(torch.ones(1))
        with pytest.raises(ValueError, match=r"component_rates of Renamed gave \['mode 0', .*has \['core'\]"):
            fit(Renamed((5, 4, 6), 3, **settings), planted(), steps=5, track=local_component_norms())

    def test_constructors(self):
        with pytest.raises(TypeError, match=r"abstract .* forms"):
            type("Half", (Factorization,), {"entries": None})((2, 3))
        with pytest.raises(TypeError, match="dims is 3; expected the dimension of each mode"):
            TuckerNetwork(3, 2)
        with pytest.raises(ValueError, match=r"dims\[1\] is 0; expected at least 1"):
            TuckerNetwork((2, 0, 3), 2)
        with pytest.raises(ValueError, match="runs is 0; expected at least 1"):
            network(runs=0)
        with pytest.raises(ValueError, match="seed has 3 values; the network has 2 runs"):
            network(seed=[0, 1, 2])
