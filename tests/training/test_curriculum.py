"""Curricula: equal to trainings in turn, resumed in any stage, and stages that a model cannot take."""

import shutil
from dataclasses import replace

import pytest
import torch
from classification_cases import SIDE, Noisy, net, same_state, state_of, task
from torch import nn

from htf.training import (
    ClassifySettings,
    CurriculumResult,
    Stage,
    classify,
    curriculum,
    early_stopping,
    load_trained,
    reached,
)

SHORT = ClassifySettings(epochs=2, batch_size=8, lr=0.05)


def stages(noisy=None, **changes):
    decayed = replace(SHORT, weight_decay=0.01, seed=1)
    return [
        Stage(task(), noisy, SHORT, name="near", **changes),
        Stage(task(seed=1), None, decayed),
        Stage(task(seed=2), Noisy(), replace(SHORT, epochs=3), name="far"),
    ]


def untimed(result):
    return [{**row, "seconds": 0.0} for row in result.rows()]


def test_stages_are_trainings_in_turn_from_the_weights_best_on_validation(tmp_path):
    result = curriculum(model := net(), stages(Noisy()), out=tmp_path / "all")
    expected, rows = net(), []
    for number, stage in enumerate(stages(Noisy())):
        folder = tmp_path / f"{number}"
        alone = classify(expected, stage.data, regularizer=stage.regularizer, settings=stage.settings, out=folder)
        load_trained(expected, folder, "best")
        rows += [epoch.validation_accuracy for epoch in alone.history]
        assert alone.test_best_validation == result.stages[number].test_best_validation
    assert same_state(model, expected)
    assert [row["validation_accuracy"] for row in result.rows()] == rows
    assert [row["epoch"] for row in result.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["name"] for row in result.rows()] == ["near"] * 2 + ["left"] * 2 + ["far"] * 3
    seconds = [row["seconds"] for row in result.rows()]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(result.seconds)
    assert result.test == result.stages[-1].test_best_validation
    assert CurriculumResult.load(tmp_path / "all" / "curriculum.json").rows() == result.rows()
    assert len((tmp_path / "all" / "history.csv").read_text().splitlines()) == 8


@pytest.mark.parametrize("stage", [0, 2])
def test_one_that_was_interrupted_goes_on_bit_for_bit(stage, tmp_path):
    whole = curriculum(expected := net(), stages(Noisy()))
    begun = stages(Noisy(2 if stage == 0 else None))
    if stage == 2:
        begun[2] = replace(begun[2], regularizer=Noisy(4))
    model, start = net(), state_of(net())
    with pytest.raises(KeyboardInterrupt):
        curriculum(model, begun, out=tmp_path / "0")
    # The same call again, by the model that was left as by a new one.
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    for k, other in enumerate((net(), model)):
        result = curriculum(other, stages(Noisy()), out=tmp_path / str(k))
        assert same_state(other, expected)
        assert untimed(result) == untimed(whole)


def test_stages_can_be_added_to_one_that_is_finished(tmp_path):
    curriculum(net(), stages()[:2], out=tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("stage-*/checkpoint.safetensors"))]
    more = curriculum(model := net(), stages(), out=tmp_path)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("stage-*/checkpoint.safetensors"))][:2] == times
    whole = curriculum(expected := net(), stages())
    assert same_state(model, expected)
    assert untimed(more) == untimed(whole)


