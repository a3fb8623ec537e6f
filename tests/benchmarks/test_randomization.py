"""The randomization benchmark, on a few digits."""

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks.randomization import __main__ as randomization
from benchmarks.randomization import (
    activations,
    compressibility,
    convolutions,
    jobs,
    kernels,
    networks,
    regularizers,
    solvers,
)
from htf._files import read_json, write_json
from htf.datasets import load
from htf.datasets.images import ImageData

DIGITS = ["--source", "digits", "--train", "120", "--validation", "60", "--test", "300", "--no-progress"]
IMAGES = {"train": 60, "validation": 20, "test": 50, "seed": 0}
TRAINING = {"lr": 0.05, "batch_size": 16, "epochs": 60, "weight_decay": 0.0}


def options(*arguments):
    return randomization._options([*DIGITS, *arguments])


def digits_job(**changes):
    return jobs.Job(**{"source": "digits", "images": IMAGES, "model": "mlp_1x512", "variant": "original", "seed": 0,
                       "training": TRAINING} | changes)  # fmt: skip


def never(share):
    """A report that nobody reads."""


# -- the whole ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sweep over one perceptron, and where it is."""
    out = tmp_path_factory.mktemp("randomization")
    arguments = [*DIGITS, "--models", "mlp_1x512", "--corruptions", "0.5", "1.0", "--lrs", "0.02", "0.05"]
    arguments += ["--weight-decay", "--dropout", "0.2", "--shifts", "--kernel-train", "150", "--widths", "0.5", "1"]
    arguments += ["--filters", "60", "--descent-train", "15", "--descent-steps", "3000", "--out", str(out)]
    randomization.main(arguments)
    return out, arguments


