"""Profiles of models whose interactions are known, and against an analysis of variance written out."""

import copy
import json
from dataclasses import asdict

import matplotlib.figure
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from htf._files import write_json
from htf.ranks import SeparationProfile, separation_profile
from htf.regularizers import Patch, preset_areas, random_patches

A, B = Patch(0, 0, 2, 2), Patch(5, 6, 2, 2)


def images(n=40, height=7, width=8, seed=0, dtype=torch.float32):
    return torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def of_two(function):
    """A function of the means of two areas, made to vary by 1, and of a third pixel."""

    def model(x):
        a, b = ((x[:, 0, p.rows, p.columns].mean((1, 2)) - 0.5) * 48**0.5 for p in (A, B))
        return function(a, b) + x[:, 0, 3, 3]

    return model


AREAS = {4: preset_areas(A, B)}


@pytest.mark.parametrize("grid", [2, 3, 6])
def test_variances_are_estimated_without_bias(grid):
    x = images(1000)
    profile = separation_profile(of_two(lambda a, b: a + 2 * b + 3 * a * b), x, AREAS, samples=1000, grid=grid)
    assert profile.shares[0] == pytest.approx(9 / 14, abs=0.05)
    assert profile.errors[0] < 0.06
    third = 1 / 12
    assert profile.strengths[0] == pytest.approx(9 / (14 + third), rel=0.1)
    assert abs(profile.strengths[0] - 9 / (14 + third)) < 4 * profile.strength_errors[0] + 0.02


@pytest.mark.parametrize(
    ("function", "share"),
    [
        (lambda a, b: a.exp() + 3 * b.square(), 0),
        (lambda a, b: a, 0),
        (lambda a, b: a.sign() * b.sign(), 1),
        (lambda a, b: a * b, 1),
    ],
)
def test_sums_and_products(function, share):
    profile = separation_profile(of_two(function), images(400), AREAS, samples=400)
    tolerance = 1e-9 if share == 0 else 4 * profile.errors[0] + 1e-9
    assert abs(profile.shares[0] - share) < tolerance
    assert profile.errors[0] < 0.06


def test_errors_are_those_of_repetitions():
    model = of_two(lambda a, b: a + a * b)
    profiles = [separation_profile(model, images(30, seed=s), AREAS, samples=30, seed=s) for s in range(60)]
    for values, errors in (("shares", "errors"), ("strengths", "strength_errors")):
        spread = np.std([getattr(p, values)[0] for p in profiles])
        assert np.mean([getattr(p, errors)[0] for p in profiles]) == pytest.approx(spread, rel=0.5)


def written_out(model, x, bases, contents, pairs):
    """Variances of one grid after another, cell by cell."""
    both, every = [], []
    for base, of_a, of_b, (a, b) in zip(bases, *contents, pairs, strict=True):
        size = len(of_a)
        cells = []
        for i in of_a:
            for j in of_b:
                image = x[base].clone()
                image[:, a.rows, a.columns] = x[i][:, a.rows, a.columns]
                image[:, b.rows, b.columns] = x[j][:, b.rows, b.columns]
                cells.append(model(image[None])[0].reshape(-1))
        cells = torch.stack(cells).double().detach().numpy().reshape(size, size, -1)
        mean, rows, columns = cells.mean((0, 1)), cells.mean(1), cells.mean(0)
        within = sum(((cells[i, j] - rows[i] - columns[j] + mean) ** 2) for i in range(size) for j in range(size))
        squares = within / (size - 1) ** 2
        effects = [((m - mean) ** 2).sum(0) / (size - 1) - squares / size for m in (rows, columns)]
        both.append(squares.sum())
        every.append((squares + effects[0] + effects[1]).sum())
    return np.array(both), np.array(every)


