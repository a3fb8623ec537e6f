import numpy as np
import pytest
import torch
from regularizers.cases import A, B, assert_close, batch, fixed, gradients, net
from torch import nn

from htf.regularizers import Interaction, Patch, random_patches


def seen_by(model, reg, x, y):
    """What the regularizer gives, and the images that it made."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    value = reg(model, x, y)
    handle.remove()
    assert len(seen) == 1
    return value, seen[0]


def index_of(part, x, patch):
    """Which sample of a batch a patch was taken from."""
    return next(i for i in range(len(x)) if torch.equal(x[i][:, patch.rows, patch.columns], part))


@pytest.mark.parametrize(("samples", "grid", "n"), [(3, 4, 7), (8, 3, 5), (2, 9, 4), (1, 2, 2)])
def test_images_are_grids_of_contents(samples, grid, n):
    x, y = batch(n)
    _, images = seen_by(net(), Interaction(fixed(), samples=samples, grid=grid), x, y)
    samples, grid = min(samples, n), min(grid, n)
    assert len(images) == samples * grid**2
    outside = torch.ones(8, 8, dtype=torch.bool)
    for patch in (A, B):
        outside[patch.rows, patch.columns] = False
    bases = []
    for own in images.unflatten(0, (samples, grid, grid)):
        base = next(i for i in range(n) if torch.equal(x[i], own[0, 0]))
        bases.append(base)
        assert (own[..., outside] == x[base][..., outside]).all()
        for patch, along in ((A, own[:, 0]), (B, own[0])):
            contents = [index_of(image[:, patch.rows, patch.columns], x, patch) for image in along]
            assert contents[0] == base
            assert len(set(contents)) == grid
        assert (own[..., A.rows, A.columns] == own[:, :1][..., A.rows, A.columns]).all()
        assert (own[..., B.rows, B.columns] == own[:1][..., B.rows, B.columns]).all()
    assert len(set(bases)) == samples


def test_contents_are_drawn_from_all_other_samples():
    x, y = batch(5)
    reg, counts = Interaction(fixed(), samples=2, grid=3), np.zeros((2, 5, 5))
    for _ in range(60):
        for own in seen_by(net(), reg, x, y)[1].unflatten(0, (2, 3, 3)):
            base = next(i for i in range(5) if torch.equal(x[i], own[0, 0]))
            for which, (patch, along) in enumerate(((A, own[1:, 0]), (B, own[0, 1:]))):
                for image in along:
                    counts[which, base, index_of(image[:, patch.rows, patch.columns], x, patch)] += 1
    # 12 of each are expected, none of a sample in itself.
    assert (counts.diagonal(axis1=1, axis2=2) == 0).all()
    assert (counts + 12 * np.eye(5)).min() >= 3


def share(grid, eps):
    """By the definition of an analysis of variance, cell by cell."""
    mean, rows, columns = grid.mean(), grid.mean(1), grid.mean(0)
    cells = [[grid[i, j] - rows[i] - columns[j] + mean for j in range(grid.shape[1])] for i in range(grid.shape[0])]
    return np.square(cells).sum() / (((grid - mean) ** 2).sum() + eps)


def spectral_term(grid):
    squares = np.linalg.svd(grid - grid.mean(), compute_uv=False) ** 2
    return 1 - (squares.sum() ** 2 / (squares**2).sum() - 1) / (len(grid) - 1)


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_values_are_those_of_the_definition(outputs, spectral):
    model, (x, y) = net(outputs), batch(6, classes=max(outputs, 2))
    y[:3] = torch.arange(3).clamp(max=outputs)
    eps = 1e-20 if spectral else 0.01
    reg = Interaction(fixed(), 0.3, samples=5, grid=4, spectral=spectral, eps=eps)
    value, images = seen_by(model, reg, x, y)
    logits = model(images).detach().unflatten(0, (5, 4, 4))
    bases = [next(i for i in range(6) if torch.equal(x[i], image)) for image in images[::16]]
    grids = [logits[k][..., y[base] if outputs > 1 else 0].numpy() for k, base in enumerate(bases)]
    expected = np.mean([spectral_term(grid) if spectral else 1 - share(grid, eps) for grid in grids])
    assert reg.last == pytest.approx(expected, abs=1e-10)
    assert float(value.detach()) == pytest.approx(0.3 * expected, abs=1e-10)


@pytest.mark.parametrize("spectral", [False, True])
def test_gradients_against_differences(spectral):
    model, (x, y) = net(), batch(4)
    reg = Interaction(fixed(), samples=2, grid=3, spectral=spectral, eps=1e-3)

    def value(*parameters):
        reg.calls = 0
        named = dict(zip([name for name, _ in model.named_parameters()], parameters, strict=True))
        return reg(Functional(model, named), x, y)

    last = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(value, last, fast_mode=True)


class Functional(nn.Module):
    """A model with other parameters."""

    def __init__(self, model, parameters):
        super().__init__()
        self.model, self.replaced = model, parameters

    def forward(self, x):
        return torch.func.functional_call(self.model, self.replaced, (x,))


class OfTwo(nn.Module):
    """A function of what is in A and what is in B."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones((), dtype=torch.float64)), function

    def forward(self, x):
        a, b = (x[:, :, p.rows, p.columns].mean((1, 2, 3)) for p in (A, B))
        return self.weight * self.function(a, b)