def table(out):
    with (out / "randomization.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_random_labels_are_fitted_and_test_accuracy_is_chance(run):
    rows = [row for row in table(run[0]) if row["judged_on"] == "test" and row["lr"]]
    for variant in ("original", "corrupted_labels_0.5", "corrupted_labels_1", "random_labels", "random_pixels"):
        (row,) = [row for row in rows if row["variant"] == variant and not row["control"]]
        assert row["train"] == "1.0"
        assert row["epochs"] == row["epochs_to_fit"] != ""
        low, high = binom.interval(0.99, 300, 0.1)
        assert float(row["chance_low"]) == pytest.approx(low / 300, abs=1e-4)
        assert float(row["chance_high"]) == pytest.approx(high / 300, abs=1e-4)
        if variant == "original":
            assert float(row["test"]) > 0.75
            true = row
        elif variant == "random_labels":
            assert low <= 300 * float(row["test"]) <= high
            assert int(row["epochs"]) > int(true["epochs"])
    assert {row["variant"] for row in rows if row["control"] == "dropout 0.2"} == {"original", "random_labels"}
    assert {row["corruption"] for row in rows if row["variant"].startswith("corrupted")} == {"0.5", "1.0"}


def test_solvers_stand_in_the_table(run):
    rows = {(r["model"], r["variant"], r["train_images"]): r for r in table(run[0]) if r["judged_on"] == "test"}
    sample = rows["finite_sample", "random_labels", "120"]
    assert (sample["train"], sample["parameters"]) == ("1.0", str(2 * 120 + 64))
    assert {row["train"] for row in rows.values() if row["model"] == "gaussian_kernel"} == {"1.0"}
    assert float(rows["gaussian_kernel", "original", "120"]["test"]) > 0.8
    assert ("gaussian_kernel", "original", "150") in rows
    # Random convolutions, of which nothing is learned, interpolate any labels and know the true ones.
    for model in ("convolutions_kernel", "convolutions_linear"):
        assert {rows[model, variant, "120"]["train"] for variant in ("original", "random_labels")} == {"1.0"}
        assert float(rows[model, "original", "120"]["test"]) > 0.8
        assert float(rows[model, "random_labels", "120"]["test"]) < 0.2
    least, descent = (rows[model, "original", "15"] for model in ("least_squares", "gradient_descent"))
    assert float(descent["norm"]) == pytest.approx(float(least["norm"]), rel=0.05)
    assert "after 3000 steps" in descent["note"]


def test_rates_are_chosen_by_validation(run):
    rows = [row for row in table(run[0]) if row["judged_on"] == "validation"]
    assert sorted(row["control"] for row in rows) == ["lr 0.02", "lr 0.05", *["width 0.5"] * 2, *["width 1"] * 2]
    assert {row["test_images"] for row in rows} == {"60"}
    chosen = read_json(run[0] / "randomization.json")["chosen"]
    for model, column in (("mlp_1x512", "lr"), ("gaussian_kernel", "width"), ("convolutions_kernel", "width")):
        mine = [row for row in rows if row["model"] == model]
        best = max(float(row["test"]) for row in mine)
        assert chosen[model] == min(float(row[column]) for row in mine if float(row["test"]) == best)
        later = {row[column] for row in table(run[0]) if row["judged_on"] == "test" and row["model"] == model}
        assert {float(value) for value in later} == {chosen[model]}


def test_curves_settings_and_machine_are_kept(run):
    about = read_json(run[0] / "randomization.json")
    assert about["settings"]["train"] == 120
    assert not {"out", "data_dir", "workers"} & set(about["settings"])
    assert about["machine"]["versions"]["torch"] == torch.__version__
    for curve in about["curves"]:
        assert len(curve["train_loss"]) == len(curve["train"])
        assert all(share < 1 for share in curve["train"][:-1])
    assert (run[0] / "randomization.png").stat().st_size > 1000
    assert not list(run[0].glob("jobs/*/checkpoint*"))


def test_what_is_done_is_not_done_again(run):
    out, arguments = run
    before = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")}
    rows = table(out)
    randomization.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")} == before
    assert table(out) == rows


def test_a_dry_run_does_every_step(tmp_path):
    few = ["--models", "cnn", "mlp_3x512", "--corruptions", "0.5", "--lrs", "0.01", "--descent-steps", "20"]
    randomization.main([*DIGITS, "--dry-run", *few, "--out", str(tmp_path)])
    rows = table(tmp_path / "dry_run")
    assert {row["epochs"] for row in rows if row["lr"]} <= {"1", "2"}
    assert {row["model"] for row in rows} == {"cnn", "mlp_3x512", *solvers.SOLVERS}
    assert {row["control"] for row in rows if row["judged_on"] == "test"} == {
        "", "weight decay 0.0005", "dropout 0.5", "shifts 2"}  # fmt: skip
    assert (tmp_path / "dry_run" / "randomization.png").exists()


# -- one fit --------------------------------------------------------------------------------------------


def test_early_stopping_judges_the_epoch_that_is_best_on_images_held_out(tmp_path):
    job = digits_job(training={**TRAINING, "epochs": 30, "patience": 2}, control="early stopping 2")
    row = jobs.Job.within(tmp_path)(job, never)["row"]
    done = int(row["note"].removeprefix("stopped after ").removesuffix(" epochs"))
    assert row["epochs"] + 2 == done < 30
    assert row["epochs_to_fit"] is None
    # The same epochs without a rule end at the same test accuracy.
    same = digits_job(training={**TRAINING, "epochs": row["epochs"]})
    assert jobs.Job.within(tmp_path)(same, never)["row"]["test"] == row["test"]


def test_the_table_of_regularizers():
    base = {"judged_on": "test", "lr": 0.1, "variant": "original", "control": "", "model": "cnn", "train": 1.0}
    rows = [
        base | {"test": 0.5},
        base | {"test": 0.7},
        base | {"test": 0.125, "variant": "random_labels"},
        base | {"test": 0.9, "control": "all"},
        base | {"test": 0.0, "judged_on": "validation"},
        base | {"test": 0.0, "lr": None},
    ]
    assert regularizers.regularizer_table(rows).splitlines()[2:] == [
        "| cnn | none | 1.000 (1.000 to 1.000) | 0.600 (0.500 to 0.700) | 1.000 | 0.125 |",
        "| cnn | all | 1.000 | 0.900 |  |  |",
    ]


def test_an_interrupted_training_goes_on_and_leaves_the_row_that_it_would_have(tmp_path):
    job = digits_job(variant="random_labels", options={"dropout": 0.2, "shift": 1}, training={**TRAINING, "epochs": 3})
    whole = jobs.Job.within(tmp_path / "whole")(job, never)["row"]
    shares = []

    def stopping(share):
        shares.append(share)
        if len(shares) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.Job.within(tmp_path / "cut")(job, stopping)
    assert not list((tmp_path / "cut").glob("jobs/*/row.json"))
    row = jobs.Job.within(tmp_path / "cut")(job, shares.append)["row"]
    assert shares[6:] == pytest.approx([k / 12 for k in range(7, 13)])
    assert {**row, "seconds": 0} == {**whole, "seconds": 0}
    assert (row["epochs"], row["epochs_to_fit"]) == (3, None)


def test_accuracies_are_those_of_the_network_in_evaluation_mode(tmp_path, monkeypatch):
    seen = []

    def remember(*given, **named):
        seen.append(networks.make_network(*given, **named))
        return seen[-1]

    monkeypatch.setattr(jobs, "make_network", remember)
    job = digits_job(options={"dropout": 0.5}, training={**TRAINING, "epochs": 2})
    row = jobs.Job.within(tmp_path)(job, never)["row"]
    task = jobs.as_task(jobs.make_data(job))
    for part, column in ((task.train, "train"), (task.test, "test")):
        x, y = part.tensors()
        with torch.no_grad():
            said = seen[0].eval()(x).argmax(1)
        assert float((said == y).double().mean()) == pytest.approx(row[column])


def test_jobs_of_the_options():
    found = list(randomization.network_jobs(options("--seeds", "0:1", "--corruptions", "0.3"), {"cnn": 0.01}))
    assert len({job.name for job in found}) == len({job.digest for job in found}) == len(found) == 2 * (6 + 2 * 3)
    told = {(job.variant, job.control) for job in found}
    assert ("corrupted_labels_0.3", "") in told
    assert ("random_labels", "shifts 2") in told
    assert ("gaussian_images", "dropout 0.5") not in told
    (decayed,) = {job.training["weight_decay"] for job in found if job.control.startswith("weight decay")}
    assert decayed == 5e-4
    assert all(job.training["lr"] == 0.01 for job in found)
    (both,) = [
        job
        for job in randomization.network_jobs(options("--patience", "3", "--all"), {"cnn": 0.01})
        if (job.control, job.variant) == ("all", "random_labels")
    ]
    assert (both.options, both.training["weight_decay"]) == ({"dropout": 0.5, "shift": 2}, 5e-4)
    (stopped,) = [
        job
        for job in randomization.network_jobs(options("--patience", "3"), {"cnn": 0.01})
        if (job.control, job.variant) == ("early stopping 3", "original")
    ]
    assert stopped.training["patience"] == 3
    with pytest.raises(SystemExit):
        options("--all", "--dropout")
    assert all(job.cost > 0 for job in found)


def test_images_for_validation_are_none_of_those_trained_on():
    def picked(judged_on):
        return jobs.pick("digits", None, train=1000, validation=400, test=300, seed=3, judged_on=judged_on)

    validation, test, data = picked("validation"), picked("test"), load("digits")
    assert torch.equal(validation.train_images, test.train_images)
    assert (len(validation.test_labels), len(test.test_labels)) == (400, 300)
    places = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert len(places) == len(data.train_images)
    trained = {tuple(image.flatten().tolist()) for image in test.train_images}
    held = {tuple(image.flatten().tolist()) for image in validation.test_images}
    assert len(trained) == 1000
    assert len(held) == 400
    assert not trained & held
    assert held < places


def test_color_images_have_their_channels_first_in_a_task():
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    task = jobs.as_task(ImageData("colors", images, torch.tensor([0, 1]), images, torch.tensor([0, 1])))
    assert task.image_size == (3, 4, 5)
    assert torch.equal(task.train.images[:, 1], images[..., 1])


def test_what_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"variant is 'other'; known are original, .* and corrupted_labels_0\.2"):
        jobs.make_data(digits_job(variant="other"))
    with pytest.raises(ValueError, match="train, validation and test are 1400, 60 and 50; digits has 1433 train"):
        jobs.make_data(digits_job(images={**IMAGES, "train": 1400, "validation": 60}))


