"""The training core: against plain loops, with every objective, optimizer, schedule and rule; and bad input."""

import math
import os
import signal
from functools import partial

import pytest
import torch
from classification_cases import net, same_state, state_of, task
from fit_cases import FirstParameter, ht_net, matrix_net, parameters, problem
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torch.utils.data import Dataset

import htf
from htf.training import ClassifySettings, LossBelow, Training, classify, early_stopping, fit, objectives


def points(samples=60, classes=3, seed=0):
    x = torch.randn(samples, 5, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :classes].argmax(1)


def mlp(outputs=3, dropout=0.2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs))


def square(model, generator):
    """A loss that draws its inputs."""
    x = torch.randn(8, 5, generator=generator)
    return (model(x) - x[:, :3]).square().mean()


class Items(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, k):
        return self.x[k], self.y[k]


# -- against plain loops ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05)),
        (partial(torch.optim.SGD, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05)),
        (torch.optim.Adagrad, lambda p: torch.optim.Adagrad(p, lr=0.05)),
        (lambda p, lr: torch.optim.Adam(p, lr=lr, amsgrad=True), lambda p: torch.optim.Adam(p, 0.05, amsgrad=True)),
    ],
)
@pytest.mark.parametrize(
    ("schedule", "of_torch"),
    [
        ("constant", None),
        (lambda step, steps: 1 - step / steps, lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 - step / 12)),
        ("linear", lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 - step / 12)),
        ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, 12)),
        (partial(lr_scheduler.MultiStepLR, milestones=[3, 7]), lambda o: lr_scheduler.MultiStepLR(o, [3, 7])),
    ],
)
def test_steps_are_those_of_a_plain_loop(optimizer, make, schedule, of_torch):
    x, y = points(samples=10)
    expected = mlp(dropout=0.0).double()
    plain = make(expected.parameters())
    scheduler = of_torch(plain) if of_torch else None
    losses = []
    for _ in range(12):
        plain.zero_grad()
        loss = cross_entropy(expected(x.double()), y)
        loss.backward()
        plain.step()
        losses.append(float(loss.detach()))
        if scheduler:
            scheduler.step()
    # One batch an epoch: the order of samples does not matter.
    model, objective = mlp(dropout=0.0).double(), objectives.classification((x, y), batch_size=10)
    history = Training(model, objective, optimizer=optimizer, lr=0.05, schedule=schedule).run(epochs=12)
    torch.testing.assert_close(parameters(model), parameters(expected), rtol=1e-7, atol=1e-9)
    assert history.loss[:, 0].tolist() == pytest.approx(losses, rel=1e-7)


def test_one_cycle_rises_and_falls_to_zero():
    model, rates = mlp(), []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    Training(model, square, optimizer=Noting, lr=0.5, schedule="one_cycle").run(epochs=20)
    peak = rates.index(max(rates))
    assert max(rates) == 0.5
    assert peak == 5
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 0.02
    assert rates[0] == pytest.approx(0.5 / 6)


def test_entries_are_what_fit_does():
    history = fit(expected := matrix_net(), problem(), steps=30, every=10, track=FirstParameter())
    training = Training(
        model := matrix_net(),
        objectives.entries(problem()),
        optimizer="group_rmsprop",
        lr=1e-2,
        every=10,
        track=FirstParameter(),
    )
    found = training.run(steps=30)
    assert torch.equal(parameters(model), parameters(expected))
    for name, tensor in history.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_classification_is_what_classify_does():
    data = task()
    settings = ClassifySettings(epochs=3, batch_size=8, lr=0.05, weight_decay=1e-3)
    result = classify(expected := net(), data, settings=settings)
    objective = objectives.classification(data.train, data.validation, batch_size=8)
    optimizer = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-3)
    history = Training(model := net(), objective, optimizer=optimizer, lr=0.05).run(epochs=3)
    assert same_state(model, expected)
    assert history["validation"]["accuracy"][:, 0].tolist() == [e.validation_accuracy for e in result.history]
    assert history["train"]["accuracy"][:, 0].tolist() == [e.train_accuracy for e in result.history]
    assert history.steps.tolist() == [3, 6, 9]


def test_runs_of_a_factorization_in_batches_with_trackers():
    x = torch.randint(0, 4, (90, 4), generator=torch.Generator().manual_seed(0))
    y = (x[:, :1] * x[:, 1:2]).float() / 4
    model = ht_net()
    objective = objectives.least_squares(x.split(30), y.expand(-1, 2).split(30), test=([x], [y.expand(-1, 2)]))
    history = Training(model, objective, optimizer="relative_adam", lr=0.3, track=FirstParameter()).run(epochs=15)
    assert history["test"]["loss"].shape == history.loss.shape == (15, 2)
    assert history["first_parameter"]["value"].shape == (15, 2, 6)
    expected = (model(x) - y).square().mean(0).detach().double()
    torch.testing.assert_close(history["test"]["loss"][-1], expected, rtol=1e-5, atol=0)
    assert (history.loss[-1] < history.loss[0]).all()


