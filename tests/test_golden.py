"""Results that must not change by a bit: a probe, fits, classifications, a study and truncations, with all seeds fixed.

The recorded digests hold for one kind of machine and one version of torch; elsewhere the test is skipped.  To record
them anew, with a reason for the change in the commit message:

    OMP_NUM_THREADS=1 python tests/test_golden.py --record
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import pytest
import torch

import htf
from htf.nn.init import gaussian

GOLDEN = Path(__file__).with_name("golden.json")


def digest(*tensors):
    """SHA-256 of shapes, dtypes and bytes, shortened."""
    found = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().contiguous()
        found.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def hexes(numbers):
    return [float(number).hex() for number in numbers]


def machine():
    """What the bits of a result depend on besides the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    cpu = (names or [platform.processor()])[0]
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": hashlib.sha256(cpu.encode()).hexdigest()[:16],
    }


# -- the cases ------------------------------------------------------------------------------------------


def probe():
    data = htf.datasets.load("digits").take(240, 60)
    settings = htf.training.FitSettings(epochs=4)
    found = htf.probes.rank_fit(data, ranks=[1, 3], settings=settings, progress=False)
    return {
        f"{r.format} {r.twin} {r.rank}": hexes([r.train, r.test, *r.train_history, *r.test_history])
        for r in found.records
    }


def _planted(**changes):
    return htf.datasets.tensor_completion(**({"rank": 1, "observed": 150, "norm": 16, "seed": 3} | changes))


def _fitted(network, problem, **settings):
    history = htf.training.fit(network, problem, steps=60, every=7, **settings)
    return {
        "parameters": digest(*network.parameters()),
        "record": digest(*history.tensors().values()),
        "loss": hexes(history.loss[-1]),
    }


def fit_cp():
    network = htf.nn.CPNetwork((4,) * 4, [3, 5], init=gaussian(std=0.3), seed=0)
    tracker = htf.dynamics.component_norms()
    return _fitted(network, _planted(shape=(4,) * 4, teacher="cp"), optimizer="adam", lr=0.02, track=tracker)


def fit_ht():
    network = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 4, [3, 4], init=gaussian(std=0.4), seed=0)
    problem = _planted(shape=(4,) * 4, teacher="cp")
    return _fitted(network, problem, loss="huber", track=htf.dynamics.local_component_norms())


def fit_mf():
    network = htf.nn.MatrixFactorization((6, 7), depth=3, init=gaussian(std=0.05), runs=2, seed=0)
    problem = _planted(shape=(6, 7), teacher="matrix", observed=30, norm=6)
    return _fitted(network, problem, optimizer="sgd", lr=0.05, track=htf.dynamics.singular_values())


def _classified(regularizer, **settings):
    splits = []
    for k, count in enumerate((26, 10, 12)):
        generator = torch.Generator().manual_seed(k)
        labels = torch.arange(count) % 2
        images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
        images[:, :, :, :4] += (labels * 40).view(-1, 1, 1, 1)
        splits.append(htf.datasets.long_range.Split(images.to(torch.uint8), labels))
    data = htf.datasets.long_range.LongRangeData("left", *splits, {"seed": 0})
    stem = htf.nn.Stem(4, kernel=3, stride=2, pool=False)
    model = htf.nn.ResNet((4,), (1,), 1, 1, stem=stem, dropout=0.3, seed=0)
    settings = htf.training.ClassifySettings(epochs=3, batch_size=8, lr=0.05, **settings)
    result = htf.training.classify(model, data, regularizer=regularizer, settings=settings)
    numbers = [n for e in result.history for n in (e.train_loss, e.train_accuracy, e.penalty, e.validation_accuracy)]
    return {
        "parameters": digest(*model.state_dict().values()),
        "history": hexes(numbers),
        "test": hexes([result.test_last, result.test_best_validation, result.best_epoch]),
    }


def classify_interaction():
    regularizer = htf.regularizers.Interaction(htf.regularizers.random_patches(2), weight=0.5, seed=1)
    return _classified(regularizer, weight_decay=1e-3)


def classify_input_gradient():
    regularizer = htf.regularizers.InputGradientChange(htf.regularizers.random_patches(2), weight=0.5, seed=1)
    return _classified(regularizer)


def study():
    settings = htf.dynamics.CPStudy(
        rank=1, dim=4, observed=48, components=4, init_std=(1e-1, 1e-2), seeds=(0, 1), steps=60
    )
    found = htf.dynamics.study(settings)
    return {"record": digest(*found.history.tensors().values()), "loss": hexes(found.history.loss[-1])}


def truncation():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 20)]
    model = htf.surgery.factorize(torch.nn.Sequential(*layers), rank=6)
    report = htf.surgery.truncate(model, tol=0.3)
    tensor = htf.tensors.random_ht((4, 3, 5, 4), rank=4, random_state=0)
    rounded = htf.tensors.ht_round(tensor, rank=2)
    return {
        "layers": digest(*model.parameters()),
        "parameters": report.parameters_after,
        "tensor": digest(torch.as_tensor(htf.tensors.ht_to_tensor(rounded))),
    }


CASES = {
    case.__name__: case
    for case in (probe, fit_cp, fit_ht, fit_mf, classify_interaction, classify_input_gradient, study, truncation)
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_recorded(name):
    golden = json.loads(GOLDEN.read_text())
    if golden["machine"] != machine():
        pytest.skip(f"recorded on another machine or version: {golden['machine']}; here it is {machine()}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert CASES[name]() == golden["results"][name]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    content = {"machine": machine(), "results": {name: case() for name, case in CASES.items()}}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