# -- networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 7, 10)])
def test_networks_are_seeded_and_leave_the_global_generator_alone(name, image):
    state = torch.get_rng_state()
    first, again, other = (networks.make_network(name, image, 7, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.rand(5, *image, generator=torch.Generator().manual_seed(0))
    assert first(x).shape == (5, 7)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    weights = [p for p in first.parameters() if p.ndim > 1]
    for weight in weights:
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.15)


def test_inputs_are_whitened_image_by_image():
    x = (
        torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 5, 0.8])[:, None, None, None]
    )
    white = networks.Whiten()(x)
    torch.testing.assert_close(white.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(white.var((1, 2, 3), correction=0), torch.ones(3))
    assert torch.equal(networks.Whiten()(torch.ones(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))


def test_shifts_move_whole_images_in_training_only():
    image = torch.arange(1.0, 31).view(1, 1, 5, 6)
    x = torch.cat([image, 100 + image]).expand(2, 2, 5, 6).repeat(40, 1, 1, 1)
    shift = networks.Shift(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = shift(x)
    padded = torch.nn.functional.pad(x, [2] * 4)
    places = set()
    for before, after in zip(padded, moved, strict=True):
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(before[:, r : r + 5, c : c + 6], after)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 15
    assert torch.equal(shift.eval()(x), x)


# -- solutions of least norm ----------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), d=st.integers(1, 12), k=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_gradient_descent_from_zero_ends_at_the_solution_of_least_norm(n, d, k, seed):
    generator = np.random.default_rng(seed)
    # Singular values from 0.5 to 1, or zero: as many steps are enough for all.
    left, right = (np.linalg.qr(generator.normal(size=(m, m)))[0] for m in (n, d))
    values = generator.uniform(0.5, 1, min(n, d)) * (generator.random(min(n, d)) < 0.8)
    values[0] = 1.0
    x = left[:, : len(values)] @ np.diag(values) @ right[:, : len(values)].T
    y = generator.normal(size=(n, k))
    expected = np.linalg.pinv(x, rcond=1e-10) @ y
    np.testing.assert_allclose(kernels.least_squares(x, y), expected, atol=1e-10)
    np.testing.assert_allclose(kernels.descend(x, y, 200), expected, atol=1e-8)


def test_steps_of_gradient_descent_are_those_of_the_formula():
    generator = np.random.default_rng(0)
    for shape in ((4, 9), (9, 4)):
        x, y = generator.normal(size=shape), generator.normal(size=(shape[0], 2))
        w, step = np.zeros((shape[1], 2)), 1 / np.linalg.norm(x, 2) ** 2
        for _ in range(7):
            w = w - step * x.T @ (x @ w - y)
        np.testing.assert_allclose(kernels.descend(x, y, 7), w, atol=1e-12)


def test_gradient_descent_in_closed_form_is_the_loop_at_any_step():
    generator = np.random.default_rng(0)
    for shape in ((4, 9), (9, 4)):
        x, y = generator.normal(size=shape), generator.normal(size=(shape[0], 2))
        descent = convolutions.Descent.of(x, y)
        for steps in (1, 7):
            found = x.T @ descent.coefficients(steps)
            np.testing.assert_allclose(found, kernels.descend(x, y, steps), atol=1e-12)
        np.testing.assert_allclose(x.T @ descent.coefficients(np.inf), np.linalg.pinv(x) @ y, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 6, 9, 3)])
def test_features_of_random_convolutions(shape):
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = ImageData("some", images, torch.arange(5), images.flip(0), torch.arange(5))
    train, test = convolutions.convolution_features(data, 3, seed=1)
    assert train.shape == test.shape == (5, 8 * 3)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(test, train[::-1], atol=1e-6)
    with pytest.raises(ValueError, match="filters is 0; expected at least 1"):
        convolutions.convolution_features(data, 0, seed=1)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 15), seed=st.integers(0, 10**6))