@pytest.mark.parametrize("classes", [1, 3])
def test_values_are_those_of_an_analysis_of_variance(classes, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(56, 9), nn.Tanh(), nn.Linear(9, classes)).double()
    x, drawn, pairs = images(12, dtype=torch.float64), [], []
    sampler = random_patches(2, 2)

    def recorded(height, width, generator):
        pairs.append(sampler(height, width, generator))
        return pairs[-1]

    module = __import__("htf.ranks.separation_profile", fromlist=["draw_grids"])
    draw = module.draw_grids
    monkeypatch.setattr(module, "draw_grids", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    order = torch.randperm(12, generator=module.seeded(7, 0))
    profile = separation_profile(model, x, {2: recorded}, samples=12, grid=4, seed=7)
    ((bases, contents),) = drawn
    both, every = written_out(model, x[order], bases, contents, pairs)
    assert len(pairs) == len(both) == 12
    assert profile.shares[0] == pytest.approx(both.sum() / every.sum(), rel=1e-9)
    variance = float(model(x).var(0).sum().detach())
    assert profile.strengths[0] == pytest.approx(both.mean() / variance, rel=1e-9)
    assert profile.strength_errors[0] == pytest.approx(both.std(ddof=1) / 12**0.5 / variance, rel=1e-9)


def local(x):
    """Products of pixels three columns apart, and nothing else: two pixels lie between."""
    return (x[..., 3:] * x[..., :-3]).sum((1, 2, 3))


def test_only_the_distance_of_the_interaction_shows():
    profile = separation_profile(local, images(60), range(6), patch=1, samples=60)
    assert profile.distances == (0, 1, 2, 3, 4, 5)
    assert profile.shares[2] > 0.01
    assert max(share for d, share in enumerate(profile.shares) if d != 2) < 1e-9
    assert profile.strengths[2] > 1e6 * max(s for d, s in enumerate(profile.strengths) if d != 2)


def test_a_distance_is_measured_alike_whatever_else_is():
    whole = separation_profile(local, images(), [0, 2, 5], patch=1)
    part = separation_profile(local, images(), [2], patch=1)
    assert part.shares[0] == whole.shares[1]
    assert part.errors[0] == whole.errors[1]
    assert separation_profile(local, images(), [2], patch=1, seed=1).shares != part.shares
    for batch_size in (1, 48, 10**6):
        other = separation_profile(local, images(), [2], patch=1, batch_size=batch_size)
        assert other.shares == pytest.approx(part.shares, rel=1e-4)


class Items(Dataset):
    def __init__(self, x, labelled=True):
        self.x, self.labelled = x, labelled

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return (self.x[index], 1) if self.labelled else self.x[index]


def test_kinds_of_data():
    x, y = images(), torch.zeros(40).long()
    expected = separation_profile(local, x, [2], patch=1)
    for data in ((x, y), [x, y], list(x), TensorDataset(x, y), Items(x), Items(x, labelled=False)):
        assert separation_profile(local, data, [2], patch=1) == expected
    assert expected.settings["images"] == [40, 1, 7, 8]
    assert json.loads(json.dumps(expected.settings)) == expected.settings


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_outputs_that_do_not_vary(value):
    profile = separation_profile(lambda x: x.flatten(1).sum(1) * 0 + value, images(), [0, 3])
    assert profile.shares == profile.errors == profile.strengths == profile.strength_errors == (0, 0)


def test_rounding_is_no_interaction():
    """Outputs that vary in the last digit alone, as those of one image in different batches do."""

    def model(x):
        return 100 + torch.rand(len(x), generator=torch.Generator().manual_seed(0)) * 1e-5

    assert separation_profile(model, images(), [0]).shares == (0,)


def test_blank_patches_weigh_nothing():
    x = images(60)
    x[20:] = 0.5
    x[20:, :, 3, 3] = torch.rand(40, 1)
    for share, function in ((1, lambda a, b: a * b), (0, lambda a, b: a + b)):
        profile = separation_profile(of_two(function), x, AREAS, samples=60)
        assert abs(profile.shares[0] - share) < 4 * profile.errors[0] + 1e-6


def test_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(90, 2)
    )
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append((module.training, module[2].training)))
    first = separation_profile(model, images(dtype=torch.float64), [1])
    assert first == separation_profile(model, images(dtype=torch.float64), [1])
    assert set(seen) == {(False, False)}
    assert [m.training for m in model] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.append(nn.Flatten(7))
    with pytest.raises(IndexError):
        separation_profile(model, images(), [1])
    assert model[2].training


