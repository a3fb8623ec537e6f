"""The benchmark of growing distances, on a few small images."""

import csv
from dataclasses import replace

import pytest

from benchmarks.long_range import growing
from htf._files import read_json

ARGUMENTS = ["--task", "pathfinder", "--no-progress", "--dry-run"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    ladder = growing.LADDERS["pathfinder"]
    smaller = replace(ladder, distances=(2, 3), images=(20, 30), data={**ladder.data, "size": 32}, of_distance={})
    monkeypatch.setitem(growing.LADDERS, "pathfinder", smaller)


def table(out):
    with (out / "dry_run" / growing.TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_row_a_stage_and_a_figure_and_grows(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--starts", "none", "gradient_field", "--out", str(tmp_path)]
    growing.main([*arguments, "--seeds", "0"])
    first = table(tmp_path)
    growing.main([*arguments, "--seeds", "0:1"])
    rows = table(tmp_path)
    assert all(row in rows for row in first)
    assert [(row["start"], row["seed"], row["stage"], row["distance"]) for row in rows] == [
        (start, seed, *stage)
        for start in ("gradient_field", "none")
        for seed in "01"
        for stage in (("1", "2"), ("2", "3"))
    ]
    # The help is that of the first distance alone.
    assert [row["regularizer"] for row in rows[:2]] == ["gradient_field:samples=8,size=2", "none"]
    assert [float(row["weight"]) for row in rows[:2]] == [3.0, 0.0]
    assert (tmp_path / "dry_run" / growing.FIGURE).stat().st_size > 1000
    assert "(8 stages)" in capsys.readouterr().out
    for row in rows:
        (folder,) = tmp_path.glob(f"dry_run/jobs/*_{row['settings_sha256'][:8]}")
        (stage,) = folder.glob(f"stages/stage-{row['stage']}")
        assert float(row["test"]) == read_json(stage / "result.json")["test_best_validation"]


def test_help_can_be_kept(tmp_path):
    arguments = [*ARGUMENTS, "--starts", "weight_decay", "--kept", "--seeds", "0", "--out", str(tmp_path)]
    growing.main(arguments)
    assert [row["weight_decay"] for row in table(tmp_path)] == ["0.01", "0.01"]


def test_two_recipes_are_not_one_curve(tmp_path):
    arguments = [*ARGUMENTS, "--starts", "none", "--seeds", "0", "--out", str(tmp_path)]
    growing.main(arguments)
    with pytest.raises(ValueError, match="two recipes for pathfinder from none"):
        growing.main([*arguments, "--enough", "0.9"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--starts", "dropout"], "remedy dropout has no dropout for pathfinder"),
        (["--images", "20", "30", "40"], "3 numbers for 2 distances"),
    ],
)
def test_what_there_is_no_recipe_for_is_told(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        growing.main([*ARGUMENTS, *arguments, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distances", "5", "3"], "[5, 3]; expected growing"),
        (["--enough", "0.4"], "--enough is 0.4"),
        (["--images", "1"], "[1]; expected at least 2"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        growing._options([*ARGUMENTS, *arguments])
    assert message in capsys.readouterr().err


def test_any_remedy_can_be_the_start(tmp_path):
    growing.main([*ARGUMENTS, "--starts", "dropout=0.3", "masked_patches=4", "--seeds", "0", "--out", str(tmp_path)])
    rows = table(tmp_path)
    assert [(row["start"], row["stage"]) for row in rows] == [
        ("dropout", "1"), ("dropout", "2"), ("masked_patches", "1"), ("masked_patches", "2")
    ]  # fmt: skip
    assert len(list(tmp_path.glob("dry_run/jobs/*/pretraining/checkpoint*"))) > 0
