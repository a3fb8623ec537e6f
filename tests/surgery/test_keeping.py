"""What surgery leaves as it was: hooks, ties, modes, devices, dtypes, names, buffers, and the model itself."""

import copy

import pytest
import torch
from surgery_cases import branches, cnn, images, outputs, train
from torch import nn

from htf.nn.layers.drop_in import DropInLayer
from htf.surgery import collapse, factorize, overparameterize, truncate

CONVERSIONS = {
    "overparameterize": lambda model, **given: overparameterize(model, depth=3, seed=0, **given),
    "factorize": lambda model, **given: factorize(model, "matrix", rank=2, **given),
}


@pytest.fixture(params=CONVERSIONS)
def convert(request):
    return CONVERSIONS[request.param]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model, before):
    now = model.state_dict()
    assert list(now) == list(before)
    return all(torch.equal(now[name], value) for name, value in before.items())


def stand_ins(model):
    return [module for module in model.modules() if isinstance(module, DropInLayer)]


def test_the_model_itself_is_not_changed(convert):
    model = branches().train()
    before, objects = state(model), list(model.modules())
    deep = convert(model)
    assert same_state(model, before)
    assert [*model.modules()] == objects
    before, objects = state(deep), list(deep.modules())
    plain = collapse(deep)
    assert same_state(deep, before)
    assert [*deep.modules()] == objects
    assert not {id(p) for p in model.parameters()} & {id(p) for p in deep.parameters()}
    assert not {id(p) for p in deep.parameters()} & {id(p) for p in plain.parameters()}


def test_a_layer_by_itself(convert):
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 9), torch.randn(3, 12)
    deep = convert(layer)
    assert isinstance(deep, DropInLayer)
    y = outputs(deep, x)
    torch.testing.assert_close(outputs(collapse(deep), x), y)
    before = type(deep)
    report = truncate(deep, rank=1)
    assert type(deep) is before
    assert torch.linalg.matrix_rank(deep.weight) == 1
    assert [row.name for row in report.rows] == ["(the model)"]


def test_a_module_under_two_names_is_one_still(convert):
    model = convert(branches())
    assert model.again is model.blocks[1]
    assert isinstance(model.again, DropInLayer)
    truncate(model, rank=1)
    assert model.again is model.blocks[1]
    plain = collapse(model)
    assert plain.again is plain.blocks[1]


def test_layers_that_share_a_weight_share_factors(convert):
    model = convert(branches())
    for stage in (model, train(model), collapse(model)):
        first, second = stage.heads["first"], stage.heads["second"]
        assert first is not second
        mine, theirs = dict(first.named_parameters()), dict(second.named_parameters())
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert (mine[name] is theirs[name]) == (not name.endswith("bias")), name
    report = truncate(model, rank=1)
    rows = {row.name: row for row in report.rows}
    assert rows["heads.first"].parameters_after > rows["heads.second"].parameters_after == 12
    first, second = model.heads["first"], model.heads["second"]
    assert all(a is b for a, b in zip(first.factors, second.factors, strict=True))
    assert report.parameters_after == sum(p.numel() for p in model.parameters())


def test_a_weight_of_an_unchanged_module_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20))
    model[2].weight = model[0].weight
    deep, report = overparameterize(model, with_report=True)
    assert deep[2].weight is deep[0].weight
    assert ("2", "Linear", "its weight is also that of 0 (Embedding)") in report.left_alone
    assert isinstance(deep[1], DropInLayer)
    with pytest.raises(ValueError, match=r"its weight is also that of 0 \(Embedding\)"):
        overparameterize(model, modules=["2"])


def test_a_weight_shared_with_a_layer_that_is_not_selected_is_left_alone():
    model = branches()
    _, report = overparameterize(model, modules=["[bh]*s.[1f]*"], with_report=True)
    told = {name: reason for name, _, reason in report.left_alone}
    assert told["heads.first"] == "its weight is also that of heads.second (Linear)"
    assert told["heads.second"] == "not selected"


def test_batch_normalization_inside_would_part_shared_weights():
    model, report = overparameterize(branches(), batch_norm=True, seed=0, with_report=True)
    told = {name: reason for name, _, reason in report.left_alone}
    assert "cannot be" in told["heads.first"]
    assert model.heads["first"].weight is model.heads["second"].weight
    assert isinstance(model.again, DropInLayer)


