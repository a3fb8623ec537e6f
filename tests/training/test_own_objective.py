"""An objective of a user's own, with an optimizer and a schedule of torch, killed and resumed."""

import os
import subprocess
import sys
import time

import torch
from torch.nn.functional import softplus

import htf
from htf.training import Training, objectives

X = torch.randint(0, 2, (200, 8), generator=torch.Generator().manual_seed(0))
Y = X[:, 0] * X[:, 5] + 0.5 * X[:, 3]


def ranking(model, generator):
    """Pairs of samples should be in the order of their targets."""
    i, j = torch.randint(len(X), (2, 64), generator=generator)
    margins = (model(X[i]) - model(X[j])) * (Y[i] - Y[j]).sign()[:, None]
    return softplus(-margins).mean(0)


def train(out, save_every=20.0):
    """Two runs of an HT network; the network and the record."""
    net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), 2, 4, runs=2, seed=0)
    objective = objectives.function(ranking, data=(X, Y), batches=5)
    training = Training(net, objective, optimizer="adamw", lr=0.03, schedule="one_cycle", out=out)
    return net, training.run(epochs=60, save_every=save_every)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_a_ranking_is_learned_and_a_killed_training_goes_on_bit_for_bit(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected, whole = train(None)
        with torch.no_grad():
            outputs = expected(X)
        ordered = (outputs[:, None] - outputs) * (Y[:, None] - Y).sign()[..., None]
        differ = Y[:, None] != Y
        assert (ordered[differ] > 0).double().mean() > 0.95
        assert whole.loss.shape == (60, 2)

        code = (
            "import sys, torch; torch.set_num_threads(1); from test_own_objective import train; train(sys.argv[1], 0.0)"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        assert not (tmp_path / "history.safetensors").exists()
        net, history = train(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(weights(net), weights(expected))
    assert torch.equal(history.loss, whole.loss)


def test_what_a_function_draws_is_new_at_every_step():
    drawn = []

    def loss(model, generator):
        drawn.append(int(torch.randint(2**31, (), generator=generator)))
        return model.weight.square().sum()

    Training(torch.nn.Linear(2, 1), objectives.function(loss, batches=3)).run(epochs=4)
    assert len(set(drawn)) == len(drawn) == 12


def test_what_a_function_draws_depends_on_the_step_only():
    drawn = {1: [], 3: []}
    for batches, found in drawn.items():

        def loss(model, generator, found=found):
            found.append(int(torch.randint(2**31, (), generator=generator)))
            return model.weight.square().sum()

        Training(torch.nn.Linear(2, 1), objectives.function(loss, batches=batches), seed=5).run(epochs=12 // batches)
    assert drawn[1] == drawn[3]