def test_kernel_interpolation_has_the_least_norm(n, seed):
    generator = np.random.default_rng(seed)
    points, y = generator.normal(size=(n, 6)), generator.normal(size=(n, 2))
    f = kernels.interpolate(points, y, 1.0)
    np.testing.assert_allclose(f(points), y, atol=1e-6)
    gram = np.exp(-np.square(points[:, None] - points).sum(-1) / 2)
    np.testing.assert_allclose(kernels.gaussian_kernel(points, points, 1.0), gram, atol=1e-12)
    assert f.norm == pytest.approx(math.sqrt(np.trace(y.T @ np.linalg.solve(gram, y))), rel=1e-6)
    # Another function through the same values, with one more point of its own, is longer.
    more = np.vstack([points, generator.normal(size=(1, 6))])
    other = np.vstack([y, f(more[n:]) + 0.3])
    assert kernels.interpolate(more, other, 1.0).norm > f.norm


def test_the_median_distance_is_between_different_points():
    points = np.array([[0.0], [1.0], [3.0]])
    assert kernels.median_distance(points) == pytest.approx(2.0)


# -- the figure -----------------------------------------------------------------------------------------


def test_the_figure_is_drawn_from_the_files(run, tmp_path):
    plot = randomization.plot_randomization
    out = run[0]
    loss, epochs, error = plot(out / "randomization.csv", out / "randomization.json").axes
    labels = [line.get_label() for line in loss.lines]
    assert labels == ["true labels", "shuffled pixels", "random pixels", "Gaussian images", "random labels"]
    (curve,) = epochs.lines
    assert curve.get_label() == "perceptron, 1 × 512"
    assert curve.get_xdata().tolist() == [0.0, 0.5, 1.0]
    rows = {
        r["corruption"]: r
        for r in table(out)
        if r["model"] == "mlp_1x512" and r["judged_on"] == "test" and not r["control"]
    }
    assert curve.get_ydata().tolist() == [float(rows[share]["epochs_to_fit"]) for share in ("0.0", "0.5", "1.0")]
    expected = [1 - float(rows[share]["test"]) for share in ("0.0", "0.5", "1.0")]
    assert error.lines[0].get_ydata().tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="holds no curves of model 'cnn'; it holds those of mlp_1x512"):
        plot(out / "randomization.csv", out / "randomization.json", model="cnn")
    write_json(tmp_path / "none.json", {"curves": []})
    with pytest.raises(ValueError, match="holds no curves; expected what"):
        plot(out / "randomization.csv", tmp_path / "none.json")


