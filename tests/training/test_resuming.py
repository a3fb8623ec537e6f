"""Fits that are interrupted, killed, continued, or meet the checkpoint of something else."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from fit_cases import (
    NETWORKS,
    FirstParameter,
    cp_net,
    matrix_net,
    parameters,
    problem,
    tensor_problem,
)

from htf.nn.init import gaussian
from htf.training import adopt, fit


class InterruptAt(FirstParameter):
    """Sends what Ctrl-C sends, at a step."""

    def __init__(self, step):
        self.step = step

    def measure(self, moment):
        if moment.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
        return super().measure(moment)


@NETWORKS
@pytest.mark.parametrize("optimizer", ["group_rmsprop", "adam"])
def test_an_interrupted_fit_goes_on_bit_for_bit(make_net, make_problem, optimizer, tmp_path):
    settings = {"optimizer": optimizer, "steps": 40, "every": 5}
    whole = fit(expected := make_net(), make_problem(), **settings, track=FirstParameter())
    net = make_net()
    with pytest.raises(KeyboardInterrupt):
        fit(net, make_problem(), **settings, track=InterruptAt(15), out=tmp_path / "0")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # By a new network, as a new process would make it, and then by the one that was left.
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    for k, other in enumerate((make_net(), net)):
        history = fit(other, make_problem(), **settings, track=FirstParameter(), out=tmp_path / str(k))
        assert torch.equal(parameters(other), parameters(expected))
        for name, tensor in whole.tensors().items():
            torch.testing.assert_close(history.tensors()[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("step", [3, 40])
def test_a_fit_that_diverges_after_an_interrupt_goes_back_as_far(step, tmp_path):
    entries = (torch.tensor([[0, 0], [1, 1], [2, 3]]), torch.tensor([1.0, 2.0, 3.0]))
    settings = {"optimizer": "sgd", "lr": 0.5, "every": 50, "steps": 500}

    def net():
        return matrix_net(init=gaussian(std=1.0), runs=1)

    with pytest.warns(RuntimeWarning, match="diverged"):
        whole = fit(expected := net(), entries, **settings)

    class Interrupting(functools.partial):
        """An optimizer that is interrupted in one of its steps."""

        def __call__(self, *arguments, **options):
            made = super().__call__(*arguments, **options)
            plain, taken = made.step, []

            def counted(closure=None):
                taken.append(plain())
                if len(taken) == step:
                    os.kill(os.getpid(), signal.SIGINT)

            made.step = counted
            return made

    with pytest.raises(KeyboardInterrupt):
        fit(net(), entries, **settings | {"optimizer": Interrupting(torch.optim.SGD)}, out=tmp_path)
    with pytest.warns(RuntimeWarning, match="diverged"):
        history = fit(other := net(), entries, **settings, out=tmp_path)
    assert history.stopped == whole.stopped
    assert torch.equal(parameters(other), parameters(expected))


KILLED = """
import sys, torch, htf
from htf.nn.init import gaussian
torch.set_num_threads(1)
out = sys.argv[1] if len(sys.argv) > 1 else None
data = htf.datasets.tensor_completion((8,) * 4, "ht", rank=2, observed=500, norm=64, seed=0)
net = htf.nn.HTNetwork(data.tree, 8, 16, init=gaussian(std=0.1), runs=2, seed=0)
history = htf.training.fit(net, data, steps=400, every=10, out=out, save_every=0.0)
sys.stdout.buffer.write(torch.cat([p.detach().flatten() for p in net.parameters()]).numpy().tobytes())
"""


def test_a_killed_fit_goes_on_bit_for_bit(tmp_path):
    run = functools.partial(subprocess.run, capture_output=True, check=True)
    expected = run([sys.executable, "-c", KILLED]).stdout
    for _ in range(2):
        before = (tmp_path / "checkpoint.safetensors").exists()
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3 if not before else 2.5)
        process.kill()
        process.wait()
        assert (tmp_path / "checkpoint.safetensors").exists()
    assert run([sys.executable, "-c", KILLED, str(tmp_path)]).stdout == expected


def test_a_finished_fit_is_loaded_and_can_be_continued(tmp_path):
    whole = fit(expected := matrix_net(), problem(), steps=30, every=10)
    fit(matrix_net(), problem(), steps=17, every=10, out=tmp_path)
    history = fit(net := matrix_net(), problem(), steps=30, every=10, out=tmp_path)
    assert torch.equal(parameters(net), parameters(expected))
    assert torch.equal(history.loss, whole.loss)
    # One that is further than asked for stays where it is.
    assert fit(matrix_net(), problem(), steps=5, every=10, out=tmp_path).steps.tolist()[-1] == 30
    again = fit(matrix_net(), problem(), steps=30, every=10, out=tmp_path)
    assert (again.seconds, again.settings) == (history.seconds, history.settings)
    assert (again.settings["steps"], again.stopped) == (30, "steps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": matrix_net(depth=2)}, "was written with weights.2"),
        ({"net": cp_net(), "first": cp_net(rank=[5, 3])}, "was written with ranks"),
        ({"net": matrix_net(seed=1)}, "began at other parameters: another seed or initialization"),
        (
            {"net": matrix_net(dtype=torch.float64)},
            "was written with dtype = 'torch.float32'; here it is 'torch.float64'",
        ),
        ({"problem": problem(seed=4)}, "was written with seed = 3; here it is 4"),
        ({"lr": 0.5}, "was written with optimizer = .*0.01.*; here it is .*0.5"),
        ({"loss": "l1"}, "was written with loss = .*l2.*; here it is .*l1"),
        ({"track": FirstParameter()}, "was written with trackers"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_kept(change, message, tmp_path):
    arguments = {"net": matrix_net(), "problem": problem(), "first": matrix_net()} | change
    first = arguments.pop("first")
    of_first = problem() if first.dims == (6, 7) else tensor_problem()
    if first.dims != (6, 7):
        arguments["problem"] = of_first
    fit(first, of_first, steps=10, out=tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=message):
        fit(arguments.pop("net"), arguments.pop("problem"), steps=20, out=tmp_path, **arguments)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_version_or_cut_short_is_refused_and_kept(tmp_path, monkeypatch):
    fit(matrix_net(), problem(), steps=10, out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("htf.training.resumable.__version__", "9.9")
        with pytest.raises(ValueError, match=r"was written by htf 0.*; this is htf 9.9.*adopt\('.*safetensors'\)"):
            fit(matrix_net(), problem(), steps=20, out=tmp_path)
        assert path.read_bytes() == before
        # On purpose, it goes on as if nothing had changed.
        assert adopt(tmp_path) == [path]
        assert adopt(path) == []
        fit(net := matrix_net(), problem(), steps=20, out=tmp_path)
        fit(expected := matrix_net(), problem(), steps=20)
        assert torch.equal(parameters(net), parameters(expected))
    with pytest.raises(ValueError, match=r"was written by htf 9.9; this is htf 0"):
        fit(matrix_net(), problem(), steps=20, out=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        adopt(tmp_path / "nothing")
    (tmp_path / "checkpoint.safetensors.previous").unlink()
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="is not a checkpoint of this library, or is cut short"):
        fit(matrix_net(), problem(), steps=20, out=tmp_path)
    assert path.read_bytes() == before[: len(before) // 2]
