"""Plans of a probe that are kept in its folder."""

import shutil
import warnings

import pytest
import torch

from htf import DimensionTree
from htf.datasets import load
from htf.engine.stored import plans_from_parts, plans_to_parts
from htf.nn import CPNetwork, HTNetwork
from htf.probes import jobs, plans, rank_fit
from htf.training import FitSettings
from htf.training.digests import digest

SETTINGS = FitSettings(epochs=1)


@pytest.fixture(scope="module")
def data():
    return load().take(120, 40)


def run(data, out, **changes):
    return rank_fit(
        data, **({"ranks": [2], "twins": ["original"], "settings": SETTINGS, "progress": False, "out": out} | changes)
    )


def digest_of(path):
    """Of the content, as the names in a safetensors file come in any order."""
    tensors, about = plans.read_tensors(path, plans.KIND)
    return digest(*(tensors[name] for name in sorted(tensors))), about


def forget_fits(out):
    """As if the run had been stopped before its first fit was finished."""
    shutil.rmtree(out / "fits")


@pytest.fixture
def no_planning(monkeypatch):
    def refuse(*given):
        raise AssertionError("planned")

    monkeypatch.setattr(jobs.Inputs, "_make_plans", refuse)


def networks():
    x = torch.randint(0, 3, (200, 16), generator=torch.Generator().manual_seed(0))
    # Windows that show few values and many, so that steps take rows together.
    y = torch.randint(0, 2000, (300, 16), generator=torch.Generator().manual_seed(0))
    y[:, :4] %= 2
    y[:, 4:8] = y[:, 4:5] % 30
    yield CPNetwork([3] * 16, [2, 3], seed=0), x
    yield CPNetwork([3] * 4, 2, seed=0), x[:, :4]
    yield HTNetwork(DimensionTree.grid(4, 4), 3, 4, runs=2, seed=0), x
    yield HTNetwork(DimensionTree.balanced(16, arity=4), 2000, 3, seed=0), y


@pytest.mark.parametrize("case", range(4))
def test_a_stored_plan_is_the_plan(case, tmp_path):
    network, x = list(networks())[case]
    made = [network.plan(x), network.plan(x[:50])]
    tensors, about = plans_to_parts(made)
    plans.write_tensors(tmp_path / "plan", tensors, {"plans": about})
    tensors, found = plans.read_tensors(tmp_path / "plan")
    read = plans_from_parts(tensors, found["plans"], network.tree, network.device)
    for one, other in zip(made, read, strict=True):
        assert str(one) == str(other)
        assert digest(one) == digest(other)
        outputs = [network(plan) for plan in (one, other)]
        gradients = [torch.autograd.grad(out.square().sum(), list(network.parameters())) for out in outputs]
        assert torch.equal(*outputs)
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_a_run_that_goes_on_reads_its_plans(data, tmp_path, request):
    first = run(data, tmp_path)
    assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == [
        "cp_original0.safetensors",
        "ht_original0.safetensors",
    ]
    forget_fits(tmp_path)
    request.getfixturevalue("no_planning")
    again = run(data, tmp_path)
    assert [r.train_history for r in again.records] == [r.train_history for r in first.records]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_plans_are_made_anew(data, tmp_path, damage):
    first = run(data, tmp_path, formats=["cp"])
    forget_fits(tmp_path)
    path = tmp_path / "plans" / "cp_original0.safetensors"
    whole = digest_of(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match=r"cp_original0.*damaged.*made anew"):
        again = run(data, tmp_path, formats=["cp"])
    assert [r.train_history for r in again.records] == [r.train_history for r in first.records]
    assert digest_of(path) == whole


def test_plans_of_something_else_are_made_anew(data, tmp_path):
    run(data, tmp_path / "mine", formats=["cp"])
    name = "plans/cp_original0.safetensors"
    expected = digest_of(tmp_path / "mine" / name)
    others = {
        "data": {"data": data.holdout()},
        "levels": {"levels": 3},
        "batch": {"settings": FitSettings(epochs=1, batch_size=7)},
    }
    for other, changes in others.items():
        out = tmp_path / other
        run(**({"data": data, "out": out, "formats": ["cp"]} | changes))
        forget_fits(tmp_path / "mine")
        shutil.copy(out / name, tmp_path / "mine" / name)
        with pytest.warns(RuntimeWarning, match="holds the plans of.*made anew"):
            run(data, tmp_path / "mine", formats=["cp"])
        assert digest_of(tmp_path / "mine" / name) == expected


def test_plans_that_cannot_be_written_are_used_all_the_same(data, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plans, "write_tensors", full)
    with pytest.warns(RuntimeWarning, match="No space left.*makes these plans anew"):
        found = run(data, tmp_path, formats=["cp"])
    assert len(found.records) == 1


def test_without_a_folder_nothing_is_kept(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(data, None, formats=["cp"])
    assert not list(tmp_path.iterdir())
