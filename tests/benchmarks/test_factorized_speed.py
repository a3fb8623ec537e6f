"""The speed benchmark of factorized layers, on small ones."""

import json

import pytest
import tensorly as tl
import torch

from benchmarks.speed import factorized as factorized_speed
from htf.nn.layers.factorized.choice import NAMES

SMALL = ["--features", "8", "12", "--channels", "4", "6", "--image", "5", "5", "--batch", "2", "--shares", "0.5"]


def test_all_sides_are_timed(tmp_path, capsys):
    threads, backend = torch.get_num_threads(), tl.get_backend()
    path = tmp_path / "report" / "speed.json"
    factorized_speed.main([*SMALL, "--turns", "1", "--steps", "1", "--threads", str(threads), "--json", str(path)])
    report = json.loads(path.read_text())
    assert tl.get_backend() == backend
    assert report["versions"]["opt_einsum"]
    assert report["versions"]["torch"] == torch.__version__
    rows = report["steps"]
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    for kind in ("linear", "conv"):
        own = [row for row in rows if row["layer"] == kind]
        assert [row["format"] for row in own if row["side"] == "htf"] == list(NAMES)
        assert own[0]["side"] == "plain"
        assert own[0]["ratio"] == 1
        for row in own:
            assert row["ms"] > 0
            assert row["numbers"] <= own[0]["numbers"] or row["side"] == "tensorly-torch"
            assert (row["applies"] is None) == (row["side"] != "htf")


def test_sides_that_do_not_exist_are_refused(capsys):
    with pytest.raises(SystemExit):
        factorized_speed.main(["--formats", "svd"])
    assert "invalid choice: 'svd'" in capsys.readouterr().err
