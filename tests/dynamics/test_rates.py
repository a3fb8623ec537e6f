"""Measured rates under gradient descent from balanced starts, against theory without a free constant."""

import math

import pytest
import torch
from dense import dense_cp
from dynamics_cases import DOUBLE, dense
from dynamics_descent import DenseLoss, descend

import htf
from htf.dynamics import compare_rates, component_norms, local_component_norms, singular_values
from htf.training.history import History


def randn(*shape, seed):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def matrix_case(depth, scale):
    network = htf.nn.MatrixFactorization((4, 3), depth, init=htf.nn.init.balanced(scale), seed=0, dtype=DOUBLE)
    return network, randn(4, 1, seed=1) @ randn(1, 3, seed=2), singular_values()


def cp_case(order, scale):
    dims = (3, 2, 3, 2, 2)[:order]
    network = htf.nn.CPNetwork(dims, 3, init=htf.nn.init.balanced(scale), seed=0, dtype=DOUBLE)
    return network, dense_cp([randn(dim, 1, seed=mode + 1) for mode, dim in enumerate(dims)]), component_norms()


def ht_case(order, scale):
    tree = {
        3: htf.DimensionTree.balanced(3),
        4: htf.DimensionTree.from_nested(((0, 1, 2), 3)),
        5: htf.DimensionTree.from_nested(((0, 1, 2, 3), 4)),
    }[order]
    dims = (3, 2, 3, 2, 2)[: tree.order]
    network = htf.nn.HTNetwork(tree, dims, 3, init=htf.nn.init.balanced(scale), seed=0, dtype=DOUBLE)
    target = dense_cp([randn(dim, 1, seed=mode + 1) for mode, dim in enumerate(dims)]).unsqueeze(-1)
    return network, target, local_component_norms()


CASES = [
    *[(matrix_case, depth) for depth in (2, 3, 4, 5)],
    *[(cp_case, order) for order in (2, 3, 4, 5)],
    *[(ht_case, order) for order in (3, 4, 5)],
]


def descended(case, order, scale, steps, lr, every):
    network, target, tracker = case(order, scale)
    return descend(network, DenseLoss(4 * target / target.norm(), dense), [tracker], steps, lr, every)


@pytest.mark.parametrize(("case", "order"), CASES)
def test_small_components_grow_as_powers_of_their_size(case, order):
    # Balanced vectors of norm 0.1 (matrices: 0.1 per layer), and steps of 0.02 until components are of order one.
    scale = 0.1**order if case is matrix_case else 0.1
    history = descended(case, order, scale, steps=230, lr=0.02, every=3)
    comparison = compare_rates(history)
    found = [each for each in comparison.exponents() if each.order == order]
    assert found
    for each in found:
        assert each.expected_slope == 2 - 2 / order
        assert each.expected_constant == order
        assert each.slope == pytest.approx(each.expected_slope, rel=0.003)
        assert each.constant == pytest.approx(order, rel=0.005)
        assert each.points >= 5
    for group in {each.group for each in found}:
        half, most = comparison.deviation((0.5, 0.9))[group].tolist()
        assert half < 1e-3
        assert most < 5e-3
        count = sum(each.group == group for each in found)
        assert f"{group:<12} {order:>5} {count:>6}" in comparison.table()


@pytest.mark.parametrize(("case", "order"), [(matrix_case, 3), (cp_case, 3), (ht_case, 3), (ht_case, 4)])
def test_deviations_vanish_with_the_step(case, order):
    scale = 0.2**order if case is matrix_case else 0.2
    largest = []
    for lr in (4e-3, 1e-3):
        history = descended(case, order, scale, round(0.24 / lr), lr, every=2)
        records = [each for each in compare_rates(history).groups.values() if len(each)]
        assert records
        # Relative to the largest rate: all components, whether they rise or not.
        relative = [(each.measured - each.predicted).abs() / each.predicted.abs().max() for each in records]
        largest.append(max(float(each.max()) for each in relative))
    assert largest[0] < 5e-3
    assert largest[1] < 0.3 * largest[0]


def test_every_component_of_every_run_is_compared():
    init = htf.nn.init.balanced(0.2)
    network = htf.nn.CPNetwork((3, 2, 3), [2, 4], init=init, seed=0, dtype=DOUBLE)
    target = randn(3, 2, 3, seed=3)
    history = descend(network, DenseLoss(target, dense), [component_norms(10)], 40, 2e-3, every=10)
    records = compare_rates(history).groups["components"]
    # Steps 0, 10, ..., 30 and 40 have a step after them, but for the last.
    assert len(records) == 4 * (2 + 4)
    assert sorted(set(records.step.tolist())) == [0, 10, 20, 30]
    assert {(r, c) for r, c in zip(records.run.tolist(), records.component.tolist(), strict=True)} == {
        *((0, c) for c in range(2)),
        *((1, c) for c in range(4)),
    }
    torch.testing.assert_close(records.measured, records.predicted, rtol=0.01, atol=1e-4)
    middle = (records.step == 10) & (records.run == 1) & (records.component == 2)
    rows = [(history.steps == step).nonzero().item() for step in (10, 11)]
    values = []
    for row in rows:
        where = history["component_norms"]["components/indices"][row, 1] == 2
        values.append(float(history["component_norms"]["components/values"][row, 1][where]))
    span = float(history.rate[rows[1], 1])
    assert float(records.value[middle]) == pytest.approx(0.75 * values[0] + 0.25 * values[1])
    assert float(records.measured[middle]) == pytest.approx((values[1] - values[0]) / span)