def test_the_figure_of_early_stopping_is_drawn_from_the_file(run, tmp_path):
    path = run[0] / "randomization.json"
    descent, shares = randomization.plot_early_stopping(path).axes
    assert [line.get_label() for line in descent.lines] == ["0% random", "50% random", "100% random"]
    interpolation, stopped = shares.lines
    for line, note in (
        (interpolation, lambda row: row["note"].rpartition("test ")[2]),
        (stopped, lambda row: row["test"]),
    ):
        rows = {row["corruption"]: row for row in table(run[0]) if row["model"] == "early_stopping"}
        expected = [1 - float(note(rows[share])) for share in ("0.0", "0.5", "1.0")]
        assert line.get_ydata().tolist() == pytest.approx(expected, abs=1e-4)
    # Labels are corrupted in part: what generalizes is learned first.
    assert stopped.get_ydata()[1] < interpolation.get_ydata()[1]
    write_json(tmp_path / "none.json", {"paths": []})
    with pytest.raises(ValueError, match="holds no paths; expected what"):
        randomization.plot_early_stopping(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:1], "has no rows to plot"),
        (lambda lines: [lines[0].replace("corruption", "share"), *lines[1:]], "has no column corruption; expected"),
        (lambda lines: [lines[0], *(line.replace(",0.0,", ",much,") for line in lines[1:])], "corruption is 'much'"),
    ],
)  # fmt: skip
def test_tables_that_are_none(run, change, message, tmp_path):
    lines = (run[0] / "randomization.csv").read_text().splitlines(keepends=True)
    (tmp_path / "table.csv").write_text("".join(change(lines)))
    with pytest.raises(ValueError, match=message):
        randomization.plot_randomization(tmp_path / "table.csv", run[0] / "randomization.json")


