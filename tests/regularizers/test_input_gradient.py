import copy

import pytest
import torch
from regularizers.cases import A, B, assert_close, batch, fixed, gradients, net, papers_trainer
from torch import nn

from htf.regularizers import InputGradientChange, Patch, random_patches


def logit(model, image, y):
    out = model(image[None])[0]
    return out[y] if out.numel() > 1 else out.sum()


def by_definition(model, x, y, first=A, second=B):
    """Sample by sample; for models that treat samples alone."""
    cosines = []
    for i in range(len(x)):
        changed = x[i].clone()
        changed[:, second.rows, second.columns] = x[(i + 1) % len(x)][:, second.rows, second.columns]
        vectors = []
        for image in (x[i], changed):
            image = image.clone().requires_grad_()
            gradient = torch.autograd.grad(logit(model, image, y[i]), image, create_graph=True)[0]
            vectors.append(gradient[:, first.rows, first.columns].flatten())
        cosines.append(torch.cosine_similarity(*vectors, dim=0, eps=1e-30).abs())
    return torch.stack(cosines).mean()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("given", ["x alone", "x with gradient", "gradient set too late"])
def test_value_and_gradients_are_those_of_the_definition(outputs, given):
    model = net(outputs)
    x, y = batch(classes=max(outputs, 2))
    expected = by_definition(model, x, y)
    x.requires_grad_(given == "x with gradient")
    out = model(x)
    x.requires_grad_(given != "x alone")
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    reg = InputGradientChange(fixed(), 0.7)
    found = reg(model, x, y, out)
    assert len(calls) == (1 if given == "x with gradient" else 2)
    assert reg.last == pytest.approx(float(expected.detach()), abs=1e-12)
    assert_close([found], [0.7 * expected])
    assert_close(gradients(model, found), gradients(model, 0.7 * expected))
    assert 0.1 < reg.last < 0.99


@pytest.mark.parametrize("y", [torch.tensor([[0], [2], [1], [0], [1], [2]]), torch.tensor([0, 2, 1, 0, 1, 2]).int()])
def test_labels_in_other_forms(y):
    model, x = net(3), batch()[0]
    reg = InputGradientChange(fixed())
    assert_close([reg(model, x, y)], [by_definition(model, x, y.long().flatten())])


def test_outputs_without_an_axis():
    model, (x, y) = nn.Sequential(net(), nn.Flatten(0)), batch()
    assert_close([InputGradientChange(fixed())(model, x, None, model(x))], [by_definition(model, x, y)])


def test_gradients_against_differences():
    model, (x, y) = net(), batch(4)
    reg = InputGradientChange(fixed())
    value = reg(model, x, y)
    found = gradients(model, value)
    step = 1e-6
    ahead, back = copy.deepcopy(model), copy.deepcopy(model)
    for up, down, gradient in zip(ahead.parameters(), back.parameters(), found, strict=True):
        up.data += step * gradient
        down.data -= step * gradient
    difference = (reg(ahead, x, y) - reg(back, x, y)) / (2 * step)
    assert float(difference.detach()) == pytest.approx(sum(float(g.square().sum()) for g in found), rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_equals_the_papers(outputs, norm, monkeypatch):
    trainer = papers_trainer(monkeypatch)
    model = net(outputs, norm=nn.BatchNorm2d(4) if norm else None)
    x, y = batch(classes=max(outputs, 2))
    both = {"first": trainer.PatchCoordinates(1, 1, 3, 4), "second": trainer.PatchCoordinates(4, 3, 6, 5)}
    theirs = trainer.InputGradChangeRegularizationTrainer(
        model,
        None,
        nn.BCEWithLogitsLoss() if outputs == 1 else nn.CrossEntropyLoss(),
        lambda *_: both["first"],
        lambda *_: both["second"],
        trainer.get_shuffle_patch_func(),
        reg_coeff=1.0,
    )
    ours = InputGradientChange(fixed())(model, x, y)
    x.requires_grad_()
    out = model(x)
    out = out.squeeze(1) if outputs == 1 else out
    expected = theirs._InputGradChangeRegularizationTrainer__compute_grad_change_reg(x, y, out)
    # Their norms have no eps, and gradients of batch normalization are ill-conditioned: rounding apart.
    assert_close([ours], [expected], rtol=1e-9)
    assert_close([InputGradientChange(fixed())(model, x, y, out)], [expected], rtol=1e-9)
    assert_close(gradients(model, ours), gradients(model, expected), rtol=1e-7, atol=1e-9)


def test_part_of_the_batch():
    model, (x, y) = net(3), batch(8, classes=3)
    seen = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    reg = InputGradientChange(fixed(), samples=3, seed=4)
    drawn = []
    for _ in range(20):
        found = reg(model, x, y, model(x))
        images = seen[-2]
        seen.clear()
        chosen = [next(i for i in range(8) if torch.equal(x[i], image)) for image in images]
        drawn.append(tuple(chosen))
        assert len(set(chosen)) == 3
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reg, "calls", 0)
            assert_close([found], [by_definition(model, x[chosen], y[chosen])])
        seen.clear()
    handle.remove()
    assert len(set(drawn)) > 10
    assert {i for each in drawn for i in each} == set(range(8))
    assert_close([InputGradientChange(fixed(), samples=9)(model, x, y)], [by_definition(model, x, y)])