def test_a_finished_one_is_loaded_and_nothing_is_written(tmp_path):
    first = curriculum(net(), stages(), out=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert curriculum(net(), stages(), out=tmp_path).rows() == first.rows()
    kept = {path: path.stat().st_mtime_ns for path in files}
    assert {path for path in files if "lock" not in path.name and files[path] != kept[path]} == set()


def test_a_rule_ends_a_stage_once_validation_says_so():
    easy = ClassifySettings(epochs=60, batch_size=8, lr=0.05)
    result = curriculum(net(dropout=0.0), [Stage(task(), settings=easy, rules=reached(0.9))])
    reached_at = [row["validation_accuracy"] >= 0.9 for row in result.rows()]
    assert reached_at == [False] * (len(reached_at) - 1) + [True]
    assert result.epochs < 60
    assert result.stages[0].stopped == "validation/accuracy reached 0.9"


def test_reached_waits_for_moments_in_a_row_and_reads_losses_as_they_are():
    errors = torch.tensor([[0.3], [0.1], [0.2], [0.1], [0.05]])
    rule = reached(0.9, moments=2)
    assert [bool(rule(torch.arange(k), errors[:k], 0.0)) for k in range(1, 6)] == [False, False, False, False, True]
    rule = reached(0.1, on="loss")
    assert [bool(rule(torch.arange(k), errors[:k], 0.0)) for k in range(1, 4)] == [False, True, False]
    # Of several runs all have to.
    assert not reached(0.9)(torch.arange(1), torch.tensor([[0.05, 0.5]]), 0.0)


def test_classify_takes_rules():
    settings = ClassifySettings(epochs=60, batch_size=8, lr=0.0001)
    result = classify(net(), task(), settings=settings, rules=early_stopping(patience=2))
    assert result.epochs < 60
    assert result.stopped.startswith("no better validation/accuracy") or "moments in a row" in result.stopped


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ([], ValueError, "stages is empty"),
        (Stage(task()), TypeError, "stages is a Stage; expected a sequence"),
        ([Stage(task()), task()], TypeError, "stage 2 is a LongRangeData; expected a Stage"),
        (
            [Stage(task()), Stage(task(channels=3), name="colour")],
            ValueError,
            r"stage 2 \(colour\) has inputs.*3, 8, 8",
        ),
        (
            [Stage(task()), Stage(task(classes=3), name="three")],
            ValueError,
            r"stage 2 \(three\): model tells 2 classes",
        ),
        (
            [Stage(task()), Stage((torch.zeros(0, 1, SIDE, SIDE), torch.zeros(0).long()), name="none")],
            ValueError,
            r"stage 2 \(none\) has no training samples",
        ),
    ],
)
def test_stages_that_cannot_be_are_told_before_any_training(changed, error, message):
    model = net()
    start = state_of(model)
    with pytest.raises(error, match=message):
        curriculum(model, changed)
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())


def test_inputs_of_another_size_are_told_with_those_of_other_stages():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 1))
    wide = (torch.zeros(20, 1, SIDE, SIDE + 1), torch.arange(20) % 2)
    with pytest.raises(
        ValueError, match=r"stage 2 \(data\) has inputs of shape \(1, 8, 9\).*stage 1 \(left\) has \(1, 8, 8\)"
    ):
        curriculum(flat, [Stage(task()), Stage(wide)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"settings": 3}, TypeError, "settings is a int"),
        ({"name": 3}, TypeError, "name is a int"),
        ({"rules": 3}, TypeError, "rules is a int"),
        ({"regularizer": 3}, TypeError, "regularizer is a int"),
    ],
)
def test_arguments_of_a_stage_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Stage(task(), **arguments)


@pytest.mark.parametrize("value", [0.0, 1.5, float("nan")])
def test_a_value_that_cannot_be_reached_is_refused(value):
    with pytest.raises(ValueError, match="value is"):
        reached(value)


def test_a_folder_of_another_start_or_run_is_refused(tmp_path):
    curriculum(net(), stages()[:1], out=tmp_path / "a")
    with pytest.raises(ValueError, match="parameters at the start"):
        curriculum(net(seed=1), stages()[:1], out=tmp_path / "a")
    with pytest.raises(ValueError, match="lr"):
        curriculum(net(), [Stage(task(), settings=replace(SHORT, lr=0.1))], out=tmp_path / "a")
    classify(net(), task(), settings=SHORT, out=tmp_path / "b")
    with pytest.raises(ValueError, match="no curriculum but a training"):
        curriculum(net(), stages()[:1], out=tmp_path / "b")


def test_what_no_curriculum_has_saved_is_refused(tmp_path):
    result = curriculum(net(), stages()[:1])
    result.save(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    (tmp_path / "c.json").write_text(text.replace("0.05", "0.06"))
    with pytest.raises(ValueError, match=r"c\.json"):
        CurriculumResult.load(tmp_path / "c.json")


def test_steps_of_all_stages_are_told():
    calls = []
    result = curriculum(net(), stages(), on_advance=lambda: calls.append(None))
    batches = -(-len(task().train) // SHORT.batch_size)
    assert len(calls) == result.epochs * batches