def test_activations_of_finite_sample_networks_are_measured(tmp_path, capsys):
    arguments = ["--points", "8", "--dimensions", "2", "--seeds", "0", "1", "--json", str(tmp_path / "a.json")]
    activations.main(arguments)
    rows = read_json(tmp_path / "a.json", sealed=False)["rows"]
    assert [row["activation"] for row in rows[::2]] == list(activations.ACTIVATIONS)
    assert max(row["error"] for row in rows) < 1e-9
    assert capsys.readouterr().out.count("condition number") == 5


# -- compressibility over training ----------------------------------------------------------------------

FOLLOWED = {"lr": 0.05, "batch_size": 16, "noise": 0.5, "formats": ("matrix",), "measured_on": 20}


def test_compressibility_is_followed_until_labels_are_fitted(tmp_path):
    job = compressibility.Followed("digits", IMAGES, "mlp_1x512", "original", 0, epochs=60, **FOLLOWED)
    shares = []

    def stopping(share):
        shares.append(share)
        if len(shares) == 6:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressibility.Followed.within(tmp_path / "cut")(job, stopping)
    found = compressibility.Followed.within(tmp_path / "cut")(job, shares.append)["moments"]
    whole = compressibility.Followed.within(tmp_path / "whole")(job, never)["moments"]
    assert found == whole
    *before, last = found
    assert [moment["epoch"] for moment in before] == [0, 1, 2, 4, 8, 16, 32][: len(before)]
    assert (last["train"], last["stopped"]) == (1.0, "fitted")
    assert all(moment["train"] < 1 and not moment["stopped"] for moment in before)
    assert before[-1]["epoch"] < last["epoch"] <= 60
    assert {moment["parameters"] for moment in found} == {64 * 512 + 512 + 512 * 10 + 10}
    assert all(0 < moment["effective_parameters"] <= moment["parameters"] for moment in found)


def test_shares_at_equal_accuracies():
    def moments(variant, seed, *shares):
        about = {"model": "cnn", "noise": 0.5, "variant": variant, "seed": seed, "parameters": 100}
        accuracies = (0.0, 0.4, 0.8, 1.0)
        return [
            about | {"train": accuracy, "effective_parameters": share}
            for accuracy, share in zip(accuracies, shares, strict=False)
        ]

    rows = [
        *moments("original", 0, 90, 80, 60, 50),
        *moments("original", 1, 90, 80, 64, 52),
        *moments("random_labels", 0, 90, 85, 75, 51),
        *moments("random_labels", 1, 90, 85, 75),
    ]
    half, most, all_of_them = compressibility.summary(rows)
    assert half["original"] == pytest.approx([0.75, 0.76])  # between 0.8 and 0.6, or 0.64
    assert (half["random_labels"], half["apart"]) == (pytest.approx([0.825, 0.825]), True)
    assert (most["random_labels"], most["apart"]) == (pytest.approx([0.63]), False)
    assert (all_of_them["original"], all_of_them["random_labels"]) == ([0.5, 0.52], [0.51])
    assert not all_of_them["apart"]


def test_a_dry_run_of_compressibility(tmp_path, capsys):
    arguments = ["--source", "digits", "--dry-run", "--models", "mlp_1x512", "--formats", "matrix", "--seeds", "0"]
    compressibility.main([*arguments, "--no-progress", "--out", str(tmp_path)])
    out = tmp_path / "dry_run"
    with (out / "compressibility.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["epoch"]) for row in rows] == [
        (variant, epoch) for variant in ("original", "random_labels") for epoch in "012"
    ]
    # The start knows nothing of labels.
    assert rows[0]["spectral_complexity"] == rows[3]["spectral_complexity"]
    about = read_json(out / "compressibility.json", sealed=False)
    assert [row["train"] for row in about["summary"]] == [0.5, 0.9, 1.0]
    assert about["machine"]["versions"]["torch"] == torch.__version__
    assert (out / "compressibility.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"has no rows of noise 0\.25; expected one of those measured"):
        compressibility.plot_compressibility(out / "compressibility.csv", noise=0.25)
    capsys.readouterr()
    for noise in ("0", "1"):
        with pytest.raises(SystemExit):
            compressibility.main(["--noise", noise])
        assert f"--noise is {float(noise)}; expected above 0 and below 1" in capsys.readouterr().err