def test_rates_after_a_very_slow_start():
    """Near zero a step is 1e12 times as long, in flow time, as later ones: sums of them would lose the later."""
    problem = htf.datasets.tensor_completion((4,) * 4, "cp", rank=1, observed=200, norm=16)
    network = htf.nn.HTNetwork(
        htf.DimensionTree.balanced(4), 4, 8, init=htf.nn.init.gaussian(std=1e-3), seed=0, dtype=DOUBLE
    )
    history = htf.training.fit(
        network, problem, steps=2500, every=10, lr=1e-2, track=htf.dynamics.local_component_norms(3)
    )
    assert history.time[-1] > 1e13
    found = compare_rates(history).exponents()
    assert len(found) == 3
    for exponent in found:
        assert exponent.slope == pytest.approx(4 / 3, rel=0.01)
        assert exponent.constant == pytest.approx(3, rel=0.02)


# -- histories made by hand ----------------------------------------------------------------------------


def history_of(values, alignments, indices, steps, time=None, order=3, counts=(9,)):
    """One run, one group, of (T, k) records."""
    parts = {"values": values, "alignments": alignments, "indices": indices}
    record = {f"node 4/{name}": torch.as_tensor(part).unsqueeze(1) for name, part in parts.items()}
    steps = torch.tensor(steps)
    time = steps.double() if time is None else torch.tensor(time, dtype=DOUBLE)
    rate = time.diff(prepend=torch.zeros(1, dtype=DOUBLE))
    about = {"top": 2, "groups": {"node 4": {"order": order, "components": list(counts)}}}
    empty = torch.full((len(steps), 1), torch.nan, dtype=DOUBLE)
    tracked = {"local_component_norms": record}
    return History(
        steps,
        time.unsqueeze(1),
        rate.unsqueeze(1),
        empty,
        empty,
        tracked,
        {"trackers": {"local_component_norms": about}},
    )


def test_records_of_changing_order():
    history = history_of(
        values=torch.tensor([[1.0, 0.5], [1.2, 1.1], [3.0, 2.0], [4.0, 3.5]], dtype=DOUBLE),
        alignments=torch.tensor([[1.0, 2.0], [1.5, 0.5], [1.0, 1.0], [2.0, 1.0]], dtype=DOUBLE),
        indices=[[7, 3], [3, 7], [7, 3], [5, 7]],
        steps=[0, 1, 10, 11],
        time=[0.0, 0.5, 3.0, 3.25],
    )
    records = compare_rates(history).groups["node 4"]
    found = {(s, c): k for k, (s, c) in enumerate(zip(records.step.tolist(), records.component.tolist(), strict=True))}
    assert set(found) == {(0, 3), (0, 7), (10, 7)}
    third = found[0, 3]
    assert float(records.value[third]) == pytest.approx(0.5 + 0.7 / 4)
    assert float(records.measured[third]) == pytest.approx(0.7 / 0.5)
    assert float(records.predicted[third]) == pytest.approx(3 * 2.0 * 0.675 ** (4 / 3))
    assert float(records.alignment[third]) == 2.0
    assert float(records.measured[found[10, 7]]) == pytest.approx(0.5 / 0.25)
    # Component 3 has gone from the record at the end; 5 came last; 7 began at 1.
    for name, expected in (("start", (0.5, 1.0, 1.0)), ("end", (0.0, 3.5, 3.5)), ("largest", (4.0,) * 3)):
        ours = [float(getattr(records, name)[found[key]]) for key in ((0, 3), (0, 7), (10, 7))]
        assert ours == pytest.approx(expected), name


def powers(slope=4 / 3, constant=3.0, points=40, growth=1.1):
    """Steps 2k and 2k + 1 of a component whose rate is constant · γ · σ^slope, γ being 2."""
    values, time = [], []
    for k in range(points):
        low = 1e-3 * growth**k
        rate = constant * 2 * low**slope
        values += [low - 1e-4 * low, low + 3e-4 * low]
        time += [float(k), k + 4e-4 * low / rate]
    alignments = torch.full((2 * points, 1), 2.0, dtype=DOUBLE)
    values = torch.tensor(values, dtype=DOUBLE).unsqueeze(1)
    steps = [step for k in range(points) for step in (10 * k, 10 * k + 1)]
    return history_of(values, alignments, [[4]] * (2 * points), steps, time)


