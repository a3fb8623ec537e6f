"""Training of classifiers: against a plain loop, what is recorded, and everything that can go wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from classification_cases import net, same_state, smooth_net, state_of, task
from torch import nn

from htf._files import write_json
from htf.datasets.long_range import Split
from htf.training import Classification, ClassifyResult, ClassifySettings, classify, load_trained

SHORT = ClassifySettings(epochs=3, batch_size=8, lr=0.05)


def small_outputs(model, x, y, out):
    """A regularizer that needs another pass."""
    return 0.1 * (model(x * 0.5) - out).square().mean()


def accuracy(model, split):
    model.eval()
    with torch.no_grad():
        out = model(split.images.to(next(model.parameters()).dtype) / 255)
    said = (out[:, 0] > 0) if out.shape[1] == 1 else out.argmax(1)
    return float((said == split.labels).double().mean())


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.01), (0.0, 0.0)])
def test_training_equals_a_plain_loop(momentum, weight_decay):
    data = task()
    x, y = data.train.images.double() / 255, data.train.labels.double()
    expected = smooth_net()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    losses, penalties, hits = [], [], []
    for _ in range(5):
        out = expected(x)
        loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], y)
        penalty = small_outputs(expected, x, y, out)
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        penalties.append(float(penalty.detach()))
        hits.append(float(((out[:, 0] > 0) == y).double().mean()))
    # One batch an epoch: the order of images does not matter.
    settings = ClassifySettings(epochs=5, batch_size=24, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    result = classify(model := smooth_net(), data, regularizer=small_outputs, settings=settings)
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert [epoch.train_loss for epoch in result.history] == pytest.approx(losses, rel=1e-9)
    assert [epoch.penalty for epoch in result.history] == pytest.approx(penalties, rel=1e-9)
    assert [epoch.train_accuracy for epoch in result.history] == pytest.approx(hits)


def test_several_classes_have_cross_entropy():
    data = task(classes=3)
    model = net(outputs=3, dropout=0.0)
    model.train()
    loss = nn.functional.cross_entropy(model(data.train.images / 255), data.train.labels)
    result = classify(net(outputs=3, dropout=0.0), data, settings=replace(SHORT, epochs=1, batch_size=24))
    assert result.history[0].train_loss == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_accuracies_are_those_of_the_models_at_their_epochs(classes):
    data = task(classes=classes, validation=30, test=31)
    outputs = 1 if classes == 2 else classes
    training = Classification(model := net(outputs=outputs), data, ClassifySettings(epochs=8, batch_size=7, lr=0.03))
    states = []

    def keep():
        if training.batch == 0:
            states.append(state_of(model))

    training.run_to_end(keep)
    result = training.result()
    other = net(outputs=outputs)
    found = []
    for state in states:
        other.load_state_dict(state)
        found.append(accuracy(other, data.validation))
    assert [epoch.validation_accuracy for epoch in result.history] == pytest.approx(found)
    assert len(set(found)) > 2
    assert result.best_epoch == found.index(max(found)) + 1 < 8
    assert result.validation_best == max(found)
    assert same_state(other, model)
    assert result.test_last == pytest.approx(accuracy(other, data.test))
    other.load_state_dict(states[result.best_epoch - 1])
    assert result.test_best_validation == pytest.approx(accuracy(other, data.test))


def test_the_task_is_learned_and_a_result_says_what_made_it():
    data = task(train=96, test=40)
    result = classify(net(), data, settings=ClassifySettings(epochs=8, batch_size=16, lr=0.1))
    assert result.test_last > 0.9
    assert result.stopped == "epochs"
    assert result.epochs == 8
    assert 0 < result.history[0].seconds < result.seconds
    assert result.settings["data"] == {"name": "left", "sha256": data.fingerprint, "seed": 0}
    assert result.settings["model"] == {"class": "ResNet", "parameters": sum(p.numel() for p in net().parameters())}
    assert (result.settings["lr"], result.settings["regularizer"]) == (0.1, None)
    assert result.machine["versions"]["torch"] == torch.__version__


class Recording(nn.Module):
    """Remembers which images it was given in training; the first pixel is the number of an image."""

    def __init__(self):
        super().__init__()
        self.inner, self.batches = net(), []

    def forward(self, x):
        if self.training:
            self.batches.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return self.inner(x)


def numbered(count=22):
    data = task(train=count)
    data.train.images[:, 0, 0, 0] = torch.arange(count)
    return data


def visits(seed, epochs=2):
    classify(model := Recording(), numbered(), settings=replace(SHORT, epochs=epochs, seed=seed))
    return model.batches


def test_every_epoch_visits_all_images_in_a_new_order_and_even_batches():
    batches = visits(seed=0)
    assert [len(batch) for batch in batches] == [8, 7, 7] * 2
    first, second = ([image for batch in part for image in batch] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(22))
    assert first != second
    assert visits(seed=0) == batches
    assert visits(seed=1)[0] != batches[0]


def test_random_numbers_of_dropout_depend_on_the_step_and_leave_the_global_generator_alone():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        classify(first := net(), task(), settings=SHORT)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        classify(again := net(), task(), settings=SHORT)
    assert same_state(first, again)
    classify(other := net(dropout=0.0), task(), settings=SHORT)
    assert not same_state(first, other)


def test_frozen_parameters_stay():
    model = net()
    model.conv1.requires_grad_(False)
    before = model.conv1.weight.clone()
    classify(model, task(), settings=SHORT)
    assert torch.equal(model.conv1.weight, before)
    assert not torch.equal(model.fc.weight, net().fc.weight)


def test_images_in_16_levels_and_without_validation_or_test():
    data = task(validation=0, test=0)
    faint = replace(data, train=Split(data.train.images // 17, data.train.labels, maximum=15))
    model = Recording()
    result = classify(model, faint, settings=SHORT)
    assert max(max(batch) for batch in model.batches) > 15
    assert (result.test_last, result.test_best_validation, result.validation_best) == (None, None, None)
    assert result.best_epoch == 3


def test_it_stops_after_perfect_epochs():
    data = task(train=64)
    settings = ClassifySettings(epochs=60, batch_size=16, lr=0.1, stop_after_perfect=2)
    result = classify(net(dropout=0.0), data, settings=settings)
    accuracies = [epoch.train_accuracy for epoch in result.history]
    assert result.stopped == "perfect"
    assert accuracies[-2:] == [1.0, 1.0]
    assert all(accuracies[k : k + 2] != [1.0, 1.0] for k in range(len(accuracies) - 2))


def test_it_stops_at_the_end_of_an_epoch_when_time_is_up():
    result = classify(net(), task(), settings=replace(SHORT, epochs=1000, max_seconds=1e-9))
    assert (result.stopped, result.epochs) == ("time", 1)


# -- failures -------------------------------------------------------------------------------------------


class Limited(nn.Module):
    """Stands in for a device whose memory holds so many samples."""

    def __init__(self, most):
        super().__init__()
        self.inner, self.most = net(), most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return self.inner(x)


def doubled(model, x, y, out):
    return model(torch.cat([x, x])).square().mean()


@pytest.mark.parametrize(
    ("most", "regularizer", "message"),
    [
        (11, None, "a batch of 24 images did not fit into the memory of cpu; 6 fitted: take batch_size=6"),
        (
            24,
            doubled,
            "12 fitted: take batch_size=12; all of them fit without the regularizer, .*\nCUDA out of memory. ",
        ),
        (3, doubled, "a batch of 24 images did not fit .*; nor did 2\nCUDA"),
    ],
)
def test_running_out_of_memory_says_which_batch_fits(most, regularizer, message):
    with pytest.raises(torch.OutOfMemoryError, match=message):
        classify(Limited(most), task(validation=0), regularizer=regularizer, settings=replace(SHORT, batch_size=24))


@pytest.mark.parametrize(("value", "said"), [(math.nan, "adds nan"), (math.inf, "adds inf")])
def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_kept(value, said, tmp_path):
    calls = []

    def failing(model, x, y, out):
        calls.append(0)
        return out.sum() * 0 + (value if len(calls) == 5 else 0)

    with pytest.raises(FloatingPointError, match=f"{said} at step 2 of epoch 2; the last checkpoint is kept"):
        classify(net(), task(), regularizer=failing, settings=SHORT, out=tmp_path, save_every=0.0)
    training = Classification(net(), task(), SHORT, regularizer=failing, out=tmp_path)
    assert (len(training.history), training.batch) == (1, 1)


class Breaking(nn.Module):
    """Gives outputs that are not finite when it is evaluated on more than a check's two images."""

    def __init__(self, value):
        super().__init__()
        self.inner, self.value = net(), value

    def forward(self, x):
        out = self.inner(x)
        return out if self.training or len(x) == 2 else out.index_fill(0, torch.tensor([0, 3]), self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_count_as_wrong_and_are_named_once(value):
    data = task(validation=8, test=8)
    everywhere = Split(data.validation.images[:1].expand(8, -1, -1, -1), torch.zeros(8, dtype=torch.int64))
    with pytest.warns(RuntimeWarning, match="not finite for 2 of 8 validation images after epoch 1") as warned:
        result = classify(Breaking(value), replace(data, validation=everywhere), settings=SHORT)
    assert len(warned) == 1
    assert {epoch.validation_accuracy for epoch in result.history} <= {0.0, 0.75}


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def half_frozen():
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": half_frozen()}, ValueError, "model has no parameter that requires a gradient"),
        ({"data": task(classes=3)}, ValueError, "model tells 2 classes apart; the labels are 0 to 2"),
        ({"model": nn.Sequential(net(), nn.Unflatten(1, (1, 1)))}, ValueError, r"shape \(2, 1, 1\) for 2 images"),
        ({"model": nn.Sequential(net(), Pair())}, TypeError, "model gives a tuple; expected a tensor of outputs"),
        ({"data": task().train}, TypeError, "data is a Split; expected a LongRangeData"),
        ({"data": task(train=1)}, ValueError, "batches have 1 images for 1 process; expected at least 2"),
        ({"data": task(train=25), "settings": replace(SHORT, batch_size=2)}, ValueError, "some batches have 1 images"),
        ({"device": "nonsense"}, ValueError, "device 'nonsense' cannot be used"),
        ({"device": "cpu", "fabric": object()}, ValueError, "device is 'cpu' and there is a fabric"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    arguments = {"model": net(), "data": task(), "settings": SHORT} | change
    if "fabric" in change:
        arguments["fabric"] = type("Fabric", (), {"global_rank": 0, "world_size": 1, "device": torch.device("cpu")})()
    with pytest.raises(error, match=message):
        classify(arguments.pop("model"), arguments.pop("data"), **arguments)


def test_a_model_that_fails_is_left_in_its_mode():
    model = nn.Sequential(net(), nn.Flatten(5))
    with pytest.raises(IndexError):
        classify(model, task(), settings=SHORT)
    assert model.training
    assert model[0].bn1.training


class Averaging(nn.Module):
    """Does more than to set a flag when its mode changes."""

    def __init__(self):
        super().__init__()
        self.inner, self.averaged, self.seen = net(), False, set()

    def train(self, mode=True):
        self.averaged = not mode
        return super().train(mode)

    def forward(self, x):
        self.seen.add((self.training, self.averaged))
        return self.inner(x)


def test_modes_are_changed_by_the_models_own_methods():
    classify(model := Averaging(), task(), settings=SHORT)
    assert model.seen == {(True, False), (False, True)}
    assert model.training
    assert not model.averaged


def test_a_compiled_model_is_called_throughout():
    calls = []

    def counting(graph, inputs):
        return lambda *args: calls.append(0) or graph(*args)

    model = torch.compile(net(dropout=0.0), backend=counting)
    classify(model, task(), settings=replace(SHORT, epochs=1))
    torch._dynamo.reset()
    # Of 24, 10 and 12 images: three steps, two batches each of validation, test and test again, and the check.
    assert len(calls) == 3 + 2 + 2 + 2 + 1


def test_frozen_batch_normalization_stays_as_it_is():
    model = net()
    model.bn1.eval().requires_grad_(False)
    before = state_of(model.bn1)
    classify(model, task(), settings=SHORT)
    assert {name: tensor for name, tensor in before.items() if not torch.equal(tensor, state_of(model.bn1)[name])} == {}
    assert model.training
    assert not model.bn1.training
    # A model that was evaluated before is trained as a whole.
    classify(model.eval(), task(), settings=SHORT)
    assert not torch.equal(model.bn1.running_mean, before["running_mean"])


@pytest.mark.parametrize(
    ("value", "said"), [(lambda out: 0.5, "a float"), (lambda out: out, r"a Tensor of shape \(8, 1\)")]
)
def test_what_a_regularizer_returns_is_one_number(value, said):
    with pytest.raises(TypeError, match=f"regularizer returned {said}; expected a tensor of one number"):
        classify(net(), task(), regularizer=lambda model, x, y, out: value(out), settings=SHORT)


def test_no_end_in_time_is_none():
    assert ClassifySettings(max_seconds=math.inf) == ClassifySettings()


def test_settings_from_arrays(tmp_path):
    epochs, size = np.array([1, 8])
    rate, seed = np.float32(0.05), np.int64(3)
    settings = ClassifySettings(epochs=epochs, batch_size=size, lr=rate, weight_decay=rate, seed=seed)
    assert settings == ClassifySettings(1, 8, float(rate), weight_decay=float(rate), seed=3)
    first = classify(net(), task(), settings=settings, out=tmp_path)
    assert classify(net(), task(), settings=settings, out=tmp_path) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_size": 1}, "batch_size is 1; expected at least 2"),
        ({"lr": 0.0}, "lr is 0.0; expected above 0"),
        ({"lr": math.inf}, "lr is inf; expected a finite number"),
        ({"momentum": 1.0}, "momentum is 1.0; expected from 0 to below 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected at least 0"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0; expected above 0"),
        ({"stop_after_perfect": 0}, "stop_after_perfect is 0; expected at least 1"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        ClassifySettings(**change)


@pytest.mark.parametrize(
    ("change", "message"), [({"lr": "0.1"}, "lr is '0.1'; expected a number"), ({"lr": True}, "lr is True")]
)
def test_settings_of_another_type(change, message):
    with pytest.raises(TypeError, match=message):
        ClassifySettings(**change)


# -- results and weights --------------------------------------------------------------------------------


def test_a_result_is_saved_and_loaded(tmp_path):
    result = classify(net(), task(), settings=SHORT)
    result.save(tmp_path / "result.json")
    assert ClassifyResult.load(tmp_path / "result.json") == result
    with pytest.raises(FileNotFoundError):
        ClassifyResult.load(tmp_path / "none.json")
    for text, message in (("{", "is not valid JSON"), ("[]", "carries no checksum"), ("", "not valid")):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ClassifyResult.load(tmp_path / "result.json")
    for content, message in (({"history": []}, "and 0 epochs"), ({"history": 3}, "does not describe")):
        write_json(tmp_path / "result.json", content, "the result of a training")
        with pytest.raises(ValueError, match=message):
            ClassifyResult.load(tmp_path / "result.json")


def test_trained_weights_are_read_from_a_folder(tmp_path):
    data = task(validation=30)
    settings = ClassifySettings(epochs=8, batch_size=7, lr=0.03)
    result = classify(model := net(), data, settings=settings, out=tmp_path)
    assert result.best_epoch < 8
    load_trained(last := net(seed=9), tmp_path, "last")
    assert same_state(last, model)
    load_trained(best := net(seed=9), tmp_path)
    assert not same_state(best, model)
    assert accuracy(best, data.validation) == result.validation_best
    with pytest.raises(ValueError, match="which is 'first'; expected 'best' or 'last'"):
        load_trained(best, tmp_path, "first")
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint\.safetensors"):
        load_trained(best, tmp_path / "elsewhere")
    load_trained(compiled := torch.compile(net(seed=9), backend="eager"), tmp_path)
    assert same_state(compiled._orig_mod, best)
    before = state_of(other := net(width=6))
    with pytest.raises(ValueError, match=r"written by a model of another architecture .*bn1\.bias"):
        load_trained(other, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_an_unfinished_training_has_no_result():
    training = Classification(net(), task(), SHORT)
    training.advance()
    with pytest.raises(ValueError, match="at step 1 of 9; expected one that is finished"):
        training.result()
