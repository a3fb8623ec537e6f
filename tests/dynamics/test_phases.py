import math

import pytest
import torch
from dynamics_cases import DOUBLE, dense
from dynamics_descent import DenseLoss, descend

import htf
from htf.dynamics import phases, singular_values
from htf.training.history import History

STEPS = range(0, 1001, 10)


def ramp(step, begin, end, size, low=1e-4):
    """From `low` up to `size`, linearly between two steps."""
    return low + (size - low) * min(max((step - begin) / (end - begin), 0), 1)


def history_of(curves, top, steps=STEPS, counts=None):
    """A history of runs, each a list of functions of the step, of which the `top` largest are recorded."""
    rows = {"values": [], "indices": [], "alignments": []}
    for step in steps:
        for name in rows:
            rows[name].append([])
        for run in curves:
            values = [curve(step) for curve in run]
            order = sorted(range(len(run)), key=lambda c: -values[c])[:top]
            padding = top - len(order)
            rows["values"][-1].append([values[c] for c in order] + [0.0] * padding)
            rows["indices"][-1].append(order + [-1] * padding)
            rows["alignments"][-1].append([1.0] * top)
    record = {f"components/{name}": torch.tensor(row) for name, row in rows.items()}
    counts = [len(run) for run in curves] if counts is None else counts
    about = {"top": top, "groups": {"components": {"order": 3, "components": counts}}}
    empty = torch.full((len(steps), len(curves)), torch.nan, dtype=DOUBLE)
    settings = {"trackers": {"component_norms": about}}
    return History(torch.tensor(list(steps)), empty, empty, empty, empty, {"component_norms": record}, settings)


def test_one_after_another():
    curves = [
        lambda step: ramp(step, 500, 600, 2.0),
        lambda step: 3e-4,
        lambda step: ramp(step, 100, 300, 5.0),
        lambda step: ramp(step, 700, 900, 0.4),
        lambda step: 1e-5,
    ]
    (found,) = phases(history_of([curves], top=4))
    assert (found.group, found.run, found.components, found.count) == ("components", 0, (2, 0, 3), 3)
    assert found.sizes.tolist() == pytest.approx([5.0, 2.0, 0.4])
    assert found.rest == pytest.approx(3e-4 / 5)
    expected = [[120, 200, 280], [510, 550, 590], [720, 800, 880]]
    for ours, by_hand in zip(found.steps.tolist(), expected, strict=True):
        # The ramps begin at 1e-4 instead of 0.
        assert ours == pytest.approx(by_hand, abs=0.1)
    assert found.overlap == 0


def test_crossings_lie_between_recorded_steps():
    (found,) = phases(history_of([[lambda step: step / 100]], top=1, steps=[0, 7, 35, 80, 100]))
    assert found.steps[0].tolist() == pytest.approx([10, 50, 90])


def test_components_may_enter_late_and_change_places():
    # The first record of component 2 among the two largest is above all levels: no step before is known.
    late = [lambda step: 1.0, lambda step: 0.5, lambda step: 0.0 if step < 500 else 3.0]
    (found,) = phases(history_of([late], top=2))
    # Component 0 is as large at first as it is at last.
    assert found.components == (2,)
    assert found.steps.tolist() == [[500, 500, 500]]
    assert found.rest == pytest.approx(1 / 3)


def test_together():
    both = [lambda step: ramp(step, 100, 300, 2.0, 0), lambda step: ramp(step, 100, 300, 1.0, 0)]
    (found,) = phases(history_of([both], top=2))
    assert found.overlap == pytest.approx(1)
    half = [lambda step: ramp(step, 100, 300, 2.0, 0), lambda step: ramp(step, 180, 380, 1.0, 0)]
    (found,) = phases(history_of([half], top=2))
    # 120 to 280 and 200 to 360.
    assert found.overlap == pytest.approx(0.5)
    within = [lambda step: ramp(step, 100, 300, 2.0, 0), lambda step: ramp(step, 200, 210, 1.0, 0)]
    assert phases(history_of([within], top=2))[0].overlap == pytest.approx(1)
    jumps = [lambda step: float(step > 205), lambda step: 2.0 * (step > 505), lambda step: ramp(step, 0, 10, 4.0)]
    assert phases(history_of([jumps], top=3))[0].overlap == 0


