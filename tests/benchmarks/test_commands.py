"""Commands of benchmarks in documents: their modules are there, and take the options."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.missing_data.discriminative import Marginalized
from benchmarks.missing_data.masks import RATES, protocol
from htf._files import read_json

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]
DOCUMENTS += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
COMMAND = re.compile(r"python -m (benchmarks[\w.]*\w)((?:\\\n|[^`\n\"])*)")


def commands():
    """Where it stands, module and options, each command once."""
    found = {}
    for path in DOCUMENTS:
        for module, options in COMMAND.findall(path.read_text()):
            # Variables of make are options of the user's.
            words = shlex.split(re.sub(r"\$\(\w+\)", "", options.replace("\\\n", " ")), comments=True)
            found.setdefault((module, *words), path.relative_to(ROOT).as_posix())
    return [(path, module, words) for (module, *words), path in found.items()]


@pytest.mark.parametrize(("path", "module", "words"), commands())
def test_commands_of_documents_are_taken(path, module, words):
    spec = find_spec(module)
    assert spec is not None, path
    name = f"{module}.__main__" if spec.submodule_search_locations is not None else module
    # Without options it is a mention.
    if words:
        assert import_module(name)._options(words), path


def test_files_of_benchmarks_in_documents_are_there():
    for path in DOCUMENTS:
        for name in re.findall(r"\bbenchmarks/[\w/.]+\.py\b", path.read_text()):
            assert (ROOT / name).is_file(), (path, name)


def test_every_module_with_a_command_is_told_in_a_document():
    told = {module for _, module, words in commands()}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if '__name__ == "__main__"' in path.read_text():
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            assert module in told, module


@pytest.mark.parametrize("name", ["classifiers", "densities", "missing_data"])
def test_dry_runs_of_models_choose_fit_and_go_on(name, tmp_path):
    module = import_module(f"benchmarks.{name}.__main__")
    models = [next(iter(module.GRIDS))] + (["cnn"] if "cnn" in module.GRIDS else [])
    options = ["--source", "digits", "--dry-run", "--models", *models, "--no-progress", "--out", str(tmp_path)]
    module.main([*options, "--seeds", "0:1"])
    found = read_json(tmp_path / "dry_run" / f"{name}.json")
    rows = found["rows"]
    assert {row["model"] for row in rows} == set(models)
    for model in models:
        tried = [row for row in rows if row["model"] == model and row["seed"] == 0]
        judged = [row["validation"] for row in tried]
        best = min(judged) if name == "densities" else max(judged)
        (first,) = (row for row in tried if row.get("chosen"))
        assert first["validation"] == best
        (again,) = (row for row in rows if row["model"] == model and row["seed"] == 1)
        assert again["options"] == first["options"]
        assert again["chosen"]
    assert found["machine"]["versions"]["torch"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("dry_run/jobs/*/row.json")}
    assert len(times) == len(rows)
    module.main([*options, "--seeds", "0:1"])
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    if name == "missing_data":
        assert set(rows[0]["accuracies"]["test"]) == {"none", "1 x 7", "2 x 7", "3 x 7", *(f"iid {r:g}" for r in RATES)}
        assert (tmp_path / "dry_run" / "missing_data.png").stat().st_size > 0


def test_masks_of_missing_pixels():
    masks = dict(protocol(50, 28, 28))
    assert len(masks) == 1 + 6 + 9
    assert not bool(masks["none"].any())
    for rate in RATES:
        assert abs(float(masks[f"iid {rate:g}"].double().mean()) - rate) < 0.01
    assert bool((masks["1 x 11"].flatten(1).sum(1) == 121).all())
    for row in masks["1 x 7"]:
        at = row.nonzero()
        assert (at.amax(0) - at.amin(0)).tolist() == [6, 6]
    assert not bool(masks["iid 0.99"].flatten(1).all(1).any())
    assert all(torch.equal(masks[name], again) for name, again in protocol(50, 28, 28))


def test_the_discriminative_control_sums_over_what_is_missing():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 2, 2), generator=generator).to(torch.uint8)
    model = Marginalized(levels=3, width=2, epochs=1, batch_size=20).fit(images, torch.arange(40) % 2)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    whole = model.network(x).detach().double().exp()
    assert torch.allclose(whole.sum(0), torch.ones(2).double(), atol=1e-5)
    missing = torch.tensor([[0, 3, 1, 3]])  # the level beyond all stands for what is missing
    known = (x[:, 0] == 0) & (x[:, 2] == 1)
    assert torch.allclose(model.network(missing).detach().double().exp()[0], whole[known].sum(0), atol=1e-6)


def test_the_dry_run_of_streaming_measures_what_it_says(tmp_path):
    module = import_module("benchmarks.streaming.__main__")
    module.main(["--dry-run", "--fields", "bumps", "--tolerances", "0.05", "--json", str(tmp_path / "found.json")])
    rows = {row["side"]: row for row in read_json(tmp_path / "found.json")["rows"]}
    assert set(rows) == {"htf.HTStream", "htf, at once", "tt, at once"}
    for row in rows.values():
        assert 0 < row["error"] <= 0.05
        assert row["ratio"] == pytest.approx(12 * 8**3 / row["numbers"])
        assert row["seconds"] > 0


def test_darcy_flow_has_the_known_pressure():
    darcy = import_module("benchmarks.neural_operators.darcy")
    # Of a = 1 the largest value is 0.0736713... (a series of sines).
    middle = darcy._solved(torch.ones(33, 33).double().numpy())[16, 16]
    assert abs(middle - 0.0736713) < 2e-4
    fields, pressures = darcy.darcy(3, 16, seed=0)
    again = darcy.darcy(3, 16, seed=0)
    assert fields.shape == pressures.shape == (3, 1, 16, 16)
    assert torch.equal(fields, again[0])
    assert torch.equal(pressures, again[1])
    assert bool((pressures > 0).all())
    # With cells of another permeability everywhere, pressures scale inversely.
    torch.testing.assert_close(
        torch.from_numpy(darcy._solved(3 * fields[0, 0].exp().double().numpy())).float(), pressures[0, 0] / 3
    )


def test_neural_operators_dry_run_chooses_on_validation_and_tests_at_the_end(tmp_path):
    pytest.importorskip("neuralop", reason="neuraloperator is not installed")
    module = import_module("benchmarks.neural_operators.__main__")
    options = ["--dry-run", "--factorizations", "ht", "tt", "--seeds", "1:2", "--no-progress", "--out", str(tmp_path)]
    module.main(options)
    found = read_json(tmp_path / "dry_run" / "neural_operators.json")
    for mean in found["means"]:
        rows = [row for row in found["rows"] if row["factorization"] == mean["factorization"]]
        tried = [row for row in rows if row["part"] == "validation"]
        assert {row["seed"] for row in tried} == {0}
        assert min(tried, key=lambda row: row["error"])["lr"] == mean["lr"]
        tested = [row for row in rows if row["part"] == "test"]
        assert [row["seed"] for row in tested] == [1, 2]
        assert {row["lr"] for row in tested} == {mean["lr"]}
        assert mean["test_error"] == pytest.approx(sum(row["error"] for row in tested) / 2)


def test_dry_run_of_the_published_figures(tmp_path, capsys):
    module = import_module("benchmarks.published.__main__")
    options = ["--dry-run", "--sets", "digits/original", "digits/random_labels", "--ranks", "1,5", "--classes", "0:2"]
    options += ["--twin-classes", "2", "--passes", "16", "--no-progress", "--out", str(tmp_path)]
    module.main(options)
    out = tmp_path / "dry_run"
    found = read_json(out / "published.json")
    assert found["versions"]["torch"]
    assert [(one["twin"], [fit["rank"] for fit in one["fits"]]) for one in found["sets"]] == [
        ("original", [1, 5]), ("random_labels", [1, 5])
    ]  # fmt: skip
    fits = [fit for one in found["sets"] for fit in one["fits"]]
    rows = [line.split(",") for line in (out / "published.csv").read_text().splitlines()[1:]]
    assert [len(fit["classes"]) for fit in fits] == [3, 3, 2, 2]
    assert len(rows) == 10
    for fit in fits:
        assert fit["passes"] >= 16
        errors = [error for _, error in fit["history"]]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == pytest.approx(fit["train"])
    mean = sum(float(row[5]) for row in rows[:3]) / 3
    assert mean == pytest.approx(fits[0]["train"])
    assert (out / "published.png").stat().st_size > 0
    # More passes go on from the states that are there; as many are read.
    times = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")}
    module.main(options)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    module.main([*options, "--passes", "24"])
    more = [fit for one in read_json(out / "published.json")["sets"] for fit in one["fits"]]
    for before, after in zip(fits, more, strict=True):
        assert after["history"][: len(before["history"])] == before["history"]
        assert after["passes"] >= 24
    capsys.readouterr()
    module.main(["--dry-run", "--collect", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"| digits, random labels | 5 | {more[3]['train']:.4f}" in printed
    assert "published.csv" in printed


def test_distances_from_published_errors():
    from benchmarks.published.summary import as_text, summarize

    content = {"data": "mnist", "twin": "original", "rank": 5, "classes": [0, 1], "seed": 0, "errors": [0.01, 0.02]}
    content |= {"passes_made": 30, "steps": 3, "seconds": 1.0, "history": [[1, 0.09], [10, 0.0085], [30, 0.0083]]}
    (one,) = summarize([content])["sets"]
    (fit,) = one["fits"]
    assert fit["published"] == 0.008
    assert fit["above_published"] == pytest.approx(0.015 / 0.008 - 1)
    assert fit["standard_error"] == pytest.approx(0.005)
    assert fit["distance_in_error_bars"] == pytest.approx(0.007 / (0.005**2 + 0.0005**2) ** 0.5)
    assert fit["passes_to_published"] == 10
    assert "| mnist, original | 5 | 0.0150 ± 0.0050 | 0.008 | +88% | +1.4 | 3 | 30 | 1 |" in as_text({"sets": [one]})
