import pytest
import torch
from surgery_cases import branches, cnn, images, outputs
from torch import nn

from htf.surgery import collapse, factorize, overparameterize, truncate
from htf.surgery._budget import fit_into


def size(model):
    return sum(p.numel() for p in model.parameters())


def weights(model):
    names = [name for name, module in model.named_modules() if hasattr(module, "factors")]
    return {name: model.get_submodule(name).weight.detach().clone() for name in names}


@pytest.fixture(params=["ht", "matrix", "deep"])
def model(request):
    if request.param == "deep":
        return overparameterize(cnn(), depth=3, seed=0, modules=["3", "7"])
    return factorize(cnn(), request.param, rank=0.9, modules=["3", "7"])


def test_errors_are_within_the_tolerance_and_as_reported(model):
    before = weights(model)
    report = truncate(model, tol=0.5)
    after = weights(model)
    assert report.rows
    for row in report.rows:
        error = float((after[row.name] - before[row.name]).norm() / before[row.name].norm())
        assert 0 < error <= 0.5
        assert row.error == pytest.approx(error, rel=1e-3)
        assert row.parameters_after < row.parameters_before
    changed = {row.name for row in report.rows}
    assert all(torch.equal(after[name], before[name]) for name in after if name not in changed)


def test_nothing_is_cut_within_rounding():
    small = factorize(cnn(), "matrix", rank=4)
    before = list(small.parameters())
    report = truncate(small, tol=1e-6)
    assert not report.rows
    assert {reason for _, kind, reason in report.left_alone if kind.startswith("Factorized")} == {"nothing to cut"}
    assert all(p is q for p, q in zip(small.parameters(), before, strict=True))


def test_ranks(model):
    truncate(model, rank=2)
    for name, weight in weights(model).items():
        if type(model.get_submodule(name)).__name__ in ("OverparamLinear", "OverparamConv2d"):
            assert torch.linalg.matrix_rank(weight.flatten(1), rtol=1e-4) == 2
    assert size(model) < 0.7 * size(cnn())


def test_a_share_of_the_plain_weights():
    small = factorize(cnn(), "ht", rank=0.9)
    truncate(small, rank=0.25)
    for layer in (small[3], small[7]):
        assert sum(f.numel() for f in layer.factors) <= 0.25 * layer.weight.numel()


def in_use(model):
    """Parameters where over-parameterized layers are collapsed, and factorized ones stay where they are smaller."""
    if any(type(module).__name__.startswith("Overparam") for module in model.modules()):
        return size(collapse(model))
    layers = [module for module in model.modules() if type(module).__name__.startswith("Factorized")]
    return size(model) - sum(max(size(layer) - size(layer.plain()), 0) for layer in layers)


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_budget_is_met_with_one_error(model, share):
    limit = int(share * in_use(model))
    report = truncate(model, budget=share)
    assert 0.8 * limit < in_use(model) <= limit
    assert (report.parameters_after, report.in_use_after) == (size(model), in_use(model))


def test_a_budget_as_a_number_and_one_that_is_met_already(model):
    total = in_use(model)
    report = truncate(model, budget=total)
    assert not report.rows
    truncate(model, budget=total // 2)
    assert 0.4 * total < in_use(model) <= total // 2


@pytest.mark.parametrize("depth", [2, 4])
def test_a_budget_is_a_share_of_the_plain_model(depth):
    plain = cnn()
    deep = overparameterize(plain, depth=depth, seed=0)
    report = truncate(deep, budget=0.5)
    assert 0.45 * size(plain) < size(collapse(deep)) <= 0.5 * size(plain)
    assert (report.in_use_before, report.in_use_after) == (size(plain), size(collapse(deep)))
    assert f"in use {size(plain):,} → {size(collapse(deep)):,}" in " ".join(str(report).split())


def test_a_budget_of_mixed_layers():
    mixed = overparameterize(factorize(cnn(), "ht", rank=0.8, modules=["3"]), modules=["7"], seed=0)
    before = size(mixed[3]) + size(collapse(mixed[7])) + size(mixed[0]) + size(mixed[9])
    report = truncate(mixed, budget=0.5)
    after = size(mixed[3]) + size(collapse(mixed[7])) + size(mixed[0]) + size(mixed[9])
    assert (report.in_use_before, report.in_use_after) == (before, after)
    assert 0.4 * before < after <= before // 2


def test_no_error_is_made_that_saves_nothing():
    # At rank 20 of 32 a pair of factors is no smaller than the matrix.
    plain = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 320))
    deep = overparameterize(plain, depth=2, width=32, seed=0)
    truncate(deep, budget=0.97)
    changed = [not torch.allclose(deep[k].weight, plain[k].weight, atol=1e-5) for k in (0, 2)]
    sizes = [size(collapse(deep)[k]) < size(plain[k]) for k in (0, 2)]
    assert changed == sizes
    assert any(sizes)