def test_saved_profiles_are_read_again(tmp_path):
    profile = separation_profile(local, images(), [0, 2], patch=1)
    profile.save(tmp_path / "profile.json")
    assert SeparationProfile.load(tmp_path / "profile.json") == profile
    write_json(tmp_path / "other.json", {"distances": [1]}, "a separation profile")
    with pytest.raises(ValueError, match=r"other.json is not a separation profile \('shares'\)"):
        SeparationProfile.load(tmp_path / "other.json")
    for columns, message in (
        ({"shares": [0.1]}, "of unequal length"),
        ({"errors": [None, 0.1]}, "hold what is no number"),
        ({"errors": [{}, 0.1]}, "hold what is no number"),
    ):
        write_json(tmp_path / "other.json", asdict(profile) | columns, "a separation profile")
        with pytest.raises(ValueError, match=rf"other.json is not a separation profile .*{message}"):
            SeparationProfile.load(tmp_path / "other.json")
    (tmp_path / "cut.json").write_text('{"distances": [1')
    with pytest.raises(ValueError, match=r"cut.json is not valid JSON"):
        SeparationProfile.load(tmp_path / "cut.json")
    with pytest.raises(FileNotFoundError):
        SeparationProfile.load(tmp_path / "none.json")


def test_table_and_figure():
    profile = SeparationProfile((0, 10), (0.25, 0.5), (0.01, 0.02), (1e-4, 0.0), (1e-5, 0.0), {})
    lines = profile.table().splitlines()
    assert lines[1].split() == ["0", "0.2500", "0.0100", "1.00e-04", "1.00e-05"]
    assert len(lines) == 3
    ax = profile.plot(label="plain")
    assert list(ax.get_lines()[0].get_xdata()) == [0, 10]
    assert list(ax.get_lines()[0].get_ydata()) == [0.25, 0.5]
    assert ax.get_legend().get_texts()[0].get_text() == "plain"
    assert profile.plot(ax) is ax
    strengths = profile.plot(strength=True)
    assert strengths.get_yscale() == "log"
    assert list(strengths.get_lines()[0].get_ydata()) == [1e-4, 0]
    assert isinstance(strengths.figure, matplotlib.figure.Figure)
    strengths.figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model is a str; expected an nn.Module"),
        ({"data": 3}, TypeError, "data is a int; expected a data set of images, such as data.test"),
        ({"data": images(1)}, ValueError, "data has 1 images; expected at least 2"),
        ({"data": images()[:, 0]}, ValueError, r"data has images of shape \(7, 8\); expected \(channels"),
        ({"data": images().byte()}, TypeError, "data has images of dtype torch.uint8"),
        ({"distances": [0, 7]}, ValueError, "distance is 7; .* 7 x 8 pixels there are at most 4"),
        (
            {"data": [*images(), torch.zeros(1, 7, 9)]},
            ValueError,
            r"images of shapes \(1, 7, 8\), \(1, 7, 9\); expected one",
        ),
        ({"distances": []}, ValueError, "distances is empty"),
        ({"distances": 5}, TypeError, "distances is 5; expected several"),
        ({"distances": [0.5]}, TypeError, "distance is 0.5; expected an integer"),
        ({"distances": [-1]}, ValueError, "distance is -1"),
        ({"distances": {3: lambda *_: (A, A)}}, ValueError, "overlap"),
        ({"distances": {0.2: random_patches(2), 0.7: random_patches(2)}}, TypeError, "distance is 0.2; expected an in"),
        ({"distances": {-3: random_patches(2)}}, ValueError, "distance is -3; expected 0 or more"),
        ({"samples": 1}, ValueError, "samples is 1; expected at least 2"),
        ({"grid": 1}, ValueError, "grid is 1; expected at least 2"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; expected at least 1"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"patch": 0}, ValueError, "size is 0"),
        ({"model": lambda x: x}, ValueError, r"outputs have shape \(40, 1, 7, 8\); expected \(40,\)"),
        ({"model": lambda x: (x,)}, TypeError, "the model returned a tuple"),
        ({"model": lambda x: local(x) / 0}, ValueError, "outputs hold values that are NaN or infinite"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        separation_profile(**{"model": local, "data": images(), "distances": [0], **arguments})
