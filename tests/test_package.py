import subprocess
import sys

import pytest

import htf
import htf.jobs
import htf.training


def test_import_has_no_side_effects():
    code = """
import threading, tensorly, torch
def state():
    return tensorly.get_backend(), torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()
before = state()
import htf
assert state() == before
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names():
    assert htf.__all__ == sorted(htf.__all__)
    for name in htf.__all__:
        assert hasattr(htf, name)


def test_plotting_and_models_are_imported_when_asked_for():
    code = """
import sys
import htf
assert "matplotlib" not in sys.modules
assert "sklearn" not in sys.modules
assert htf.plotting is sys.modules["htf.plotting"]
assert htf.plotting.draw_tree
assert htf.models.TensorClassifier
assert not hasattr(htf, "plottings")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("room", "former", "present"), [(htf.training, "Fit", "LeastSquaresFit"), (htf.jobs, "Report", "Progress")]
)
def test_names_that_moved_say_where_they_went(room, former, present):
    with pytest.warns(DeprecationWarning, match=f"{former} is now .*{present}"):
        assert getattr(room, former) is getattr(room, present)