def test_a_budget_that_cannot_be_met_changes_nothing(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"budget is 20 parameters; the smallest that can be reached is \d+"):
        truncate(model, budget=20)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_selected_layers_and_what_is_said_of_the_others():
    model = factorize(cnn(), "matrix", rank=4, modules=["3", "7"])
    report = truncate(model, rank=1, modules=["7"])
    assert [row.name for row in report.rows] == ["7"]
    assert report.left_alone == (
        ("0", "Conv2d", "not selected"),
        ("3", "FactorizedConv2d", "not selected"),
        ("9", "Linear", "not selected"),
    )
    assert model[3].rank == (4,)
    report = truncate(model, rank=1)
    assert ("0", "Conv2d", "plain: factorize it first") in report.left_alone
    with pytest.raises(ValueError, match="modules has '9', where no layer is over-parameterized or factorized"):
        truncate(model, rank=1, modules=["9"])
    with pytest.raises(ValueError, match="modules has 'x', which fits no module"):
        truncate(model, rank=1, modules="x")


def test_factors_that_another_module_has_are_left_alone():
    model = factorize(cnn(), "matrix", rank=4, modules=["3", "7"])
    model.extra = nn.Module()
    model.extra.mine = model[7].factors[0]
    report = truncate(model, rank=1)
    assert [row.name for row in report.rows] == ["3"]
    assert ("7", "FactorizedLinear", "another module has its factors too") in report.left_alone


def test_rank_bounds_are_told():
    deep = overparameterize(cnn(), modules=["7", "9"], seed=0)
    report = truncate(deep, rank=11)
    assert [row.name for row in report.rows] == ["7"]
    (reason,) = [reason for name, _, reason in report.left_alone if name == "9"]
    assert "11" in reason


def test_a_truncated_model_trains_and_collapses():
    model = factorize(branches(), "ht", rank=0.8, modules=["blocks", "heads"])
    truncate(model, budget=0.5)
    model(images()).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(outputs(collapse(model), images()), outputs(model, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "nothing given; expected exactly one of tol, rank and budget"),
        ({"tol": 0.1, "rank": 2}, ValueError, "tol and rank given"),
        ({"tol": -0.1}, ValueError, "tol is -0.1; expected from 0 to below 1"),
        ({"tol": 1.0}, ValueError, "tol is 1.0; expected from 0 to below 1"),
        ({"tol": "a"}, TypeError, "tol is 'a'; expected a number"),
        ({"rank": 2, "modules": 3}, TypeError, "modules is 3; expected names"),
        ({"rank": 0}, ValueError, "rank is 0; expected at least 1"),
        ({"rank": 1.5}, ValueError, "rank is 1.5; expected a share"),
        ({"rank": "two"}, TypeError, "rank is 'two'; expected an integer"),
        ({"budget": -1}, ValueError, "budget is -1"),
        ({"budget": True}, TypeError, "budget is True"),
    ],
)
def test_bad_arguments(given, error, message):
    with pytest.raises(error, match=message):
        truncate(factorize(cnn(), rank=0.5), **given)


def test_the_bisection_finds_the_smallest_error():
    tried = []

    def attempt(error):
        tried.append(error)
        return round(1000 * (1 - error)), error

    assert fit_into(700, attempt, lambda: (1, None)) == pytest.approx(0.3, rel=0.02)
    assert len(tried) < 14
    assert fit_into(1000, attempt, lambda: (1, None)) == 1e-4
    assert fit_into(0, lambda error: (5, "rank 2"), lambda: (0, "rank 1")) == "rank 1"
    with pytest.raises(ValueError, match="budget is 3 parameters; the smallest that can be reached is 4"):
        fit_into(3, lambda error: (5, None), lambda: (4, None))
