"""The study of accuracy and interactions, on a few small trainings."""

import pytest
import torch

from benchmarks.long_range import __main__ as long_range
from benchmarks.long_range import link, recipes
from benchmarks.long_range.plots import plot_link
from htf._files import read_json, write_json
from htf.datasets import crossed_dots, far_parity, pathfinder


def test_every_network_is_measured(tmp_path, capsys):
    small = ["--epochs", "1", "--batch-size", "16", "--train", "32", "--validation", "16", "--test", "16"]
    parity = ["--task", "far_parity", "--distances", "2", "--seeds", "0:2", "--regularizers", "none"]
    long_range.main([*parity, *small, "--no-progress", "--out", str(tmp_path)])
    link.main([str(tmp_path), "--json", str(tmp_path / "link.json")])
    content = read_json(tmp_path / "link.json")
    assert [row["seed"] for row in sorted(content["rows"], key=lambda row: row["seed"])] == [0, 1, 2]
    assert all(1 <= row["value"] <= 16 and row["measure"] == "effective rank" for row in content["rows"])
    assert [(found["task"], found["networks"]) for found in content["correlations"]] == [("far_parity", 3)]
    assert (tmp_path / "link.png").stat().st_size > 1000
    assert "far_parity, effective rank: rank correlation" in capsys.readouterr().out


def test_a_convac_that_knows_the_answer_has_the_rank_of_the_answer():
    data = far_parity((2, 4), 2, levels=3, train=4, validation=0, test=0)
    model = recipes.make_model("convac", data)
    found = link.relations(model, data)[0]["value"]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter[..., 1:] = 0
    assert link.relations(model, data)[0]["value"] == pytest.approx(1)
    assert found > 1.2


def test_distances_of_the_ends():
    settings = {"path_length": 5, "dash": 3.0, "gap": 2.0}
    assert link.ends_apart({**settings, "size": 48}) == 21
    assert link.ends_apart({**settings, "size": 20}) == 16


def test_share_between_dots_of_the_answer_of_one_dot_and_of_noise():
    scenes = crossed_dots(pathfinder(3, 48, train=2, validation=300, test=0))
    numbers = torch.arange(1200.0)
    # Images that only say which of the scene's four they are.
    images = numbers.view(300, 2, 2, 1, 1, 1).expand_as(scenes)
    place = numbers.long() % 4
    answer, first = (place == 0) | (place == 3), place < 2
    noise = torch.randn(1200, generator=torch.Generator().manual_seed(0))
    of = [lambda x, v=v: v[x[:, 0, 0, 0].long()].float() for v in (answer, first, noise)]
    assert link.share_between_dots(of[0], images)[0] == pytest.approx(1)
    assert link.share_between_dots(of[1], images)[0] == pytest.approx(0)
    assert link.share_between_dots(lambda x: torch.ones(len(x)), images) == (0, 0)
    share, error = link.share_between_dots(of[2], images)
    assert abs(share - 1 / 3) < 4 * error < 0.2


def test_pathfinder_is_measured_at_its_dots_and_between_patches():
    data = pathfinder(3, 48, train=2, validation=4, test=0)
    found = link.relations(recipes.make_model("small_resnet", data).eval(), data)
    assert [row["measure"].rpartition(" between ")[2] for row in found] == ["the dots", "random patches"]
    assert all(0 <= row["value"] <= 1 and row["error"] >= 0 for row in found)


def test_correlations_are_of_tasks_and_measures_apart():
    rows = [{"task": "a", "measure": "m", "test": k, "value": k**2} for k in range(4)]
    rows += [{"task": "a", "measure": "n", "test": k, "value": -k} for k in range(4)]
    rows += [{"task": "c", "measure": "m", "test": 1, "value": 1}]
    found = link.correlations(rows)
    assert {(each["task"], each["measure"]): round(each["rank correlation"], 9) for each in found} == {
        ("a", "m"): 1,
        ("a", "n"): -1,
    }


def test_folders_without_networks(tmp_path):
    with pytest.raises(SystemExit, match="no finished training"):
        link.main([str(tmp_path)])


def test_figure_of_nothing(tmp_path):
    write_json(tmp_path / "link.json", {"rows": []})
    with pytest.raises(ValueError, match="holds no networks"):
        plot_link(tmp_path / "link.json")


def test_a_regularizer_has_one_entry_whatever_its_options(tmp_path):
    row = {"task": "a", "measure": "share", "value": 0.5, "error": 0.1, "test": 0.6}
    specs = ("none", "igc:samples=4", "igc", "interaction:grid=4")
    write_json(tmp_path / "link.json", {"rows": [{**row, "regularizer": spec} for spec in specs]})
    legend = plot_link(tmp_path / "link.json").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "no regularizer",
        "input gradient change",
        "interaction",
    ]
