"""The code and commands of the README and of the page of ten lines for each task."""

import re
from pathlib import Path

import numpy as np
import pytest

from htf.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEN_LINES = (ROOT / "docs" / "ten_lines.md").read_text()


# The code of each section, by its heading.
CODE = {
    section.partition("\n")[0]: "".join(re.findall(r"```python\n(.*?)```", section, re.S))
    for page in (README, TEN_LINES)
    for section in page.split("\n## ")[1:]
}


def test_the_first_lines(capsys):
    names = {}
    exec(CODE["First lines"], names)
    digits, x, y, array = (names[name] for name in ("digits", "x", "y", "array"))
    assert names["model"].score(digits.test_images, digits.test_labels) > 0.93
    assert x.relative_error(array) <= 1e-6
    assert y.relative_error(array) <= 1e-4
    assert capsys.readouterr().out.count("\n") == 3


def test_the_ten_lines_fit_the_digits():
    names = {}
    exec(CODE["A fit, step by step"], names)
    assert names["loss"].item() < 0.2 * names["target"].var().item()


def test_models_are_fitted_to_the_digits(capsys):
    names = {}
    exec(CODE["Models for data"], names)
    digits, density = names["digits"], names["density"]
    assert names["model"].score(digits.test_images, digits.test_labels) > 0.93
    # A uniform density over 17 levels has 4.09 bits.
    assert density.bits_per_dim(digits.test_images) < 2.5
    assert capsys.readouterr().out.endswith("torch.Size([3, 1, 8, 8])\n")


def test_the_ten_lines_of_ht_tensors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(CODE["HT tensors"], names)
    z, x, y = names["z"], names["x"], names["y"]
    dense = x.to_tensor() * y.to_tensor() + 2 * x.to_tensor()
    assert np.linalg.norm(z.to_tensor() - dense) <= 1e-8 * np.linalg.norm(dense)
    rows = np.random.default_rng(0).integers(0, 2, (100, 60))
    np.testing.assert_allclose(names["f"].entries(rows), names["function"](rows), rtol=1e-6)


def test_three_components_rise_and_obey_the_theory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(CODE["Watching rank grow"], names)
    assert capsys.readouterr().out.count("3 components rose") == 3
    assert (tmp_path / "components.png").is_file()
    assert (names["history"].test_error[-1] < 0.02).all()
    for exponent in names["htf"].dynamics.compare_rates(names["history"]).exponents():
        assert exponent.slope == pytest.approx(exponent.expected_slope, rel=0.03)


def test_a_network_is_regularized():
    names = {}
    exec(CODE["Looking further"], names)
    assert 0 < names["reg"].last < 1
    assert names["reg"].calls == 32


def test_layers_are_changed_and_folded_back(capsys):
    names = {}
    exec(CODE["Layers that lower rank by themselves"], names)
    assert "whole model" in capsys.readouterr().out
    x, deep, plain, small = (names[name] for name in ("x", "deep", "plain", "small"))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (names["model"], deep, plain, small)]
    assert (
        sizes[2]
        <= sizes[1]
        <= 0.5 * sum(p.numel() for p in names["htf"].overparameterize(names["model"], 3).parameters())
    )
    assert sizes[3] < 0.5 * sizes[0]
    with names["torch"].no_grad():
        found, expected = plain.eval()(x), deep.eval()(x)
    assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert not any(type(module).__module__.startswith("htf.nn.layers") for module in plain.modules())
    assert sum(map(bool, CODE.values())) == 7


def test_the_commands_are_those_of_the_makefile_and_the_cli(capsys, monkeypatch):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M)
    seen = []
    monkeypatch.setattr("htf.cli._probe", lambda options: seen.append(options) or 0)
    monkeypatch.setattr("htf.cli._plot", lambda run, figure: seen.append(run) or 0)
    monkeypatch.setattr("htf.cli._dynamics", lambda options: seen.append(options) or 0)
    for line in re.findall(r"^htf (.*)$", README + TEN_LINES, re.M):
        assert main(line.split()) == 0
    assert len(seen) == 4


def test_figures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file()


def test_links_lead_to_files():
    links = [path for path in re.findall(r"\]\(([^)#]*)\)", README) if not path.startswith("http")]
    assert len(links) > 15
    for path in links:
        assert (ROOT / path).exists(), path