# -- data ---------------------------------------------------------------------------------------------


def test_data_sets_of_every_kind_train_alike():
    x, y = points()
    parts = (x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:])
    settings = ClassifySettings(epochs=3, batch_size=10, lr=0.1)
    as_items = [Items(*part) for part in parts]
    as_items[0] = Items(parts[0][0], parts[0][1].tolist())
    results, models = [], []
    for data in (parts, as_items, dict(zip(("train", "validation", "test"), parts, strict=True))):
        results.append(classify(model := mlp(), data, settings=settings))
        models.append(model)
    assert same_state(models[0], models[1])
    assert same_state(models[0], models[2])
    assert results[0].test_last == results[1].test_last is not None
    assert results[0].validation_best == results[1].validation_best is not None
    alone = classify(model := mlp(), parts[0], settings=settings)
    assert same_state(model, models[0])
    assert alone.test_last is alone.validation_best is None


def test_ten_classes_of_images_with_adamw_and_one_cycle():
    data = htf.datasets.load("digits").take(400, 100)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = ClassifySettings(epochs=8, batch_size=40, lr=0.02)
    result = classify(model, data, settings=settings, optimizer="adamw", schedule="one_cycle")
    assert result.test_last > 0.85
    assert result.settings["optimizer"]["name"] == "AdamW"
    assert result.settings["schedule"] == "one_cycle"


# -- resuming -----------------------------------------------------------------------------------------


class Interrupting:
    """A rule that sends what Ctrl-C sends after an epoch."""

    def __init__(self, at):
        self.at = at

    def __call__(self, steps, losses, seconds):
        if len(steps) == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return ""