class SumOfParts(nn.Module):
    """A function of the upper half plus one of the lower half."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([net(size=4, seed=s) for s in (1, 2)])

    def forward(self, x):
        upper, lower = torch.nn.functional.pad(x, (0, 4)).split(4, 2)
        return self.parts[0](upper[..., :4]) + self.parts[1](lower[..., :4])


def test_a_sum_of_functions_of_the_two_has_cosine_one():
    x, y = batch()
    reg = InputGradientChange(fixed(Patch(0, 0, 4, 4), Patch(4, 0, 4, 4)))
    assert float(reg(SumOfParts(), x, y).detach()) == pytest.approx(1, abs=1e-12)


class Ignores(nn.Module):
    """Sees nothing of the input."""

    def __init__(self, how):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(1)), how

    def forward(self, x):
        if self.how == "no graph":
            return self.weight.expand(len(x))
        return self.weight * (x.flatten(1).sum(1) * 0 if self.how == "times zero" else x[:, 0, 7, 7])


@pytest.mark.parametrize("how", ["no graph", "times zero", "elsewhere"])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_model_that_ignores_the_input(how, with_gradient):
    model, (x, y) = Ignores(how), batch()
    x.requires_grad_(with_gradient)
    out = model(x)
    with pytest.warns(RuntimeWarning, match=r"does not depend on the input in Patch\(top=1.*all zero") as caught:
        value = InputGradientChange(fixed())(model, x, y, out)
    assert caught[0].filename == __file__
    assert float(value.detach()) == 0
    (out.sum() + value).backward()
    assert model.weight.grad.isfinite().all()


def test_gradients_that_vanish_for_some_samples_are_harmless():
    model, (x, y) = net(), batch()
    dead = copy.deepcopy(model)
    dead[1] = nn.ReLU()
    dead[0].bias.data -= torch.tensor([1e3, 1e3, 1e3, 0.0], dtype=torch.float64)
    with torch.no_grad():
        x[2:4] = -1e4 * dead[0].weight[3, :, 1, 1].sign()[:, None, None]
    x.requires_grad_()
    at_patch = torch.autograd.grad(dead(x).sum(), x)[0][:, :, A.rows, A.columns].abs().amax((1, 2, 3))
    assert (at_patch == 0).tolist() == [False, False, True, True, False, False]
    value = InputGradientChange(fixed())(dead, x.detach(), y)
    assert 0 < float(value.detach()) < 1
    assert all(g.isfinite().all() for g in gradients(dead, value))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_ignores_the_scale_of_outputs(scale):
    model, (x, y) = net(), batch()
    expected = by_definition(model, x, y)
    with torch.no_grad():
        model[-1].weight *= scale
    assert float(InputGradientChange(fixed())(model, x, y).detach()) == pytest.approx(
        float(expected.detach()), rel=1e-9
    )


def test_under_autocast():
    model, (x, y) = net(dtype=torch.float32), batch(dtype=torch.float32)
    expected = by_definition(model, x, y)
    reg = InputGradientChange(fixed())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        assert out.dtype == torch.bfloat16
        value = reg(model, x, y, out)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=0.05)
    assert all(g.isfinite().all() for g in gradients(model, value))


def test_learns_to_change_its_gradient():
    """A few steps on the term alone lower it, at patches drawn anew each time."""
    model, (x, y) = net(dtype=torch.float32), batch(16, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    reg = InputGradientChange(random_patches(2), seed=1)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        reg(model, x, y).backward()
        optimizer.step()
        values.append(reg.last)
    assert sum(values[-10:]) / 10 < sum(values[:10]) / 10 - 0.1
