import importlib
import subprocess
import sys

import pytest

import htf
import htf.jobs
import htf.training


def test_public_names():
    assert htf.__all__ == sorted(htf.__all__)
    assert set(htf.__all__) <= set(dir(htf))
    for name in htf.__all__:
        assert hasattr(htf, name)
    starred = {}
    exec("from htf import *", starred)
    assert set(htf.__all__) <= set(starred)


def test_names_are_those_of_their_rooms():
    assert htf.hierarchical_tucker is importlib.import_module("htf.decomposition").hierarchical_tucker
    assert htf.factorize is htf.surgery.factorize
    assert htf.load is htf.tensors.load is not htf.models.load
    for name in ("tree", "engine", "linalg", "patches", "decomposition"):
        assert getattr(htf, name) is importlib.import_module(f"htf.{name}")
    with pytest.raises(AttributeError, match="module 'htf' has no attribute 'plottings'"):
        _ = htf.plottings
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'htf'"):
        exec("from htf import nothing")


def test_nothing_is_imported_before_it_is_asked_for_and_imports_have_no_side_effects():
    code = """
import sys
import htf
assert not {"torch", "tensorly", "numpy"} & set(sys.modules)
import threading, tensorly, torch
def state():
    return tensorly.get_backend(), torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()
before = state()
tree = htf.DimensionTree.balanced(4)
assert htf.DimensionTree is htf.tree.DimensionTree
assert htf.nn.HTNetwork
assert not {"matplotlib", "sklearn"} & set(sys.modules)
assert htf.plotting is sys.modules["htf.plotting"]
assert htf.plotting.draw_tree
assert htf.models.TensorClassifier
assert htf.probes and htf.dynamics and htf.surgery and htf.regularizers and htf.arrange
assert state() == before
assert threading.active_count() == 1
import pickle
from htf import HTTensor, random_ht
assert pickle.loads(pickle.dumps(tree)) == tree
assert type(pickle.loads(pickle.dumps(random_ht((2, 3), 2)))) is HTTensor
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("room", "former", "present"), [(htf.training, "Fit", "LeastSquaresFit"), (htf.jobs, "Report", "Progress")]
)
def test_names_that_moved_say_where_they_went(room, former, present):
    with pytest.warns(DeprecationWarning, match=f"{former} is now .*{present}"):
        assert getattr(room, former) is getattr(room, present)


def test_the_command_answers_without_torch():
    answered = [["--help"], ["--version"], ["probe", "--help"], ["dynamics", "--help"], ["plot", "--help"]]
    code = f"""
import sys
from htf.cli import main
for options in {[*answered, ["prob"], []]!r}:
    try:
        main(options)
    except SystemExit as end:
        print("status", end.code)
assert not {{"torch", "tensorly", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if line[:6] == "status"] == ["status 0"] * 5 + ["status 2"] * 2
    assert "how low a rank fits a data set" in done.stdout
    assert "probe,dynamics,plot" in done.stdout
