"""Fits of factorizations to problems: what they find, record, and survive."""

import csv
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_cases import (
    NETWORKS,
    Consecutive,
    FirstParameter,
    cp_net,
    matrix_net,
    parameters,
    problem,
)

import htf
from htf.nn.init import gaussian
from htf.training import GroupRMSprop, History, LossBelow, NoProgress, Tracker, fit

# -- values ---------------------------------------------------------------------------------------------------------


@NETWORKS
def test_steps_are_gradient_descent_on_the_mean_square_error(make_net, make_problem):
    data, net, reference = make_problem(), make_net(dtype=torch.float64), make_net(dtype=torch.float64)
    history = fit(net, data, optimizer="sgd", lr=0.05, steps=7, every=1)
    expected = []
    for _ in range(7):
        loss = (reference(data.indices) - data.values[:, None]).square().mean(0)
        expected.append(loss.detach())
        gradients = torch.autograd.grad(loss.sum(), list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
    torch.testing.assert_close(parameters(net), parameters(reference))
    torch.testing.assert_close(history.loss[:-1], torch.stack(expected))
    torch.testing.assert_close(history.time, 0.05 * torch.arange(8.0, dtype=torch.float64)[:, None].expand(-1, 2))


@NETWORKS
def test_group_rmsprop_divides_each_runs_step_by_the_size_of_its_whole_gradient(make_net, make_problem):
    data, net = make_problem(), make_net(dtype=torch.float64)
    history = fit(net, data, optimizer="group_rmsprop", lr=0.02, steps=5, every=1)
    for run in range(net.runs):
        alone = make_net(dtype=torch.float64)
        # Of one run: the others' parameters must not matter, so they are left where they are.
        mean_square, times = 0.0, [0.0]
        for step in range(1, 6):
            loss = (alone(data.indices)[:, run] - data.values).square().mean()
            gradients = torch.autograd.grad(loss, list(alone.parameters()))
            square = sum(float(g.square().sum()) for g in gradients)
            mean_square = 0.99 * mean_square + 0.01 * square
            rate = 0.02 / (np.sqrt(mean_square / (1 - 0.99**step)) + 1e-20)
            times.append(times[-1] + rate)
            with torch.no_grad():
                for parameter, gradient in zip(alone.parameters(), gradients, strict=True):
                    parameter -= rate * gradient
        torch.testing.assert_close(history.time[:, run], torch.tensor(times, dtype=torch.float64))
        torch.testing.assert_close(net(data.indices)[:, run], alone(data.indices)[:, run])


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("l2", lambda x, y: torch.nn.functional.mse_loss(x, y)),
        ("l1", lambda x, y: torch.nn.functional.l1_loss(x, y)),
        ("huber", lambda x, y: torch.nn.functional.smooth_l1_loss(x, y)),
        (htf.training.Loss("huber", 0.3), lambda x, y: torch.nn.functional.smooth_l1_loss(x, y, beta=0.3)),
    ],
)
def test_losses_and_their_gradients_are_those_of_torch(loss, reference):
    data, net = problem(), matrix_net(dtype=torch.float64, init=gaussian(std=0.7))
    history = fit(net, data, loss=loss, optimizer="sgd", lr=1.0, steps=1)
    other = matrix_net(dtype=torch.float64, init=gaussian(std=0.7))
    values = torch.stack([reference(column, data.values) for column in other(data.indices).T])
    values.sum().backward()
    torch.testing.assert_close(history.loss[0], values.detach())
    moved = torch.cat([(p - p.grad).detach().flatten() for p in other.parameters()])
    torch.testing.assert_close(parameters(net), moved)


def test_settings_of_group_rmsprop_by_a_partial():
    history = fit(matrix_net(), problem(), optimizer=functools.partial(GroupRMSprop, alpha=0.5), steps=3, every=1)
    assert history.settings["optimizer"] == {"name": "GroupRMSprop", "lr": 0.01, "alpha": 0.5, "eps": 1e-20}


@pytest.mark.parametrize(
    "optimizer", ["adam", "adamw", "rmsprop", functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)]
)
def test_torchs_optimizers_treat_runs_independently(optimizer):
    data = problem()
    both, one = matrix_net(runs=2, seed=[4, 5]), matrix_net(runs=1, seed=[5])
    together = fit(both, data, optimizer=optimizer, steps=20, every=10)
    alone = fit(one, data, optimizer=optimizer, steps=20, every=10)
    torch.testing.assert_close(together.loss[:, 1:], alone.loss, rtol=1e-4, atol=0)
    assert together.time[1:].isnan().all()