@pytest.mark.parametrize(
    ("function", "term"),
    [
        (lambda a, b: a.exp() + b.square(), 1),
        (lambda a, b: a.exp(), 1),
        (lambda a, b: a * b, None),
        # Parities of signs: neither says anything alone, where signs are balanced.
        (lambda a, b: (a * b).sign(), None),
    ],
)
def test_sums_have_no_interaction_and_products_have(function, term):
    x, y = batch(12)
    value = float(Interaction(fixed(), samples=12, grid=8)(OfTwo(function), x, y).detach())
    assert value == pytest.approx(1, abs=1e-12) if term == 1 else value < 0.5


def test_spectral_form_counts_ranks():
    x, y = batch(12)

    def rank(function):
        return 1 + 7 * (1 - float(Interaction(fixed(), grid=8, spectral=True)(OfTwo(function), x, y).detach()))

    assert rank(lambda a, b: a.exp()) == pytest.approx(1)
    assert 1 < rank(lambda a, b: a + b) <= 2
    assert rank(lambda a, b: torch.sin(90 * a * b)) > 2


@pytest.mark.parametrize("spectral", [False, True])
def test_model_that_ignores_the_input(spectral):
    model, (x, y) = OfTwo(lambda a, b: 0 * a), batch()
    with pytest.warns(RuntimeWarning, match=r"does not depend on the input in Patch\(top=1.*are the same") as caught:
        value = Interaction(fixed(), spectral=spectral)(model, x, y)
    assert caught[0].filename == __file__
    assert float(value.detach()) == 1
    value.backward()
    assert model.weight.grad == 0


@pytest.mark.parametrize("spectral", [False, True])
def test_grids_that_do_not_vary_are_harmless(spectral):
    """Two of three samples have the same patches, as blank images do."""
    model, (x, y) = net(), batch(3)
    x[1] = x[0]
    x[2] = x[0]
    x[2, :, 7] += 1
    x[2, 0, A.top, A.left] += 1e-12
    value = Interaction(fixed(), spectral=spectral)(model, x, y)
    assert float(value.detach()) == pytest.approx(1, abs=1e-6)
    assert all(g.abs().max() < 1e-3 for g in gradients(model, value))


def test_images_that_are_blank_are_not_blamed_on_the_model():
    model, (x, y) = net(), batch()
    for patch in (A, B):
        x[:, :, patch.rows, patch.columns] = 0.5
    value = Interaction(fixed())(model, x, y)
    assert float(value.detach()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_spectral_form_under_autocast_is_that_of_single_precision(scale):
    x, y = batch(dtype=torch.float32)
    # No matrix product that autocast would change: what differs is the regularizer's own.
    model = OfPatches(scale)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
            value = Interaction(fixed(), spectral=True)(model, x, y)
        assert value.dtype == torch.float32
        found.append([value, *gradients(model, value)])
    assert_close(*found, rtol=1e-6, atol=1e-7)


class OfPatches(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        a, b = (x[:, :, patch.rows, patch.columns].mean((1, 2, 3)) for patch in (A, B))
        return self.scale * (a + b + (self.scale * a).sin() * b)


def test_under_autocast():
    model, (x, y) = net(3, dtype=torch.float32), batch(classes=3, dtype=torch.float32)
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = Interaction(fixed(Patch(0, 0, 4, 8), Patch(4, 0, 4, 8)))(model, x, y)
        assert value.dtype == torch.float32
        assert all(g.isfinite().all() for g in gradients(model, value))
        values.append(float(value.detach()))
    assert values[0] == pytest.approx(values[1], abs=0.05)


# Inductor needs a compiler of C++; what precedes it does not.  Warnings are those of torch about itself.
@pytest.mark.filterwarnings("ignore:::torch", "ignore:::importlib")
@pytest.mark.parametrize(("compiled", "spectral"), [("model", True), ("step", False)])
def test_under_compile(compiled, spectral):
    model, (x, y) = net(3, norm=nn.BatchNorm2d(4)), batch(classes=3)
    patches = fixed() if compiled == "step" else random_patches(2)

    def step(called, reg):
        out = called(x)
        loss = nn.functional.cross_entropy(out, y) + reg(called, x, y, out)
        loss.backward()
        return loss

    def run(called, step):
        model.zero_grad()
        reg = Interaction(patches, spectral=spectral, samples=4)
        losses = [step(called, reg).detach() for _ in range(2)]
        return [*losses, *(p.grad for p in model.parameters())]

    expected = run(model, step)
    torch._dynamo.reset()
    if compiled == "model":
        found = run(torch.compile(model, backend="aot_eager"), step)
    else:
        found = run(model, torch.compile(step, backend="eager"))
    torch._dynamo.reset()
    assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_learns_to_interact():
    model, (x, y) = net(dtype=torch.float32), batch(16, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    reg = Interaction(random_patches(3), seed=1)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        reg(model, x, y).backward()
        optimizer.step()
        values.append(reg.last)
    assert sum(values[-10:]) / 10 < sum(values[:10]) / 10 - 0.1
