"""Trainings of classifiers that are interrupted, killed, prolonged, or meet the checkpoint of something else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from classification_cases import Noisy, net, same_state, task
from torch import nn

from htf import DimensionTree
from htf.nn import HTNetwork
from htf.regularizers import InputGradientChange, random_patches
from htf.training import Classification, ClassifySettings, classify

SHORT = ClassifySettings(epochs=4, batch_size=8, lr=0.05)
CHECKPOINT = "checkpoint.safetensors"


def igc():
    return InputGradientChange(random_patches(2), weight=0.5, seed=1, interval=2)


def untimed(history):
    return [replace(epoch, seconds=0.0) for epoch in history]


@pytest.mark.parametrize("at", [1, 5, 6, 12])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_an_interrupted_training_goes_on_bit_for_bit(at, momentum, tmp_path):
    settings = replace(SHORT, momentum=momentum)
    whole = classify(expected := net(), task(), regularizer=Noisy(), settings=settings)
    model = net()
    with pytest.raises(KeyboardInterrupt):
        classify(model, task(), regularizer=Noisy(at), settings=settings, out=tmp_path / "0")
    # By a new model, as a new process would make it, and then by the one that was left.
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    for k, other in enumerate((net(), model)):
        result = classify(other, task(), regularizer=Noisy(), settings=settings, out=tmp_path / str(k))
        assert same_state(other, expected)
        assert untimed(result.history) == untimed(whole.history)
        assert (result.test_last, result.best_epoch) == (whole.test_last, whole.best_epoch)
        assert result.test_best_validation == whole.test_best_validation


@pytest.mark.parametrize("steps", [1, 4])
def test_the_librarys_regularizers_go_on_too(steps, tmp_path):
    classify(expected := net(), task(), regularizer=igc(), settings=SHORT)
    training = Classification(net(), task(), SHORT, regularizer=igc(), out=tmp_path)
    for _ in range(steps):
        training.advance()
    training.save()
    classify(model := net(), task(), regularizer=igc(), settings=SHORT, out=tmp_path)
    assert same_state(model, expected)
    classify(other := net(), task(), regularizer=None, settings=SHORT)
    assert not same_state(other, expected)


KILLED = """
import sys
import torch
from test_classification_resuming import train_long
torch.set_num_threads(1)
sys.stdout.buffer.write(train_long(sys.argv[1], save_every=float(sys.argv[2])))
"""


def train_long(out, save_every=20.0):
    """Bytes of what a training of 120 steps ends with."""
    model = net(width=8)
    settings = ClassifySettings(epochs=12, batch_size=6)
    classify(model, task(train=60), regularizer=igc(), settings=settings, out=out, save_every=save_every)
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), "0"], env=environment)
    threads = torch.get_num_threads()
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        torch.set_num_threads(1)
        assert train_long(tmp_path) == train_long(None)
    finally:
        process.kill()
        torch.set_num_threads(threads)


def test_a_finished_training_is_loaded_and_can_be_prolonged(tmp_path):
    whole = classify(expected := net(), task(), settings=SHORT)
    shorter = replace(SHORT, epochs=2)
    first = classify(net(), task(), settings=shorter, out=tmp_path)
    model = net()
    assert classify(model, task(), settings=shorter, out=tmp_path) == first
    longer = classify(model, task(), settings=SHORT, out=tmp_path)
    assert same_state(model, expected)
    assert untimed(longer.history) == untimed(whole.history)
    assert longer.history[:2] == first.history
    with pytest.raises(ValueError, match=r"epochs is 2; .* has begun epoch 4: expected at least as many"):
        classify(net(), task(), settings=shorter, out=tmp_path)
    assert classify(net(), task(), settings=SHORT, out=tmp_path) == longer


def brighter():
    data = task()
    data.test.images[0, 0, 0, 0] += 1
    return data


def other_frozen():
    """The same but for a buffer, which is as little trained as a frozen layer."""
    model = net()
    model.bn1.running_mean += 1
    return model


def test_trees_of_one_shape_are_told_apart(tmp_path):
    def reading(tree):
        network = HTNetwork(tree, 2, 2, seed=0)
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (64, 1)), Both(), network)

    classify(reading(DimensionTree.balanced(64, 4)), task(), settings=SHORT, out=tmp_path)
    with pytest.raises(ValueError, match=r"module 3 = .*DimensionTree\(order=64.*; here it is"):
        classify(reading(DimensionTree.grid(8, 8)), task(), settings=SHORT, out=tmp_path)


def test_where_a_model_is_does_not_matter(tmp_path, monkeypatch):
    def reading():
        return nn.Sequential(
            nn.Flatten(), nn.Unflatten(1, (64, 1)), Both(), HTNetwork(DimensionTree.grid(8, 8), 2, 2, seed=0)
        )

    first = classify(reading(), task(), settings=SHORT, out=tmp_path)
    monkeypatch.setattr(nn.ParameterList, "extra_repr", lambda self: "Parameter containing: [torch.float32 (cuda:1)]")
    assert classify(reading(), task(), settings=SHORT, out=tmp_path) == first


class Both(nn.Module):
    """A pixel and what it lacks to 1."""

    def forward(self, x):
        return torch.cat([x, 1 - x], -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": net(width=6)}, r"was written with module conv1 = 'Conv2d\(1, 4.*; here it is 'Conv2d\(1, 6"),
        ({"model": net(dropout=0.5)}, r"'Dropout\(p=0.3.*; here it is 'Dropout\(p=0.5"),
        ({"model": net(seed=1)}, "began at other parameters: another seed or initialization"),
        ({"model": other_frozen()}, "began at other parameters"),
        ({"data": brighter()}, "was written with data_sha256"),
        ({"regularizer": igc()}, "was written with regularizer = None; here it is 'InputGradientChange"),
        ({"regularizer": lambda model, x, y, out: out.sum()}, "here it is '<lambda>'|here it is '.*<lambda> "),
        ({"settings": replace(SHORT, lr=0.5)}, "was written with lr = 0.05; here it is 0.5"),
        ({"settings": replace(SHORT, seed=3)}, "was written with seed = 0; here it is 3"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_kept(change, message, tmp_path):
    classify(net(), task(), settings=SHORT, out=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    arguments = {"model": net(), "data": task(), "settings": SHORT} | change
    with pytest.raises(ValueError, match=message):
        classify(arguments.pop("model"), arguments.pop("data"), out=tmp_path, **arguments)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_cut_short_is_refused_and_kept(tmp_path):
    classify(net(), task(), settings=SHORT, out=tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a checkpoint of this library, or is cut short"):
        classify(net(), task(), settings=SHORT, out=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == whole[: len(whole) // 2]