def test_a_planted_matrix_is_found_from_half_of_its_entries():
    data, net = problem(shape=(12, 12), observed=100, norm=12), matrix_net(dims=(12, 12), init=gaussian(std=1e-3))
    history = fit(net, data, steps=2000)
    assert (history.loss[-1] < 1e-3).all()
    assert (history.test_error[-1] < 1e-2).all()
    torch.testing.assert_close(
        history.test_error[-1], data.test_error(net(data.test_indices)).double(), rtol=1e-4, atol=1e-6
    )


def test_a_planted_matrix_is_found_from_measurements():
    data = htf.datasets.tensor_sensing((8, 8), "matrix", rank=1, measurements=60, norm=8, seed=1)
    net = matrix_net(dims=(8, 8), init=gaussian(std=1e-3))
    history = fit(net, data, steps=3000)
    assert (history.test_error[-1] < 1e-2).all()
    errors = torch.stack([data.reconstruction_error(net.to_tensor(run).detach()) for run in range(2)])
    torch.testing.assert_close(history.test_error[-1], errors, rtol=1e-4, atol=0)


def test_inputs_and_targets_of_ones_own_with_a_column_per_run():
    data = problem()
    targets = torch.stack([data.values, 2 * data.values], 1)
    history = fit(net := matrix_net(), (data.indices, targets), steps=3000)
    assert (history.loss[-1] < 1e-3).all()
    outputs = net(data.indices).detach().double()
    torch.testing.assert_close(outputs, targets, rtol=0, atol=0.1)
    assert history.test_error.isnan().all()


# -- the record -----------------------------------------------------------------------------------------------------


def test_moments_are_recorded_at_the_cadence_asked_for_and_at_the_end():
    history = fit(matrix_net(), problem(), steps=23, every=10, track=FirstParameter())
    assert history.steps.tolist() == [0, 10, 20, 23]
    history = fit(matrix_net(), problem(), steps=5, every=2, track=Consecutive())
    assert history.steps.tolist() == [0, 1, 2, 3, 4, 5]
    history = fit(matrix_net(), problem(), steps=23, every=10, track=[FirstParameter(), Consecutive()])
    assert history.steps.tolist() == [0, 1, 10, 11, 20, 21, 23]
    assert history["first_parameter"]["value"].shape == (7, 2, 6)
    assert history.stopped == "steps"
    with pytest.raises(KeyError, match="'norms' was not tracked; tracked are first_parameter, consecutive"):
        history["norms"]


def test_trackers_see_parameters_and_gradients_before_the_step():
    class Gradient(Tracker):
        name = "gradient"

        def describe(self, network):
            return {"note": "all"}

        def measure(self, moment):
            (first, *_) = moment.network.parameters()
            end = moment.end_gradient()
            return {"first": first.grad.clone(), "value": first.detach().clone(), "end": end}

    data, net = problem(), matrix_net(dtype=torch.float64)
    history = fit(net, data, optimizer="sgd", lr=0.1, steps=2, every=1, track=Gradient())
    record = history["gradient"]
    torch.testing.assert_close(record["value"][1], record["value"][0] - 0.1 * record["first"][0])
    assert history.about("gradient") == {"note": "all"}
    # The gradient of the end matrix, by hand: 2/m of the residuals at the observed entries.
    start = matrix_net(dtype=torch.float64).end_matrices().detach()
    residuals = torch.zeros_like(start)
    rows, columns = data.indices.T
    residuals[:, rows, columns] = 2 / len(data.values) * (start[:, rows, columns] - data.values)
    torch.testing.assert_close(record["end"][0], residuals)


