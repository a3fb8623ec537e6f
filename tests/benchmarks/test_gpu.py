"""The GPU benchmark, rehearsed on the CPU, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


def test_every_stage_is_rehearsed_on_the_cpu(tmp_path):
    done = run("--device", "cpu", "--tiny", "--minutes", 10, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    run_of = json.loads((tmp_path / "out/run.json").read_text())
    assert run_of["machine"]["versions"]["torch"] == torch.__version__
    for name in ("limits", "tests", "probe", "dynamics", "tensors", "layers", "models", "long_range"):
        stage = json.loads((tmp_path / f"out/{name}.json").read_text())
        assert stage["ok"], name
        assert stage["rows"], name
        assert f"| {name} |" in (tmp_path / "out/summary.md").read_text()
    checks = json.loads((tmp_path / "out/tests.json").read_text())["checks"]
    # On the CPU float64 is compared with itself, float32 with it.
    assert all(check["error"] == 0 for check in checks if check["dtype"] == "torch.float64")
    assert all(0 < check["error"] < 1e-2 for check in checks if check["dtype"] == "torch.float32")


def test_results_of_another_source_are_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"source_sha256": "0" * 64, "tiny": True}))
    done = run("--device", "cpu", "--tiny", "--only", "limits", "--out", tmp_path)
    assert done.returncode == 1
    assert "holds results with source_sha256 000" in done.stderr


def test_a_stage_without_time_is_skipped_by_name_and_by_exit_code(tmp_path):
    done = run("--device", "cpu", "--tiny", "--minutes", 0.02, "--only", "limits", "probe", "--out", tmp_path)
    assert done.returncode == 3
    assert "probe: skipped" in done.stdout
    assert "| probe | not run |" in (tmp_path / "summary.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told(tmp_path):
    done = run("--out", tmp_path)
    assert done.returncode == 1
    assert "finds no GPU; rehearse by --device cpu" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "expected above 0"),
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--wheels", "nowhere"], "holds no .whl file"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    done = run("--device", "cpu", "--out", tmp_path, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
