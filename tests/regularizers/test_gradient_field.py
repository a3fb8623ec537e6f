import pytest
import torch
from regularizers.cases import assert_close, batch, gradients, net
from torch import nn

from htf.regularizers import GradientFieldChange, InputGradientChange


def recorded(reg, model, x, y):
    """The regularizer's value, and the images that it looked at."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    value = reg(model, x, y)
    handle.remove()
    (images,) = seen
    return value, *images.chunk(2)


def exchanged_box(before, after):
    """Rows and columns where an image was changed."""
    rows, columns = ((before - after).abs().amax(0) > 0).nonzero().T
    return (int(rows.min()), int(rows.max()) + 1), (int(columns.min()), int(columns.max()) + 1)


def by_definition(model, before, after, y, size, distance):
    """Mean cosine over samples and patches of the tilings from every corner, each by itself; the set of both."""
    found = {}
    height, width = before.shape[-2:]
    for down in range(size):
        for across in range(size):
            cosines = []
            for image, changed, label in zip(before, after, y, strict=True):
                (top, bottom), (left, right) = exchanged_box(image, changed)
                fields = []
                for one in (image, changed):
                    one = one.clone().requires_grad_()
                    out = model(one[None])[0]
                    score = out[label] if out.numel() > 1 else out.sum()
                    fields.append(torch.autograd.grad(score, one, create_graph=True)[0])
                for row in range(down, height - size + 1, size):
                    for column in range(across, width - size + 1, size):
                        apart = max(top - row - size, row - bottom, left - column - size, column - right)
                        if apart >= distance:
                            a, b = (f[:, row : row + size, column : column + size].flatten() for f in fields)
                            cosines.append(torch.cosine_similarity(a, b, dim=0, eps=1e-30).abs())
            found[down, across] = torch.stack(cosines).mean()
    return found


@pytest.mark.parametrize(("size", "distance", "outputs"), [(2, 0, 1), (2, 1, 3), (3, 1, 1), (1, 0, 1)])
def test_value_and_gradients_are_those_of_the_definition(size, distance, outputs):
    model = net(outputs)
    x, y = batch(4, classes=max(outputs, 2))
    reg = GradientFieldChange(size, 0.7, distance=distance, samples=4)
    value, before, after = recorded(reg, model, x, y)
    assert_close([before], [x])
    expected = by_definition(model, before, after, y, size, distance)
    # Which corner the tiling has is drawn.
    nearest = min(expected.values(), key=lambda e: abs(float(e.detach()) - reg.last))
    assert_close([value], [0.7 * nearest])
    assert_close(gradients(model, value), gradients(model, 0.7 * nearest))
    assert 0.1 < reg.last < 0.99


def test_every_corner_of_the_tiling_comes():
    model, (x, y) = net(), batch(2)
    reg = GradientFieldChange(2, samples=2)
    corners = set()
    for _ in range(30):
        _, before, after = recorded(reg, model, x, y)
        expected = by_definition(model, before, after, y, 2, 0)
        corners.add(min(expected, key=lambda corner: abs(float(expected[corner].detach()) - reg.last)))
    assert len(corners) == 4


def test_patches_are_exchanged_with_the_next_sample_where_the_two_differ():
    model = net(size=12)
    x = torch.zeros(3, 2, 12, 12, dtype=torch.float64)
    x[0, :, 2, 3], x[1, 1, 9, 9], x[2, 0, 5, 5] = 1.0, 2.0, 3.0
    differing = [{(2, 3), (9, 9)}, {(9, 9), (5, 5)}, {(5, 5), (2, 3)}]
    reg = GradientFieldChange(2, samples=3)
    met = [set(), set(), set()]
    for _ in range(20):
        _, before, after = recorded(reg, model, x, torch.zeros(3).long())
        for i in range(3):
            places = {tuple(place) for place in (before[i] != after[i]).any(0).nonzero().tolist()}
            assert len(places) == 1
            met[i] |= places
            (place,) = places
            assert torch.equal(after[i][:, place[0], place[1]], x[(i + 1) % 3][:, place[0], place[1]])
    assert met == differing


def test_samples_that_are_alike_change_nothing():
    model, (x, y) = net(), batch(2)
    reg = GradientFieldChange(2, samples=2)
    value = reg(model, x[:1].expand(2, -1, -1, -1), y)
    assert float(value.detach()) == pytest.approx(1, abs=1e-9)
    assert all(bool(g.abs().max() < 1e-7) for g in gradients(model, value))


def test_expects_what_the_input_gradient_change_does_with_random_patches():
    """Where samples differ everywhere, both are the mean over all pairs of patches, up to the edges of tilings."""
    from htf.regularizers import random_patches

    model, (x, y) = net(), batch(6)
    field = GradientFieldChange(2, samples=6)
    single = InputGradientChange(random_patches(2))
    means = [sum(float(reg(model, x, y).detach()) for _ in range(k)) / k for reg, k in ((field, 40), (single, 400))]
    assert means[0] == pytest.approx(means[1], abs=0.03)


def test_is_one_for_a_sum_over_pixels_and_less_where_pixels_meet():
    x, y = batch(8)
    weights = torch.randn(2 * 8 * 8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(128, 1, dtype=torch.float64))
    alone[2].weight.data = weights.T
    reg = GradientFieldChange(2)
    assert float(reg(alone, x, y).detach()) == pytest.approx(1, abs=1e-9)
    assert float(reg(net(), x, y).detach()) < 0.97


@pytest.mark.parametrize(
    ("size", "distance", "shape"), [(3, 2, (8, 8)), (4, 0, (8, 8)), (2, 0, (2, 8)), (3, 1, (10, 4))]
)
def test_in_small_images_there_is_always_a_patch_to_look_at(size, distance, shape):
    x = torch.rand(3, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = nn.Flatten()
    model = nn.Sequential(flat, nn.Linear(2 * shape[0] * shape[1], 6, dtype=torch.float64), nn.Tanh(), Sum())
    for seed in range(30):
        value = GradientFieldChange(size, distance=distance, seed=seed, samples=2)(model, x)
        assert 0 < float(value.detach()) < 1


class Sum(nn.Module):
    def forward(self, x):
        return x.square().sum(1, keepdim=True)


def test_a_model_that_ignores_its_input():
    class Ignoring(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x):
            return self.bias.expand(len(x), 1) + 0 * x.sum((1, 2, 3)).unsqueeze(1)

    model, (x, y) = Ignoring(), batch()
    with pytest.warns(RuntimeWarning, match="does not depend on the input") as caught:
        value = GradientFieldChange(2)(model, x, y)
    assert caught[0].filename == __file__
    assert float(value) == 0
    (model(x).sum() + value).backward()
    assert torch.equal(model.bias.grad, torch.full_like(model.bias, len(x)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, "size is 0; expected at least 1"),
        ({"size": 2.5}, TypeError, "size is 2.5"),
        ({"distance": -1}, ValueError, "distance is -1; expected 0 or more"),
        ({"samples": 1}, ValueError, "samples is 1; expected at least 2"),
        ({"eps": 0.0}, ValueError, "eps is 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        GradientFieldChange(**arguments)


@pytest.mark.parametrize(("size", "distance"), [(5, 0), (2, 5), (9, 0)])
def test_patches_that_do_not_fit(size, distance):
    model, (x, y) = net(), batch()
    with pytest.raises(ValueError, match="no two such patches fit into images of 8 x 8 pixels"):
        GradientFieldChange(size, distance=distance)(model, x, y)


@pytest.mark.parametrize(("height", "width"), [(1, 9), (9, 1)])
def test_images_narrower_than_a_patch(height, width):
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 1))
    with pytest.raises(ValueError, match=f"no two such patches fit into images of {height} x {width} pixels"):
        GradientFieldChange(2)(model, torch.rand(4, 1, height, width))
    assert GradientFieldChange(1)(model, torch.rand(4, 1, height, width)).isfinite()