@pytest.mark.parametrize(
    "schedule",
    [
        "constant",
        "one_cycle",
        partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=24),
        partial(lr_scheduler.MultiStepLR, milestones=[7, 13]),
        lr_scheduler.LinearLR,
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", partial(torch.optim.SGD, momentum=0.9)])
def test_an_interrupted_training_goes_on_bit_for_bit(schedule, optimizer, tmp_path):
    x, y = points()

    def training(rules=(), out=None):
        model, objective = mlp(), objectives.classification((x[:40], y[:40]), (x[40:], y[40:]), batch_size=10)
        return model, Training(
            model, objective, optimizer=optimizer, lr=0.02, schedule=schedule, rules=rules, out=out, seed=3
        )

    expected, whole = training()
    history = whole.run(epochs=6)
    with pytest.raises(KeyboardInterrupt):
        training(Interrupting(3), tmp_path)[1].run(epochs=6)
    model, again = training((), tmp_path)
    found = again.run(epochs=6)
    assert same_state(model, expected)
    assert torch.equal(found.loss, history.loss)
    assert torch.equal(found["validation"]["accuracy"], history["validation"]["accuracy"])
    # It is loaded when it is asked for again.
    loaded, third = training((), tmp_path)
    assert torch.equal(third.run(epochs=6).loss, history.loss)
    assert same_state(loaded, expected)
    assert torch.equal(htf.training.History.load(tmp_path).loss, history.loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": mlp(seed=1)}, "began at other parameters"),
        ({"model": mlp(dropout=0.5)}, r"module 2 = 'Dropout\(p=0.2.*; here it is 'Dropout\(p=0.5"),
        ({"objective": objectives.classification(points(seed=1), batch_size=10)}, "was written with train = "),
        ({"objective": objectives.classification(points(), batch_size=20)}, "batch_size = 10; here it is 20"),
        ({"objective": square}, "was written with objective = 'classification'; here it is 'square'"),
        ({"optimizer": "adam"}, "was written with optimizer"),
        ({"lr": 0.5}, "was written with optimizer"),
        ({"schedule": "cosine"}, "was written with schedule = 'constant'; here it is 'cosine'"),
        ({"regularizer": lambda model, x, y, out: out.square().mean()}, "was written with regularizer = None"),
        ({"seed": 1}, "was written with seed = 0; here it is 1"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_kept(change, message, tmp_path):
    arguments = {"model": mlp(), "objective": objectives.classification(points(), batch_size=10)}
    Training(**arguments, out=tmp_path).run(epochs=1)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    arguments = {**arguments, "model": mlp(), **change}
    start = state_of(arguments["model"])
    with pytest.raises(ValueError, match=message):
        Training(**arguments, out=tmp_path).run(epochs=2)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert all(torch.equal(tensor, start[name]) for name, tensor in state_of(arguments["model"]).items())


def test_a_function_of_other_data_is_refused(tmp_path):
    Training(mlp(), objectives.function(square, data=torch.zeros(3)), out=tmp_path).run(epochs=1)
    with pytest.raises(ValueError, match="was written with data_sha256"):
        Training(mlp(), objectives.function(square, data=torch.ones(3)), out=tmp_path).run(epochs=1)


def test_more_epochs_go_on_unless_the_schedule_depends_on_them(tmp_path):
    expected = mlp()
    Training(expected, square).run(epochs=5)
    Training(mlp(), square, out=tmp_path / "a").run(epochs=2)
    Training(model := mlp(), square, out=tmp_path / "a").run(epochs=5)
    assert same_state(model, expected)
    assert len(Training(mlp(), square, out=tmp_path / "a").run(epochs=1).steps) == 5
    Training(mlp(), square, schedule="cosine", out=tmp_path / "b").run(epochs=2)
    with pytest.raises(ValueError, match="was written with steps = 2; here it is 5"):
        Training(mlp(), square, schedule="cosine", out=tmp_path / "b").run(epochs=5)


# -- rules --------------------------------------------------------------------------------------------


def test_early_stopping_waits_for_what_judges():
    x, y = points()
    # Labels of chance: validation does not become better for long.
    noise = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(0))
    objective = objectives.classification((x[:40], y[:40]), (x[40:], noise), batch_size=10)
    history = Training(mlp(), objective, lr=0.02, rules=early_stopping(patience=3)).run(epochs=200)
    found = history["validation"]["accuracy"][:, 0]
    assert history.stopped.startswith("no better value at 3")
    assert len(found) < 200
    assert found[-3:].max() <= found[:-3].max()
    assert all(found[k - 3 : k].max() > found[: k - 3].max() for k in range(4, len(found)))


def test_rules_on_losses_and_on_quantities():
    x, y = points()
    objective = objectives.classification((x[:40], y[:40]), (x[40:], y[40:]), batch_size=10)
    history = Training(mlp(), objective, lr=0.02, rules=[LossBelow(0.5)]).run(epochs=200)
    assert history.loss[-1] < 0.5 <= history.loss[-2]
    rule = early_stopping(patience=2, on="train/accuracy")
    history = Training(mlp(), objective, lr=0.5, rules=rule).run(epochs=300)
    accuracy = history["train"]["accuracy"][:, 0]
    assert "no better train/accuracy" in history.stopped
    assert accuracy[-2:].max() <= accuracy[:-2].max()
    with pytest.raises(ValueError, match="a rule is on 'test/f1', which is not recorded; recorded are loss, train/acc"):
        Training(mlp(), objective, rules=early_stopping(on="test/f1")).run(epochs=2)
    with pytest.raises(TypeError, match="returned a bool; expected a reason to stop, or ''"):
        Training(mlp(), objective, rules=lambda steps, losses, seconds: True).run(epochs=2)


# -- what is not finite -------------------------------------------------------------------------------


def failing(at, value):
    """An objective whose loss is not finite from a call on."""
    calls = []

    def loss(model, generator):
        calls.append(0)
        return square(model, generator) + (value if len(calls) >= at else 0.0)

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_kept(value, tmp_path):
    training = Training(mlp(), failing(4, value), out=tmp_path)
    with pytest.raises(FloatingPointError, match=f"the loss is {value:g} .* of epoch 4; the last checkpoint is kept"):
        training.run(epochs=9, save_every=0.0)
    assert training.step == 3
    assert parameters(training.model).isfinite().all()


def test_runs_that_are_not_finite_are_named_after_the_epoch(tmp_path):
    calls = []

    def loss(model, generator):
        calls.append(0)
        return model(torch.zeros(1, 4, dtype=torch.long))[0] * (math.nan if len(calls) == 5 else 1.0)

    objective = objectives.function(loss, batches=3)
    training = Training(ht_net(), objective, out=tmp_path)
    with pytest.raises(FloatingPointError, match="the loss of run 0 is nan in epoch 2; the last checkpoint is kept"):
        training.run(epochs=9, save_every=0.0)
    fresh = Training(ht_net(), objective, out=tmp_path)
    fresh.begin(epochs=9)
    assert fresh.step == 4
    assert parameters(fresh.model).isfinite().all()


# -- bad input ----------------------------------------------------------------------------------------


def of_shape(*shape):
    def loss(model, generator):
        return model(torch.zeros(2, 5)).sum() * torch.ones(shape)

    return loss


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "model is a int; expected a torch.nn.Module"),
        ({"objective": 3}, TypeError, "objective is a int; expected one of objectives, or a callable"),
        ({"objective": lambda model, generator: 1.0}, TypeError, "objective returned a float; expected a tensor"),
        (
            {"objective": of_shape(64, 2)},
            ValueError,
            r"losses of shape \(64, 2\); expected \(1,\), a loss",
        ),
        (
            {"objective": lambda model, generator: torch.zeros(())},
            ValueError,
            "do not depend on the model",
        ),
        ({"objective": objectives.entries(problem())}, TypeError, "model is a Sequential; entries are those of a CP"),
        ({"optimizer": "adamm"}, ValueError, "optimizer is 'adamm'; known are group_rmsprop, sgd"),
        ({"optimizer": 3}, TypeError, "optimizer is a int; expected a name or a callable"),
        (
            {"optimizer": "relative_adam"},
            TypeError,
            "relative_adam, which takes a factorization; model is a",
        ),
        ({"optimizer": htf.training.GroupRMSprop}, TypeError, "GroupRMSprop, which takes a factorization"),
        ({"lr": -1.0}, ValueError, "lr is -1.0; expected above 0"),
        ({"lr": math.inf}, ValueError, "lr is inf; expected a finite number"),
        ({"schedule": "onecycle"}, ValueError, "schedule is 'onecycle'; known are constant, cosine, linear, one_cycle"),
        ({"schedule": 3}, TypeError, "schedule is a int; expected a name, a function"),
        ({"schedule": dict}, TypeError, "schedule is dict; expected a name, a function"),
        ({"schedule": lambda step, steps: None}, TypeError, "schedule returned a NoneType; expected a number"),
        ({"schedule": lambda step, steps: -1.0}, ValueError, "schedule returned -1.0 for step 0 of 2"),
        ({"schedule": lr_scheduler.ReduceLROnPlateau}, TypeError, "ReduceLROnPlateau; expected a torch scheduler"),
        ({"rules": 3}, TypeError, "rules is a int; expected stopping rules"),
        ({"rules": ["early"]}, TypeError, "rules holds 'early'; expected callables"),
        ({"track": FirstParameter()}, TypeError, "model is a Sequential; they read factorizations"),
        ({"regularizer": lambda *_: torch.zeros(())}, ValueError, "the objective has no inputs, targets and outputs"),
        ({"seed": -1}, ValueError, "seed is -1; expected 0 or more"),
        ({"device": "nonsense"}, ValueError, "device 'nonsense' cannot be used"),
        ({"epochs": 0}, ValueError, "epochs is 0; expected at least 1"),
        ({"steps": 3}, TypeError, "epochs is 2 and steps is 3; expected one of them"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"model": mlp(), "objective": square, "epochs": 2, "steps": None} | change
    ends = {name: arguments.pop(name) for name in ("epochs", "steps")}
    with pytest.raises(error, match=message):
        Training(arguments.pop("model"), arguments.pop("objective"), **arguments).run(**ends)


X, Y = points(20)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, TypeError, "data is a int; expected a LongRangeData, an ImageData, or data sets"),
        ([3], TypeError, "train is a int; expected a pair of tensors"),
        ([(X, Y), X], TypeError, "train is a tuple|validation is a Tensor; expected a pair|train is a list"),
        ([(X, Y.float())], ValueError, r"train has inputs .* torch.float32; expected \(20,\) integers"),
        ([(X, Y[:10])], ValueError, r"labels of shape \(10,\)"),
        ([(X, Y - 1)], ValueError, "train has the label -1; expected labels of at least 0"),
        ([(X * math.nan, Y)], ValueError, "train has inputs that are NaN or infinite"),
        ([(X, Y), (X, Y + 1)], ValueError, "model tells 3 classes apart; the labels are 0 to 3"),
        ([Items(X, Y + 2)], ValueError, "model tells 3 classes apart; the labels are 0 to 4"),
        ([Items(X, Y / 2)], ValueError, r"train\[0\] has the label .*; expected an integer"),
        ([Items(X.tolist(), Y)], TypeError, r"train\[0\] is a tuple; expected a pair of a tensor and a label"),
        ({"validation": (X, Y)}, ValueError, "data has 'validation'; expected 'train'"),
        ({"train": (X, Y), "dev": (X, Y)}, ValueError, "data has 'train', 'dev'; expected 'train'"),
    ],
)
def test_bad_data_is_named(data, error, message):
    with pytest.raises(error, match=message):
        classify(mlp(), data, settings=ClassifySettings(epochs=1, batch_size=10))


def test_the_first_of_equally_good_epochs_is_kept():
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    torch.manual_seed(0)
    training = Training(nn.Linear(4, 2), objectives.classification((x, y), (x, y), batch_size=40), lr=1e-9)
    training.run(epochs=4)
    assert training.recording.best_epoch == 1


def test_other_samples_are_refused(tmp_path):
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    for images, epochs in ((x, 1), (x + 1, 2)):
        torch.manual_seed(0)
        training = Training(nn.Linear(4, 2), objectives.classification((images, y), batch_size=20), out=tmp_path)
        if epochs == 1:
            training.run(epochs=1)
        else:
            with pytest.raises(ValueError, match="train"):
                training.run(epochs=2)