def test_exponents_of_a_known_law():
    (found,) = compare_rates(powers(slope=1.1, constant=0.7)).exponents()
    assert (found.group, found.run, found.component, found.order) == ("node 4", 0, 4, 3)
    assert found.slope == pytest.approx(1.1, abs=1e-6)
    assert found.constant == pytest.approx(0.7, rel=1e-5)
    assert found.expected_slope == pytest.approx(4 / 3)
    # From 3 times the start to half of the end: growth by 1.1 a point.
    inside = [k for k in range(40) if 3 * (1 - 1e-4) < 1.1**k < 0.5 * 1.1**39 * (1 + 3e-4)]
    assert found.points == len(inside)


def test_regime():
    comparison = compare_rates(powers())
    assert comparison.exponents(points=100) == []
    (wider,) = comparison.exponents(above=0, below=math.inf)
    assert wider.points == 40
    (one,) = comparison.exponents(above=10, below=0.9)
    assert one.points < wider.points


def test_negative_alignments_and_rates_have_no_logarithm():
    history = powers()
    record = history["local_component_norms"]
    record["node 4/alignments"][2 * 20] = -2.0
    record["node 4/values"][2 * 25 + 1] *= 0.9
    comparison = compare_rates(history)
    (found,) = comparison.exponents(above=0, below=math.inf)
    assert found.points == 38
    assert found.slope == pytest.approx(4 / 3, abs=1e-5)
    half, most = comparison.deviation((0.5, 1.0), above=0, below=math.inf)["node 4"].tolist()
    assert half < 1e-5
    assert most > 1


def test_deviation_is_relative():
    deviation = compare_rates(powers(constant=3.3)).deviation((0.0, 0.5, 1.0))["node 4"]
    torch.testing.assert_close(deviation, torch.full((3,), 0.1, dtype=DOUBLE), rtol=1e-4, atol=0)


def test_components_that_do_not_rise_have_no_exponent():
    history = powers()
    values = history["local_component_norms"]["node 4/values"]
    wide = {
        "node 4/values": torch.cat([values, torch.full_like(values, 1.0)], 2),
        "node 4/indices": torch.tensor([4, 6]).expand(len(values), 1, 2),
        "node 4/alignments": torch.full((len(values), 1, 2), 2.0, dtype=DOUBLE),
    }
    history = History(
        history.steps,
        history.time,
        history.rate,
        history.loss,
        history.test_error,
        {"local_component_norms": wide},
        history.settings,
    )
    comparison = compare_rates(history)
    assert comparison.exponents() == []
    assert [each.component for each in comparison.exponents(share=0.01)] == [4]
    assert bool(comparison.deviation()["node 4"].isnan().all())
    assert "no component was recorded often enough" in comparison.table()


def test_runs_that_stand_still_have_no_rate():
    history = history_of(torch.ones(2, 1, dtype=DOUBLE), torch.ones(2, 1, dtype=DOUBLE), [[0]] * 2, [0, 1], [1.0, 1.0])
    comparison = compare_rates(history)
    assert len(comparison.groups["node 4"]) == 0
    assert comparison.exponents() == []
    assert "no component" in comparison.table()


def test_components_that_stay_at_zero():
    history = history_of(torch.zeros(2, 1, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE), [[0]] * 2, [0, 1])
    records = compare_rates(history).groups["node 4"]
    assert (float(records.measured), float(records.predicted)) == (0, 0)
    assert not bool(records.rising().any())


class TestErrors:
    def test_nothing_tracked(self):
        empty = torch.zeros(2, 1, dtype=DOUBLE)
        for tracked in ({}, {"norms": {"schatten 2": empty}}):
            history = History(
                torch.tensor([0, 1]), empty, empty, empty, empty, tracked, {"trackers": {n: {} for n in tracked}}
            )
            with pytest.raises(ValueError, match="history has no record of components; track singular_values"):
                compare_rates(history)

    def test_which_tracker(self):
        history = powers()
        record, about = history["local_component_norms"], history.about("local_component_norms")
        names = ("local_component_norms", "component_norms")
        tracked, settings = dict.fromkeys(names, record), {"trackers": dict.fromkeys(names, about)}
        both = History(history.steps, history.time, history.rate, history.loss, history.test_error, tracked, settings)
        with pytest.raises(
            ValueError, match="several component trackers, local_component_norms, component_norms; name"
        ):
            compare_rates(both)
        assert compare_rates(both, "component_norms").tracker == "component_norms"
        with pytest.raises(ValueError, match="tracker is 'loss'; history has the component trackers local_component"):
            compare_rates(both, "loss")

    def test_no_consecutive_steps(self):
        ones = torch.ones(2, 1, dtype=DOUBLE)
        with pytest.raises(ValueError, match="history has no two consecutive steps"):
            compare_rates(history_of(ones, ones, [[0]] * 2, [0, 2]))

    def test_no_flow_time(self):
        ones = torch.ones(3, 1, dtype=DOUBLE)
        with pytest.raises(ValueError, match=r"history\.rate is NaN: its optimizer does not step along the gradient"):
            compare_rates(history_of(ones, ones, [[0]] * 3, [0, 1, 2], [0.0, math.nan, math.nan]))