def test_a_larger_component_may_rise_later():
    swapped = [lambda step: ramp(step, 600, 800, 2.0), lambda step: ramp(step, 100, 300, 1.0)]
    (found,) = phases(history_of([swapped], top=2))
    assert (found.components, found.overlap) == ((0, 1), 0)


def test_each_run_has_its_own():
    one = [lambda step: ramp(step, 100, 300, 2.0)]
    two = [lambda step: 1e-3, lambda step: ramp(step, 100, 300, 1.0), lambda step: ramp(step, 500, 700, 0.04)]
    found = phases(history_of([one, two], top=2))
    assert [(each.run, each.components) for each in found] == [(0, (0,)), (1, (1,))]
    assert [each.rest for each in found] == pytest.approx([0, 0.04])
    assert [each.overlap for each in found] == [0, 0]
    wider = phases(history_of([one, two], top=3), share=0.01)
    assert [each.components for each in wider] == [(0,), (1, 2)]
    assert wider[1].rest == pytest.approx(1e-3)
    assert len(wider[0].sizes) == 1


def test_the_rest_may_be_unknown():
    run = [lambda step: ramp(step, 100, 300, 2.0), lambda step: 1e-3]
    assert math.isnan(phases(history_of([run], top=1))[0].rest)
    assert phases(history_of([run[:1]], top=1))[0].rest == 0


def test_nothing_rises_from_zero():
    (found,) = phases(history_of([[lambda step: 0.0, lambda step: 0.0]], top=2))
    assert (found.components, found.rest, found.overlap) == ((), 0, 0)
    assert found.steps.shape == (0, 3)


@pytest.mark.parametrize("first", [1.0, 0.6])
def test_what_did_not_rise_is_not_counted(first):
    started_large = [lambda step: ramp(step, 100, 300, 1.0, first), lambda step: ramp(step, 100, 300, 0.5)]
    (found,) = phases(history_of([started_large], top=2))
    assert (found.components, found.rest) == ((1,), 1.0)


def test_nothing_rises_in_a_fit_that_has_not_left_its_start():
    problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=2, observed=50, seed=0)
    network = htf.nn.MatrixFactorization((8, 8), depth=3, init=htf.nn.init.balanced(1e-4), seed=0)
    history = htf.training.fit(network, problem, steps=40, lr=1e-6, track=singular_values())
    assert float(history.loss[-1]) > 0.999 * float(history.loss[0])
    (found,) = phases(history)
    assert (found.count, found.steps.shape, found.rest) == (0, (0, 3), 1.0)
    comparison = htf.dynamics.compare_rates(history)
    assert comparison.exponents() == []
    (reason,) = comparison.reasons().values()
    assert "none rose, as the one that grew most ended at 1" in reason
    assert reason in comparison.table()


def test_of_a_descent():
    target = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=DOUBLE))
    network = htf.nn.MatrixFactorization((3, 3), 2, init=htf.nn.init.balanced(1e-4), seed=0, dtype=DOUBLE)
    history = descend(network, DenseLoss(target, dense), [singular_values()], 600, 0.01)
    (found,) = phases(history)
    assert (found.group, found.components) == ("end matrix", (0, 1))
    assert found.sizes.tolist() == pytest.approx([4, 1], rel=0.02)
    assert found.rest < 0.01
    assert found.overlap < 0.1


def test_errors():
    history = history_of([[lambda step: 1.0]], top=1)
    for share in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"share is .*; expected between 0 and 1"):
            phases(history, share=share)
    with pytest.raises(ValueError, match="tracker is 'norms'; history has the component trackers component_norms"):
        phases(history, "norms")
    empty = History(history.steps, history.time, history.rate, history.loss, history.test_error, {}, {"trackers": {}})
    with pytest.raises(ValueError, match="history has no record of components"):
        phases(empty)
