"""The study of accuracy and interactions, on a few small trainings."""

import pytest
import torch

from htf._files import read_json, write_json
from htf.datasets import far_parity
from htf.plotting import plot_link

long_range = pytest.importorskip("long_range", reason="the benchmarks are not beside the tests")
link, recipes = pytest.importorskip("long_range_link"), pytest.importorskip("long_range_recipes")


def test_every_network_is_measured(tmp_path, capsys):
    small = ["--epochs", "1", "--batch-size", "16", "--train", "32", "--validation", "16", "--test", "16"]
    parity = ["--task", "far_parity", "--distances", "2", "--seeds", "0:2", "--regularizers", "none"]
    long_range.main([*parity, *small, "--no-progress", "--out", str(tmp_path)])
    link.main([str(tmp_path), "--json", str(tmp_path / "link.json")])
    content = read_json(tmp_path / "link.json")
    assert [row["seed"] for row in sorted(content["rows"], key=lambda row: row["seed"])] == [0, 1, 2]
    assert all(1 <= row["value"] <= 16 and row["measure"] == "effective rank" for row in content["rows"])
    assert content["correlations"]["far_parity"]["networks"] == 3
    assert (tmp_path / "link.png").stat().st_size > 1000
    assert "far_parity: rank correlation" in capsys.readouterr().out


def test_a_convac_that_knows_the_answer_has_the_rank_of_the_answer():
    data = far_parity((2, 4), 2, levels=3, train=4, validation=0, test=0)
    model = recipes.make_model("convac", data)
    found = link.relation(model, data)["value"]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter[..., 1:] = 0
    assert link.relation(model, data)["value"] == pytest.approx(1)
    assert found > 1.2


def test_distances_of_the_ends():
    assert link.ends_apart({"path_length": 5, "dash": 3.0, "gap": 2.0}) == 21


def test_correlations_are_of_tasks_apart():
    rows = [{"task": "a", "test": k, "value": k**2} for k in range(4)]
    rows += [{"task": "b", "test": k, "value": -k} for k in range(4)] + [{"task": "c", "test": 1, "value": 1}]
    found = link.correlations(rows)
    assert {task: round(each["rank correlation"], 9) for task, each in found.items()} == {"a": 1, "b": -1}


def test_folders_without_networks(tmp_path):
    with pytest.raises(SystemExit, match="no finished training"):
        link.main([str(tmp_path)])


def test_figure_of_nothing(tmp_path):
    write_json(tmp_path / "link.json", {"rows": []})
    with pytest.raises(ValueError, match="holds no networks"):
        plot_link(tmp_path / "link.json")
