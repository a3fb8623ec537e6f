"""Two processes that share every batch through Lightning Fabric, against one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from classification_cases import net, smooth_net, state_of, task
from torch.nn.functional import binary_cross_entropy_with_logits

from htf._files import read_json, read_tensors
from htf.regularizers import GradientFieldChange, InputGradientChange, Interaction, random_patches
from htf.training import ClassifySettings, classify
from htf.training._seeds import order_of_epoch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None, reason="needs the extra 'train' (Lightning Fabric)"
)
REGULARIZERS = {
    "none": lambda: None,
    "input_gradient": lambda: InputGradientChange(random_patches(2), weight=3.0, seed=5),
    "interaction": lambda: Interaction(random_patches(2), weight=2.0, seed=5, samples=4, grid=3),
    "gradient_field": lambda: GradientFieldChange(2, 3.0, seed=5, samples=3),
}

SCRIPT = """
import os
import sys
import torch
from pathlib import Path
from classification_cases import net, same_state, smooth_net, state_of, task
from htf._files import write_json, write_tensors
from htf.training import Classification, ClassifySettings, classify
from lightning_fabric import Fabric
from test_classification_ddp import REGULARIZERS

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    gradients = {}
    for name, make in REGULARIZERS.items():
        # Of other starts: the first process's counts.
        training = Classification(
            model := smooth_net(seed=fabric.global_rank), task(), ClassifySettings(batch_size=8, momentum=0.0),
            regularizer=make(), fabric=fabric,
        )
        training.advance()
        gradients |= {f"{name}/{n}": p.grad for n, p in model.named_parameters()}
        gradients |= {f"{name}/after/{n}": p for n, p in model.named_parameters()}
    write_tensors(out / f"gradients{fabric.global_rank}.safetensors", gradients, {})

    settings = ClassifySettings(epochs=2, batch_size=8, lr=0.05)
    data = task(validation=11, test=13, train=25)
    igc = REGULARIZERS["input_gradient"]
    whole = classify(expected := net(), data, regularizer=igc(), settings=settings, fabric=fabric, out=out / "whole")
    training = Classification(net(), data, settings, regularizer=igc(), fabric=fabric, out=out / "resumed")
    for _ in range(5):
        training.advance()
    if fabric.global_rank == 0:
        training.save()
    fabric.barrier()
    result = classify(model := net(), data, regularizer=igc(), settings=settings, fabric=fabric, out=out / "resumed")
    again = classify(net(), data, regularizer=igc(), settings=settings, fabric=fabric, out=out / "resumed")
    try:
        classify(net(), data, settings=ClassifySettings(batch_size=3), fabric=fabric)
        said = ""
    except ValueError as error:
        said = str(error)

    def failing(model, x, y, out):
        return out.sum() * (float("nan") if fabric.global_rank == 1 else 0.0)

    try:
        classify(net(), data, regularizer=failing, settings=settings, fabric=fabric)
        failed = ""
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    write_tensors(out / f"whole{fabric.global_rank}.safetensors", state_of(expected), {})
    write_json(out / f"facts{fabric.global_rank}.json", {
        "same": same_state(model, expected),
        "losses": [[e.train_loss, e.train_accuracy, e.penalty, e.validation_accuracy] for e in result.history],
        "losses_of_whole": [[e.train_loss, e.train_accuracy, e.penalty, e.validation_accuracy] for e in whole.history],
        "tests": [result.test_last, result.test_best_validation],
        "loaded": again == result,
        "writes": training.checkpoint is not None,
        "said": said,
        "failed": failed,
    })
    # Python's cleaning up can wait for ever for a thread of gloo's that waits for the interpreter's lock.
    fabric.barrier()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the two processes left."""
    out = tmp_path_factory.mktemp("ddp")
    (out / "script.py").write_text(SCRIPT)
    here = os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(out / "script.py"), str(out)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", REGULARIZERS)
def test_two_processes_give_the_gradients_of_one(folder, name):
    data = task()
    x, y = data.train.images.double() / 255, data.train.labels.double()
    batch = order_of_epoch(24, 0, 0)[:8]
    model = smooth_net()
    losses = []
    for share in (batch[:4], batch[4:]):
        # A new regularizer for each share: both draw the same patches.
        regularizer = REGULARIZERS[name]()
        out = model(x[share])
        loss = binary_cross_entropy_with_logits(out[:, 0], y[share])
        losses.append(loss if regularizer is None else loss + regularizer(model, x[share], y[share].long(), out))
    torch.stack(losses).mean().backward()
    if name == "none":
        whole = smooth_net()
        binary_cross_entropy_with_logits(whole(x[batch])[:, 0], y[batch]).backward()
        for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
    for rank in (0, 1):
        found, _ = read_tensors(folder / f"gradients{rank}.safetensors")
        for key, parameter in model.named_parameters():
            assert float(parameter.grad.norm()) > 1e-4
            torch.testing.assert_close(found[f"{name}/{key}"], parameter.grad, rtol=1e-9, atol=1e-12)
            after = parameter.detach() - 0.01 * parameter.grad
            torch.testing.assert_close(found[f"{name}/after/{key}"], after, rtol=1e-9, atol=1e-12)


def test_both_processes_have_one_model_and_go_on_bit_for_bit(folder):
    first, second = (read_tensors(folder / f"whole{rank}.safetensors")[0] for rank in (0, 1))
    assert first.keys() == second.keys() == state_of(net()).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["bn1.running_mean"], state_of(net())["bn1.running_mean"])
    facts = [read_json(folder / f"facts{rank}.json") for rank in (0, 1)]
    assert all(each["same"] and each["loaded"] for each in facts)
    assert facts[0]["losses"] == facts[1]["losses"] == facts[0]["losses_of_whole"]
    assert facts[0]["tests"] == facts[1]["tests"]
    assert "some batches have 2 images for 2 processes; expected at least 2 for each" in facts[1]["said"]


def test_a_process_that_fails_stops_the_other(folder):
    said = [read_json(folder / f"facts{rank}.json")["failed"] for rank in (0, 1)]
    assert said[0] == "RuntimeError: 1 of 2 processes failed at this step, and say why"
    assert said[1].startswith("FloatingPointError: the loss is 0.")
    assert "and the regularizer adds nan at step 1 of epoch 1" in said[1]


def test_only_the_first_writes(folder):
    assert [read_json(folder / f"facts{rank}.json")["writes"] for rank in (0, 1)] == [True, False]
    written = sorted(path.name for path in (folder / "whole").iterdir())
    assert written == [".lock", "checkpoint.safetensors", "claim.json", "result.json"]


def test_accuracies_are_those_of_the_shared_model(folder):
    data = task(validation=11, test=13, train=25)
    model = net()
    model.load_state_dict(read_tensors(folder / "whole0.safetensors")[0])
    model.eval()
    with torch.no_grad():
        hits = (model(data.test.images / 255)[:, 0] > 0) == data.test.labels
    assert read_json(folder / "facts0.json")["tests"][0] == pytest.approx(float(hits.double().mean()))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_other_precisions(name, precision):
    """One process; regularizers take gradients of their own."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.launch()
    settings = ClassifySettings(epochs=1, batch_size=8, lr=0.05)
    expected = classify(net(dropout=0.0), task(), regularizer=REGULARIZERS[name](), settings=settings)
    result = classify(net(dropout=0.0), task(), regularizer=REGULARIZERS[name](), settings=settings, fabric=fabric)
    found, wanted = ((each.history[0].train_loss, each.history[0].penalty) for each in (result, expected))
    assert found != wanted
    assert found == pytest.approx(wanted, rel=0.1, abs=0.02)
    assert (found[1] > 0) == (name != "none")
