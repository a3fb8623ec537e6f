import dataclasses

import pytest
import torch
from surgery_cases import branches, cnn, images
from torch import nn

from htf.surgery import Report, collapse, factorize, overparameterize, truncate


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_rows_and_totals():
    model = cnn()
    deep, report = overparameterize(model, depth=3, with_report=True)
    assert [row.name for row in report.rows] == ["0", "3", "7", "9"]
    for row in report.rows:
        assert row.parameters_before == size(model.get_submodule(row.name))
        assert row.parameters_after == size(deep.get_submodule(row.name))
        assert (row.operations_before, row.operations_after, row.error) == (None, None, None)
    assert (report.parameters_before, report.parameters_after) == (size(model), size(deep))
    assert [row.before for row in report.rows] == [
        "Conv2d(1, 8, 3×3)",
        "Conv2d(8, 16, 3×3)",
        "Linear(64, 32)",
        "Linear(32, 10)",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.parameters_before = 0


def test_parameters_that_are_shared_count_once():
    model = branches()
    deep, report = overparameterize(model, with_report=True)
    rows = {row.name: row for row in report.rows}
    assert (report.parameters_before, report.parameters_after) == (size(model), size(deep))
    assert (rows["heads.first"].parameters_before, rows["heads.second"].parameters_before) == (8 * 12 + 12, 12)
    assert (rows["heads.first"].parameters_after, rows["heads.second"].parameters_after) == (8 * 8 + 8 * 12 + 12, 12)
    assert "again" not in rows


def test_parameters_not_initialized_yet_do_not_count():
    _, report = overparameterize(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2)), with_report=True)
    assert report.parameters_before == 12
    assert ("1", "LazyLinear", "it has no weights yet; call the model once first") in report.left_alone


def test_operations_are_multiplications_of_the_example():
    model, x = cnn(), images(3)
    small, report = factorize(model, "matrix", rank=2, example=x, with_report=True)
    rows = {row.name: row for row in report.rows}
    plain = {"0": 3 * 64 * 9 * 8, "3": 3 * 16 * 9 * 8 * 16, "7": 3 * 64 * 32, "9": 3 * 32 * 10}
    assert {name: row.operations_before for name, row in rows.items()} == plain
    assert report.operations_before == sum(plain.values())
    assert rows["7"].operations_after == 3 * 2 * (64 + 32)
    assert rows["3"].operations_after == 3 * 16 * 2 * (9 * 8 + 16)
    _, collapsed = collapse(small, example=(x,), with_report=True)
    assert [row.operations_after for row in collapsed.rows] == [row.operations_after for row in report.rows]
    assert collapsed.operations_after == report.operations_after


def test_operations_of_composing_count():
    layer, x = nn.Linear(6, 5), torch.zeros(2, 6)
    _, report = overparameterize(layer, depth=2, width=4, start="random", example=x, with_report=True)
    assert (report.operations_before, report.operations_after) == (2 * 30, 2 * 30 + 5 * 4 * 6)
    assert report.rows[0].operations_after == report.operations_after


def test_counting_leaves_modes_and_statistics():
    model = branches().train()
    model.stem[1].eval()
    mean = model.stem[1].running_mean.clone()
    deep, _ = overparameterize(model, example=images(), with_report=True)
    for each in (model, deep):
        assert each.training
        assert each.blocks[0].training
        assert not each.stem[1].training
        assert torch.equal(each.stem[1].running_mean, mean)
    with pytest.raises(RuntimeError):
        overparameterize(model, example=torch.zeros(2, 5), with_report=True)
    assert model.training


def test_operations_of_transformer_layers_count():
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.zeros(2, 5, 8)
    fast = torch.backends.mha.get_fastpath_enabled()
    _, report = factorize(layer, "matrix", rank=2, example=x, with_report=True)
    rows = {row.name: (row.operations_before, row.operations_after) for row in report.rows}
    # Matrices within are multiplied by the module that reads them.
    assert rows.pop("self_attn.in_proj") == rows.pop("self_attn.out_proj") == (0, 0)
    assert rows == dict.fromkeys(("linear1", "linear2"), (10 * 8 * 16, 10 * 2 * (8 + 16)))
    # Projections, in and out, at least.
    assert report.operations_before >= 2 * 10 * 8 * 16 + 10 * 4 * 8 * 8
    assert torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("example", [3, "ab", {"x": torch.zeros(1)}])
def test_examples_of_another_kind(example):
    with pytest.raises(TypeError, match=r"example is a \w+; expected a tensor or a tuple of tensors"):
        overparameterize(cnn(), example=example, with_report=True)


def test_a_module_called_twice_counts_twice():
    model = branches()
    _, report = overparameterize(model, example=images(), with_report=True)
    rows = {row.name: row for row in report.rows}
    assert rows["blocks.1"].operations_before == 2 * rows["blocks.0"].operations_before


def test_the_table():
    model = factorize(cnn(), "matrix", rank=4, modules=["3", "7"])
    report = truncate(model, rank=2, example=images())
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "before", "after", "parameters", "operations", "error"]
    assert lines[2].split()[:5] == ["7", "FactorizedLinear(matrix,", "rank", "4)", "FactorizedLinear(matrix,"]
    assert "416 → 224 (53.8%)" in lines[2]
    assert lines[3].startswith("whole model")
    assert lines[4:] == [
        "left alone:",
        "  0  Conv2d  plain: factorize it first",
        "  9  Linear  plain: factorize it first",
    ]
    ends = {len(line) for line in lines[:3]}
    assert len(ends) == 1
    without = str(collapse(model, with_report=True)[1])
    assert "operations" not in without
    assert "left alone" not in without
    assert "Linear(64, 2), Linear(2, 32)" in without


def test_an_empty_report():
    report = Report((), (), 10, 10)
    assert str(report).splitlines()[-1].split() == ["whole", "model", "10", "→", "10", "(100.0%)"]