def test_a_shared_bias_stays_shared(convert):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].bias = model[0].bias
    deep = convert(model)
    assert deep[1].bias is deep[0].bias is not deep[2].bias
    truncate(deep, rank=1)
    assert deep[1].bias is deep[0].bias
    plain = collapse(deep)
    last = [part[-1] if isinstance(part, nn.Sequential) else part for part in plain]
    assert last[1].bias is last[0].bias is not last[2].bias
    assert torch.equal(last[0].bias, model[0].bias)


def test_hooks_go_with_the_place(convert):
    calls = []
    model = cnn()
    model[7].register_forward_hook(lambda module, x, y: calls.append(("forward", type(module))))
    model[7].register_forward_pre_hook(lambda module, x, given: calls.append("pre"), with_kwargs=True)
    model[7].register_full_backward_hook(lambda module, before, after: calls.append("backward"))
    deep = convert(model)
    plain = collapse(deep)
    handles = {}
    for each in (deep, plain):
        calls.clear()
        each(images()).sum().backward()
        assert calls == ["pre", ("forward", type(each[7])), "backward"]
        handles[each] = each[7].register_forward_hook(lambda module, x, y: calls.append("late"))
    truncate(deep, rank=1)
    deep(images())
    assert calls[-1] == "late"
    handles[deep].remove()
    calls.clear()
    deep(images())
    assert calls == ["pre", ("forward", type(deep[7]))]


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_what_is_trained(convert, training):
    model = branches().train(training)
    model.blocks[0].train(not training)
    model.blocks[0].requires_grad_(False)
    model.stem[0].bias.requires_grad_(False)
    deep = convert(model)
    truncated = copy.deepcopy(deep)
    truncate(truncated, rank=1)
    for each in (deep, truncated, collapse(deep)):
        assert each.training == each.stem.training == each.stem[0].training == training
        assert all(m.training == (not training) for m in each.blocks[0].modules())
        assert not any(p.requires_grad for p in each.blocks[0].parameters())
        first = dict(each.stem[0].named_parameters())
        assert {name.rpartition(".")[2]: p.requires_grad for name, p in first.items()}["bias"] is False
        assert all(p.requires_grad for name, p in first.items() if not name.endswith("bias"))
        assert all(p.requires_grad for p in each.heads.parameters())


@pytest.mark.parametrize("kind", [{"dtype": torch.float64}, {"device": "meta"}])
def test_dtype_and_device(kind):
    model = cnn().to(**kind)
    deep = overparameterize(model, depth=3, start="random", seed=0)
    plain = collapse(deep)
    for each in (deep, plain):
        for parameter in each.parameters():
            assert parameter.dtype == kind.get("dtype", torch.float32)
            assert parameter.device.type == kind.get("device", "cpu")
    assert not any(isinstance(m, DropInLayer) for m in plain.modules())


def test_weights_on_the_meta_device_have_no_values(convert):
    told = r"model has no values for 0, which is on the meta device"
    with pytest.raises(ValueError, match=told):
        convert(cnn().to("meta"))
    model = convert(cnn().to("meta"), start="random")
    with pytest.raises(ValueError, match=told):
        truncate(model, rank=1)


def test_names_order_and_buffers(convert):
    model = branches()
    model.note = "kept"
    train(model)
    deep = convert(model)
    assert list(dict(deep.named_children())) == list(dict(model.named_children()))
    assert (list(deep.heads), len(deep.blocks), deep.note) == (["first", "second"], 2, "kept")
    assert torch.equal(deep.stem[1].running_var, model.stem[1].running_var)
    plain = collapse(overparameterize(model, depth=2))
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(plain.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_changed_model_can_be_copied_and_its_state_loaded(convert):
    model = convert(branches())
    x, y = images(), outputs(model, images())
    again = copy.deepcopy(model)
    assert torch.equal(outputs(again, x), y)
    train(again)
    assert not torch.equal(outputs(again, x), y)
    again.load_state_dict(model.state_dict())
    assert torch.equal(outputs(again, x), y)


def test_the_biases_that_an_optimizer_has_stay(convert):
    model = convert(cnn())
    biases = [layer.bias for layer in stand_ins(model)]
    truncate(model, rank=1)
    assert all(layer.bias is bias for layer, bias in zip(stand_ins(model), biases, strict=True))
