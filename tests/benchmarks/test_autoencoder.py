"""The benchmark of autoencoders: shapes of known dimension, codes and what is measured of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.autoencoder import __main__ as autoencoder
from benchmarks.autoencoder import uses
from benchmarks.autoencoder.jobs import MODELS, Coding
from benchmarks.autoencoder.networks import Autoencoder
from benchmarks.autoencoder.objective import Reconstruction, codes, relative_error, spectrum
from benchmarks.autoencoder.plots import plot_codes
from benchmarks.autoencoder.shapes import DIMENSION, discs
from htf._files import read_json, read_tensors, write_json
from htf.surgery import collapse
from htf.training import Training

IMAGES = {"train": 60, "validation": 20, "test": 20}


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_discs_are_made_of_six_numbers():
    images, made_of = discs(40, seed=3, size=32)
    assert (images.shape, images.dtype, made_of.shape) == ((40, 3, 32, 32), torch.uint8, (40, DIMENSION))
    light = images.double().sum(1)
    places = torch.arange(32) + 0.5
    for k, axis in enumerate((2, 1)):
        centres = (light.sum(axis) * places).sum(1) / light.sum((1, 2))
        torch.testing.assert_close(centres, (8 + 16 * made_of[:, k]).double(), atol=0.1, rtol=0)
    radius = 4 * (1 + made_of[:, 2])
    colours = images.flatten(2).amax(2).double() / 255
    torch.testing.assert_close(colours, (0.1 + 0.9 * made_of[:, 3:]).double(), atol=0.003, rtol=0)
    # Over the soft edge a disc of radius r has the area of one, and a little more.
    area = light.sum((1, 2)) / (255 * colours.sum(1))
    torch.testing.assert_close(area, math.pi * (radius.double().square() + 3 / 4), rtol=0.03, atol=0)
    assert torch.equal(images, discs(40, seed=3, size=32)[0])
    assert not torch.equal(images, discs(40, seed=4, size=32)[0])


@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 16, 16), (3, 7, 10)])
@pytest.mark.parametrize("model", ["plain", "linear2", "variational", "cp"])
def test_autoencoders_are_seeded_and_give_images(image, model):
    state = torch.get_rng_state()
    first, again, other = (Autoencoder(image, 6, **MODELS[model], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = random(4, *image)
    assert first(x).shape == x.shape
    assert first.encode(x).shape == (4, 6)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize("model", ["linear4", "ht", "cp"])
def test_what_is_between_code_and_decoder_is_folded(model):
    net = Autoencoder((1, 8, 8), 8, **MODELS[model], seed=0)
    folded = collapse(net)
    assert sum(p.numel() for p in folded.map.parameters()) <= 64
    assert all(type(layer) is nn.Linear for layer in folded.map.modules() if not isinstance(layer, nn.Sequential))
    x = random(5, 1, 8, 8)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-5)


def test_without_linear_layers_nothing_can_be_folded():
    with pytest.raises(ValueError, match="model has no over-parameterized or factorized layers"):
        collapse(Autoencoder((1, 8, 8), 6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"code": 1}, "code is 1; expected at least 2 dimensions"),
        ({"code": 4, "layers": -1}, "layers is -1 and format ''; expected layers of at least 0, or a format"),
        ({"code": 4, "layers": 2, "format": "ht"}, "layers is 2 and format 'ht'"),
    ],
)
def test_bad_arguments_of_autoencoders(given, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder((1, 8, 8), **given)


@pytest.mark.parametrize("arguments", [["--code", "1"], ["--weights", "0"]])
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit):
        autoencoder._options(arguments)
    assert "; expected " in capsys.readouterr().err


# -- the objective --------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["none", "nuclear", "l1", "variational"])
def test_losses_are_those_of_the_formulas(penalty):
    x = random(12, 1, 8, 8)
    net = Autoencoder((1, 8, 8), 5, variational=penalty == "variational", seed=0)
    objective = Reconstruction(x, x, penalty, 0.3, batch_size=12)
    history = Training(net, objective, optimizer="sgd", lr=1e-30).run(epochs=1)
    with torch.no_grad():
        code, log_variance = net.drawn_from(x)
        squared = float((net(x) - x).square().mean())
    z = code.double()
    terms = {
        "none": 0.0,
        "nuclear": float(torch.linalg.svdvals((z - z.mean(0)) / math.sqrt(12)).sum()) / 5,
        "l1": float(z.abs().mean()),
    }
    if penalty == "variational":
        # Of independent normal distributions against the standard one; the error has noise in it.
        mine = torch.distributions.Normal(code, (log_variance / 2).exp())
        divergence = float(torch.distributions.kl_divergence(mine, torch.distributions.Normal(0.0, 1.0)).mean())
        error = float(history.loss[-1]) - 0.3 * divergence
        assert error != pytest.approx(squared, rel=1e-6)
        assert error == pytest.approx(squared, rel=0.5)
    else:
        assert float(history.loss[-1]) == pytest.approx(squared + 0.3 * terms[penalty], rel=1e-5)


def test_spectrum_and_relative_error():
    x = random(50, 1, 8, 8)
    net = Autoencoder((1, 8, 8), 5, seed=0)
    found = spectrum(codes(net, x))
    expected = np.sqrt(np.linalg.eigvalsh(np.cov(codes(net, x).double().numpy().T, bias=True))[::-1])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    with torch.no_grad():
        expected = float((net(x) - x).square().mean() / x.var(0, correction=0).mean())
    assert relative_error(net, x) == pytest.approx(expected, rel=1e-5)


def test_linear_layers_lower_the_rank_of_the_code():
    images = discs(100, seed=0)[0].float() / 255

    def rank(layers):
        net = Autoencoder((3, 16, 16), 16, layers=layers, seed=0)
        objective = Reconstruction(images, images, "none", 0.0, batch_size=25)
        history = Training(net, objective, optimizer="adam", lr=3e-3).run(epochs=15)
        return float(history["validation"]["effective_rank"][-1])

    assert rank(4) < 0.75 * rank(0)


# -- uses -----------------------------------------------------------------------------------------------


def test_few_labels_are_enough_where_classes_are_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    code = torch.eye(4)[labels] + 0.05 * torch.randn(300, 4, generator=generator)
    parts = [(code[k : k + 100], labels[k : k + 100]) for k in (0, 100, 200)]
    found = uses.few_label_accuracies(*parts, seed=0)
    assert list(found) == ["10", "30", "100"]
    assert found["30"] == found["100"] == 1.0
    # Labels that have nothing to do with codes are not found.
    other = uses.few_label_accuracies(parts[0], parts[1], (parts[2][0], parts[2][1].roll(1)), seed=0)
    assert other["100"] < 0.1


def test_codes_between_and_samples_of_a_mixture():
    code = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    lines = uses.between(code, 3)
    assert lines.tolist() == [[[0, 0], [1, 0], [2, 0]], [[1, 1], [1, 2], [1, 3]]]
    # In two clusters on a line, along which the code leaves the rest unused.
    code = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.arange(400)[:, None] % 2
    drawn = uses.sampled(torch.cat([code, torch.zeros(400, 2)], 1), 200, seed=1)
    assert drawn.shape == (200, 3)
    assert float(drawn[:, 1:].abs().max()) < 0.01
    assert 0.3 < float((drawn[:, 0] > 0.5).double().mean()) < 0.7
    assert float((drawn[:, 0] - drawn[:, 0].round()).abs().mean()) < 0.12
    assert torch.equal(drawn, uses.sampled(torch.cat([code, torch.zeros(400, 2)], 1), 200, seed=1))


def test_distance_to_the_nearest():
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0], images[2, 0, 0, 0] = 3.0, 10.0
    assert uses.distance_to_nearest(images, images[:2]) == 0.0
    assert uses.distance_to_nearest(images + 0.5, images[:1]) == pytest.approx(math.sqrt(3.5**2 + 3 * 0.25))


# -- the whole ------------------------------------------------------------------------------------------


def test_an_interrupted_training_goes_on_and_leaves_the_row_that_it_would_have(tmp_path):
    settings = {"code": 4, "epochs": 2, "batch_size": 20, "lr": 1e-3}
    job = Coding("shapes", IMAGES, "variational", 0, **settings, weight=1e-3)
    whole = Coding.within(tmp_path / "whole")(job, lambda share: None)
    calls = []

    def stopping(share):
        calls.append(share)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Coding.within(tmp_path / "cut")(job, stopping)
    found = Coding.within(tmp_path / "cut")(job, calls.append)
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert len(calls) == 4 + 2


def test_the_largest_weight_within_ten_percent_is_chosen():
    jobs = {w: Coding("shapes", IMAGES, "l1", 0, 4, 1, 20, 1e-3, w) for w in (0.1, 1.0, 10.0)}
    plain = Coding("shapes", IMAGES, "plain", 0, 4, 1, 20, 1e-3)
    before = [(plain, {"validation_error": 1.0})]

    def best(*errors):
        tried = [(job, {"validation_error": e}) for job, e in zip(jobs.values(), errors, strict=True)]
        return autoencoder._best(tried, before, "l1").weight

    assert best(0.9, 1.05, 1.2) == 1.0
    assert best(1.2, 1.05, 1.09) == 10.0
    assert best(1.2, 1.3, 1.4) == 0.1


def test_a_dry_run_leaves_results_and_figures_and_goes_on(tmp_path):
    arguments = ["--source", "digits", "--dry-run", "--no-progress", "--out", str(tmp_path), "--seeds", "0:1"]
    arguments += [
        "--models",
        "plain",
        "linear8",
        "nuclear",
        "--lrs",
        "1e-3",
        "3e-3",
        "--weights",
        "1e-3",
        "--code",
        "8",
    ]
    autoencoder.main(arguments)
    out = tmp_path / "dry_run"
    found = read_json(out / "autoencoder_digits.json", sealed=False)
    rows = found["rows"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert len(rows) == 2 + 2 + 1 + 3
    for model in ("plain", "linear8"):
        tried = [row for row in rows if row["model"] == model and row["seed"] == 0]
        (best,) = (row for row in tried if row["chosen"])
        assert best["validation_error"] == min(row["validation_error"] for row in tried)
        (again,) = (row for row in rows if row["model"] == model and row["seed"] == 1)
        assert (again["lr"], again["chosen"]) == (best["lr"], True)
    (plain,) = (row for row in rows if (row["model"], row["seed"], row["chosen"]) == ("plain", 0, True))
    assert {row["lr"] for row in rows if row["model"] == "nuclear"} == {plain["lr"]}
    assert set(rows[0]["few_labels"]) == {"10", "30", "100"}
    assert max(row["folded_differs"] for row in rows) < 1e-4
    for name in ("autoencoder_digits.png", "autoencoder_digits_pictures.png"):
        assert (out / name).stat().st_size > 1000
    (pictures,) = out.glob("jobs/digits_linear8_seed1_*/pictures.safetensors")
    tensors = read_tensors(pictures, sealed=False)[0]
    assert {name: tuple(t.shape) for name, t in tensors.items()} == dict.fromkeys(
        ("between", "samples"), (4, 9, 1, 8, 8)
    )
    times = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")}
    autoencoder.main(arguments)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    write_json(tmp_path / "none.json", {"rows": [{"model": "plain"}]})
    with pytest.raises(ValueError, match="holds no rows of autoencoders; expected what"):
        plot_codes(tmp_path / "none.json")