def test_a_run_folder_holds_plain_files(tmp_path):
    out = tmp_path / "run"
    history = fit(matrix_net(), problem(), steps=20, every=10, out=out, track=FirstParameter())
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "checkpoint.safetensors",
        "claim.json",
        "history.csv",
        "history.safetensors",
        "settings.json",
    ]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["problem"]["observed"] == 30
    assert settings["optimizer"]["name"] == "GroupRMSprop"
    assert settings["network"]["network"] == "MatrixFactorization"
    assert settings["made_by"]["versions"]["torch"] == torch.__version__
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert float(rows[-1]["loss"]) == float(history.loss[-1, 1])
    again = History.load(out)
    assert again.settings == history.settings
    for name, tensor in history.tensors().items():
        torch.testing.assert_close(again.tensors()[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_settings_that_are_no_number_are_read_back(tmp_path):
    # They differ from themselves, not from what the other file holds.
    history = fit(matrix_net(), problem(), steps=2)
    history.settings["limit"] = float("nan")
    history.save(tmp_path)
    assert np.isnan(History.load(tmp_path).settings["limit"])


def test_a_damaged_record_is_named(tmp_path):
    fit(matrix_net(), problem(), steps=2, out=tmp_path)
    path = tmp_path / "history.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"history\.safetensors is not a checkpoint of this library, or is cut short"):
        History.load(tmp_path)


# -- stopping -------------------------------------------------------------------------------------------------------


def test_fits_stop_by_rule():
    history = fit(matrix_net(), problem(), steps=5000, every=10, stop=LossBelow(1e-4, moments=3))
    assert (history.loss[-3:] < 1e-4).all()
    assert not (history.loss[-4] < 1e-4).all()
    assert "below 0.0001 at 3 recorded moments" in history.stopped
    history = fit(matrix_net(), problem(), steps=100_000, every=10, stop=[NoProgress(steps=200, share=0.5)])
    assert history.steps[-1] < 100_000
    before = history.steps <= history.steps[-1] - 200
    assert (history.loss.amin(0) > 0.5 * history.loss[before].amin(0)).all()
    history = fit(
        matrix_net(), problem(), steps=100, every=10, stop=lambda steps, losses, seconds: "enough" * (seconds > 0)
    )
    assert history.stopped == "enough"


def test_a_fit_that_diverges_keeps_the_last_good_state(tmp_path):
    net = matrix_net(init=gaussian(std=1.0))
    with pytest.warns(RuntimeWarning, match=r"diverged: the loss of run \d was (nan|inf) at step \d+; the parameters"):
        history = fit(net, problem(), optimizer="sgd", lr=5.0, steps=1000, every=1, out=tmp_path)
    assert history.loss.isfinite().all()
    assert parameters(net).isfinite().all()
    data = problem()
    now = (net(data.indices) - data.values[:, None]).square().mean(0).detach().double()
    torch.testing.assert_close(now, history.loss[-1], rtol=1e-4, atol=0)
    again = matrix_net(init=gaussian(std=1.0))
    assert fit(again, problem(), optimizer="sgd", lr=5.0, steps=1000, every=1, out=tmp_path).stopped == history.stopped
    assert torch.equal(parameters(again), parameters(net))


def test_rules_are_asked_at_the_cadence_whatever_else_is_recorded():
    settings = {"steps": 5000, "every": 10, "stop": LossBelow(1e-4, moments=2)}
    plain = fit(matrix_net(), problem(), **settings)
    tracked = fit(matrix_net(), problem(), **settings, track=Consecutive())
    assert tracked.steps[-1] == plain.steps[-1]
    (entry,) = problem().indices[:1].tolist()
    alone = (torch.tensor([entry]), torch.tensor([0.5]))
    net = matrix_net(runs=1, init=gaussian(std=0.0))
    # A loss of exactly zero does not fall either.
    history = fit(net, (alone[0], 0 * alone[1]), steps=20_000, every=10, stop=NoProgress(50))
    assert history.loss[-1] == 0
    assert history.steps[-1] < 20_000


def test_a_fit_that_a_rule_stopped_goes_on_with_another(tmp_path):
    whole = fit(expected := matrix_net(), problem(), steps=400, every=10)
    first = fit(matrix_net(), problem(), steps=400, every=10, stop=LossBelow(0.5), out=tmp_path)
    assert first.steps[-1] < 400
    assert first.settings["stop"] == ["LossBelow(value=0.5, moments=1)"]
    again = fit(matrix_net(), problem(), steps=400, every=10, stop=LossBelow(0.5), out=tmp_path)
    assert (again.stopped, again.steps.tolist()) == (first.stopped, first.steps.tolist())
    history = fit(net := matrix_net(), problem(), steps=400, every=10, out=tmp_path)
    assert torch.equal(parameters(net), parameters(expected))
    assert torch.equal(history.loss, whole.loss)


def test_a_loss_beyond_the_range_at_the_start_is_refused():
    with pytest.raises(ValueError, match="the loss of run 0 is inf at the start"):
        fit(matrix_net(), (torch.tensor([[0, 0]]), torch.tensor([1e30])), steps=5)


def test_a_test_error_that_is_not_finite_is_named_once():
    data = problem()
    far = replace(data, test_values=0 * data.test_values)
    with pytest.warns(RuntimeWarning, match="the test error of run 0 is inf at step 0") as warned:
        fit(matrix_net(), far, steps=5, every=1)
    assert len(warned) == 1


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [gaussian(std=0.0), gaussian(std=1e-30)])
def test_a_start_without_gradient_is_refused(init):
    with pytest.raises(ValueError, match="init: the gradient of run 0 vanishes at the start"):
        fit(matrix_net(init=init), problem(), steps=5)


def test_a_run_that_already_fits_may_have_no_gradient():
    data = problem()
    history = fit(net := matrix_net(init=gaussian(std=0.0)), (data.indices, 0 * data.values), steps=5)
    assert (history.loss == 0).all()
    assert (parameters(net) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "l3"}, ValueError, "loss is 'l3'; known are l2, l1, huber"),
        ({"optimizer": "adamm"}, ValueError, "optimizer is 'adamm'; known are group_rmsprop, sgd"),
        ({"optimizer": 3}, TypeError, "optimizer is a int; expected a name or a callable"),
        ({"optimizer": lambda parameters, lr: None}, TypeError, "optimizer returned a NoneType"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "optimizer is LBFGS, which evaluates the loss itself"),
        ({"lr": 0}, ValueError, "lr is 0; expected above 0"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"every": 0}, ValueError, "every is 0"),
        ({"track": [FirstParameter(), FirstParameter()]}, ValueError, "track holds first_parameter twice"),
        ({"track": FirstParameter}, TypeError, "expected trackers, such as"),
        ({"problem": problem(shape=(7, 6))}, ValueError, r"problem has shape \(7, 6\); the network has dims \(6, 7\)"),
        ({"problem": 3}, TypeError, "problem is a int; expected a problem of htf.datasets or a pair"),
        (
            {"problem": (torch.tensor([[0, 1]]), torch.tensor([float("nan")]))},
            ValueError,
            "targets hold values that are NaN",
        ),
        ({"problem": (torch.tensor([[0, 1]]), torch.tensor([1.0, 2.0]))}, ValueError, r"targets have shape \(2,\)"),
        ({"problem": (torch.tensor([[0, 9]]), torch.tensor([1.0]))}, IndexError, "9"),
        ({"problem": (torch.tensor([[0, 1]]), torch.tensor([1e300], dtype=torch.float64))}, ValueError, "range"),
        ({"problem": (torch.zeros(0, 2).long(), torch.zeros(0))}, ValueError, "problem has no observations"),
        ({"network": matrix_net().requires_grad_(False)}, ValueError, "network has a frozen parameter, weights.0"),
        ({"network": cp_net(outputs=2)}, ValueError, "network has 2 outputs; a fit takes one"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    given = {"network": matrix_net(), "problem": problem()} | arguments
    with pytest.raises(error, match=message):
        fit(given.pop("network"), given.pop("problem"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: htf.training.Loss("huber", 0), "threshold is 0"),
        (lambda: LossBelow(0), "value is 0"),
        (lambda: LossBelow(1, 0), "moments is 0"),
        (lambda: NoProgress(0), "steps is 0"),
        (lambda: NoProgress(5, 1), "share is 1"),
        (lambda: htf.training.TimeLimit(0), "seconds is 0"),
        (lambda: GroupRMSprop(matrix_net(), lr=0), "lr is 0"),
        (lambda: GroupRMSprop(matrix_net(), alpha=1), "alpha is 1"),
        (lambda: GroupRMSprop(matrix_net(), eps=-1), "eps is -1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_group_rmsprop_in_a_loop_of_ones_own():
    data, net = problem(), matrix_net()
    optimizer = GroupRMSprop(net, lr=0.02)
    with pytest.raises(RuntimeError, match="has no gradient; call backward first"):
        optimizer.step()
    for _ in range(400):
        optimizer.zero_grad()
        loss = (net(data.indices) - data.values[:, None].float()).square().mean(0)
        loss.sum().backward()
        optimizer.step()
    assert (loss < 1e-2).all()
    with pytest.raises(ValueError, match="closure is given"):
        optimizer.step(lambda: loss)


def test_a_resumed_history_has_the_order_of_one_left_alone(tmp_path):
    for steps in (20, 40):
        resumed = fit(matrix_net(), problem(), steps=steps, track=htf.dynamics.singular_values(2), out=tmp_path)
    alone = fit(matrix_net(), problem(), steps=40, track=htf.dynamics.singular_values(2))
    assert list(resumed.tensors()) == list(alone.tensors())


def test_targets_of_one_column_are_those_of_all_runs():
    observed = problem()
    one, column = (
        fit(matrix_net(runs=2), (observed.indices, values), steps=3, every=1)
        for values in (observed.values, observed.values[:, None])
    )
    assert torch.equal(one.loss, column.loss)
