"""The benchmark of images against distance: what is trained next, in which time, and what a run leaves."""

import csv
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.long_range import bisection, growing, images, points, remedies
from benchmarks.long_range.images_figure import plot_images
from benchmarks.long_range.networks import GlobalConvolution, add_global_convolution, dilate
from htf.nn import receptive_field, small_resnet

ARGUMENTS = ["--task", "pathfinder", "--no-progress", "--dry-run"]
NUMBERS = bisection.numbers_between(500, 50_000, 1.5)


@pytest.fixture
def small(monkeypatch):
    ladder = growing.LADDERS["pathfinder"]
    smaller = replace(ladder, distances=(4, 5), images=(16, 16), data={**ladder.data, "size": 48}, of_distance={})
    monkeypatch.setitem(growing.LADDERS, "pathfinder", smaller)
    # Of one number of images, and without images that take long to draw.
    for name, value in {"alike": 0, "least": 16}.items():
        monkeypatch.setitem(images._DRY, name, value)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def options_of(*arguments):
    return images._options(["--task", "pathfinder", "--seeds", "0:1", *arguments])


# -- bisecting ------------------------------------------------------------------------------------------


def test_numbers_are_a_factor_apart():
    assert (NUMBERS[0], NUMBERS[-1]) == (500, 50_000)
    ratios = [after / before for before, after in pairwise(NUMBERS)]
    assert max(ratios) < 1.55
    assert len(NUMBERS) == 13
    assert 5_000 in NUMBERS
    assert bisection.numbers_between(500, 500, 1.5) == [500]


@pytest.mark.parametrize("needed", [1, 500, 501, 5_000, 7_000, 50_000, 50_001])
def test_an_interval_is_found_in_few_trainings(needed):
    outcomes = {}
    while numbers := bisection.left(outcomes, NUMBERS):
        number = numbers[(len(numbers) - 1) // 2]
        assert number not in outcomes
        outcomes[number] = number >= needed
    low, high = bisection.bounds(outcomes)
    assert len(outcomes) <= 4
    assert low is None or low < needed
    assert high is None or high >= needed
    assert (low is None) == (needed <= 500)
    assert (high is None) == (needed > 50_000)
    if low is not None and high is not None:
        assert NUMBERS.index(high) - NUMBERS.index(low) == 1


def test_a_failure_above_what_reached_is_no_bound():
    assert bisection.bounds({500: False, 1_000: True, 5_000: False}) == (500, 1_000)
    assert bisection.left({500: False, 1_000: True, 5_000: False}, [500, 700, 1_000, 5_000]) == [700]


def row_of(point, distance, reached):
    return {
        "recipe": point.recipe,
        "seed": point.seed,
        "distance": distance,
        "images": point.images,
        "reached": reached,
        "settings_sha256": point.digest,
    }


def test_the_widest_interval_comes_first_and_first_seeds_before_others():
    options = options_of("--distances", "3", "5", "--remedies", "plain", "weight_decay")
    curves = images.make_curves(options, {})
    found = bisection.following(curves, [], NUMBERS, [])
    assert [(p.distances[0], p.remedy, p.seed, p.images) for p in found] == [
        (distance, remedy, seed, 5_000)
        for seed in (0, 1)
        for distance in (3, 5)
        for remedy in ("plain", "weight_decay")
    ]
    rows = [row_of(found[0], 3, False)]
    after = bisection.following(curves, rows, NUMBERS, [])
    # Half of the first interval says less than any that is whole, of the same seed.
    assert [point.digest for point in after[:3]] == [point.digest for point in found[1:4]]
    assert (after[-1].images > 5_000) or any(p.images > 5_000 for p in after)
    assert found[0].digest not in {point.digest for point in after}


def test_numbers_that_are_fixed_are_trained_to_the_end_and_bisect_too():
    options = options_of("--distances", "3", "--remedies", "plain", "--seeds", "0")
    curves = images.make_curves(options, {})
    first, second = bisection.following(curves, [], NUMBERS, [2_000, 5_000])
    assert (first.images, first.whole) == (5_000, True)
    assert (second.images, second.whole) == (2_000, True)
    rows = [row_of(first, 3, True), row_of(second, 3, True)]
    (following,) = bisection.following(curves, rows, NUMBERS, [2_000, 5_000])
    assert following.images < 2_000
    assert not following.whole


def test_a_ladder_is_shared_by_its_distances():
    options = options_of("--distances", "3", "5", "--remedies", "plain", "--seeds", "0", "--growing")
    curves = images.make_curves(options, {})
    assert [curve.distance for curve in curves] == [3, 5]
    (point,) = bisection.following(curves, [], NUMBERS, [])
    assert point.distances == (3, 5)
    rows = [row_of(point, 3, True), row_of(point, 5, False)]
    assert {p.images < 5_000 for p in bisection.following(curves, rows, NUMBERS, [])} == {True, False}


def test_time_that_is_left_is_not_exceeded():
    options = options_of("--distances", "3", "--remedies", "plain", "weight_decay", "--seeds", "0:3", "--steps", "100")
    found = bisection.following(images.make_curves(options, {}), [], NUMBERS, [])
    assert len(found) == 8
    one, two = images.Budget(1 / 3600 * 25, 1), images.Budget(1 / 3600 * 25, 2)
    assert one.fitting(found, 0.1) == found[:1]
    assert two.fitting(found, 0.1) == found[:4]
    assert one.fitting(found, 0.3) == []
    assert "may take 30 seconds: expected --hours 0.0083" in str(one.refuse(found[0], 0.3))


# -- runs -----------------------------------------------------------------------------------------------


def test_a_dry_run_leaves_tables_and_a_figure_and_goes_on(small, tmp_path, capsys, monkeypatch):
    for name in ("alike", "least"):
        monkeypatch.setitem(images._DRY, name, 8)
    arguments = [*ARGUMENTS, "--distances", "4", "--remedies", "plain", "masked_patches=4"]
    images.main([*arguments, "--seeds", "0", "--out", str(tmp_path)])
    out = tmp_path / "dry_run"
    rows = table(out / points.TABLE)
    assert tuple(rows[0]) == points.COLUMNS
    needed = table(out / images.NEEDED)
    assert [row["remedy"] for row in needed] == ["plain", "masked_patches"]
    for each in needed:
        mine = {int(row["images"]): row["reached"] == "True" for row in rows if row["remedy"] == each["remedy"]}
        low, high = bisection.bounds(mine)
        assert (each["failed"], each["reached"]) == ("" if low is None else str(low), "" if high is None else str(high))
        assert not bisection.left(mine, bisection.numbers_between(8, 16, 1.5))
    for row in rows:
        assert (row["reached"] == "True") == (float(row["validation"]) >= 0.9)
        assert 0 <= float(row["test_alike"]) <= 1
        assert float(row["plain_steps"]) > 0
        assert row["share"]
    assert (out / images.FIGURE).stat().st_size > 1000
    times = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")}
    capsys.readouterr()
    images.main([*arguments, "--seeds", "0", "--out", str(tmp_path)])
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert "masked-patch pretraining" in capsys.readouterr().out


def test_a_ladder_stops_where_a_distance_is_not_reached(small, tmp_path):
    arguments = [*ARGUMENTS, "--growing", "--remedies", "plain", "--reach", "1", "--out", str(tmp_path)]
    images.main(arguments)
    rows = table(tmp_path / "dry_run" / points.TABLE)
    assert {row["distance"] for row in rows} == {"4", "5"}
    for first, second in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
        assert (first["images"], first["distance"], second["distance"]) == (second["images"], "4", "5")
        if first["reached"] == "False":
            assert (second["reached"], second["validation"]) == ("False", "")
            assert second["stopped"] == "an earlier distance was not reached"
        else:
            assert float(second["seconds_so_far"]) >= float(first["seconds_so_far"])


def test_a_search_leaves_settings_that_are_taken(small, tmp_path):
    arguments = [*ARGUMENTS, "--distances", "4", "--remedies", "dropout", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"remedy dropout has no dropout for pathfinder; expected dropout=NUMBER"):
        images.main(arguments)
    images.main([*arguments, "--search"])
    tried = table(tmp_path / "dry_run" / "search" / points.TABLE)
    assert sorted(float(row["setting"]) for row in tried) == [0.2, 0.5, 0.8]
    best = max(float(row["validation"]) for row in tried)
    chosen = images._settings(tmp_path / "dry_run", "pathfinder")["dropout"]
    assert best in {float(row["validation"]) for row in tried if float(row["setting"]) == chosen}
    (curve,) = images.make_curves(images._options(arguments), {"dropout": chosen})
    assert curve.point.help["dropout"] == chosen


def test_a_training_that_was_stopped_goes_on(small, tmp_path):
    options = images._options([*ARGUMENTS, "--distances", "4", "--remedies", "plain", "--seeds", "0"])
    vars(options).update(images._DRY, steps=4, alike=0)
    point = images.make_curves(options, {})[0].point.with_images(16, True)
    point = replace(point, training={**point.training, "batch_size": 4})
    whole = points.Point.within(tmp_path / "whole")(point, lambda share: None)

    def stopping(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        points.Point.within(tmp_path / "cut")(point, stopping)
    assert not list((tmp_path / "cut").glob("jobs/*/row.json"))
    assert list((tmp_path / "cut").glob("jobs/*/stages/stage-1/checkpoint*"))
    again = points.Point.within(tmp_path / "cut")(point, lambda share: None)
    for row in (*whole["rows"], *again["rows"]):
        row.update(seconds=0, seconds_so_far=0)
    assert again == whole


# -- refusals -------------------------------------------------------------------------------------------


def test_a_budget_that_cannot_hold_the_first_training_is_refused(small, tmp_path):
    arguments = [*ARGUMENTS, "--distances", "4", "--remedies", "plain", "--hours", "1e-7", "--out", str(tmp_path)]
    with pytest.raises(
        SystemExit, match=r"the next training, pathfinder_4_plain_.* may take \d+ seconds: expected --ho"
    ):
        images.main(arguments)


def test_two_recipes_are_not_one_curve(small, tmp_path):
    arguments = [*ARGUMENTS, "--distances", "4", "--out", str(tmp_path)]
    images.main([*arguments, "--remedies", "weight_decay"])
    for other in (["weight_decay=0.02"], ["weight_decay", "--reach", "0.8"]):
        with pytest.raises(
            SystemExit, match=r"points of the same curve: pathfinder 4, weight_decay; expected a folder"
        ):
            images.main([*arguments, "--remedies", *other])


NEEDED = "task,growing,remedy,setting,kept,distance,seed,reach,failed,reached,trainings,recipe\n"
LINES = [
    "pathfinder,False,plain,,False,3,0,0.9,10800,15800,4,x",
    "pathfinder,False,plain,,False,3,1,0.9,5000,7300,4,x",
    "pathfinder,False,plain,,False,5,0,0.9,50000,,4,x",
    "pathfinder,False,weight_decay,0.01,False,3,0,0.9,,500,4,y",
    "pathfinder,False,weight_decay,0.01,False,5,0,0.9,,,0,y",
]


def test_the_figure_shows_intervals_over_seeds_in_words(tmp_path):
    path = tmp_path / "needed.csv"
    path.write_text(NEEDED + "".join(f"{line}\n" for line in LINES))
    (ax,) = plot_images(path).axes
    curves = {bars.get_label(): bars for bars in ax.containers}
    assert set(curves) == {"nothing (2 seeds)", "weight decay (1 seed)"}
    ends = curves["nothing (2 seeds)"].lines[2][0].get_segments()
    assert ends[0][:, 1].tolist() == pytest.approx([5_000, 15_800])
    middle = math.sqrt(math.sqrt(10_800 * 15_800) * math.sqrt(5_000 * 7_300))
    assert curves["nothing (2 seeds)"].lines[0].get_ydata().tolist() == pytest.approx([middle, 50_000])
    low, high = ax.get_ylim()
    for bars in curves.values():
        for segment in bars.lines[2][0].get_segments():
            assert low < segment[:, 1].min() <= segment[:, 1].max() < high
    path.write_text(NEEDED + LINES[0] + "\n" + LINES[1][:-1] + "z\n")
    with pytest.raises(ValueError, match="two recipes for pathfinder 3 with plain, x and z"):
        plot_images(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "remedy is 'magic'; known are plain, weight_decay"),
        ("plain=3", "plain has no setting"),
        (
            "early_stopping",
            r"has no patience for pathfinder; expected early_stopping=NUMBER, as early_stopping=10, or a",
        ),
        ("dropout=1", "expected a probability below 1 as its dropout"),
        ("dropout=much", "expected a probability below 1 as its dropout"),
        ("weight_decay=-1", "expected a number above 0 as its weight decay"),
        ("weight_decay=True", "expected a number above 0"),
        ("global_convolution=12", "expected an odd number as its kernel"),
        ("dilations=1", "expected an integer of at least 2 as its dilation"),
        ("early_stopping=2.5", "expected an integer of at least 1 as its patience"),
    ],
)
def test_remedies_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        remedies.read_remedy(text, "pathfinder")


def test_a_setting_that_was_searched_comes_before_the_one_that_is_known():
    assert remedies.read_remedy("weight_decay", "pathfinder") == ("weight_decay", 0.01)
    assert remedies.read_remedy("weight_decay", "pathfinder", {"weight_decay": 0.003}) == ("weight_decay", 0.003)
    assert remedies.read_remedy("weight_decay=0.1", "pathfinder", {"weight_decay": 0.003}) == ("weight_decay", 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distances", "5", "3"], "expected growing ones"),
        (["--reach", "0.5"], "--reach is 0.5"),
        (["--least", "600", "--most", "500"], "--least is 600"),
        (["--factor", "1"], "--factor is 1.0"),
        (["--hours", "0"], "--hours is 0.0"),
        (["--steps", "0"], "--steps is 0"),
        (["--fixed", "1"], "expected at least 2 images"),
        (["--data", "train=7"], "expected an argument of the task"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        images._options(["--task", "pathfinder", *arguments])
    assert message in capsys.readouterr().err


# -- networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [7, 11, 25])
def test_global_convolutions_are_convolutions(kernel):
    layer = GlobalConvolution(3, kernel).double()
    x = torch.randn(2, 3, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not layer(x).any()
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=kernel // 2, groups=3)
    torch.testing.assert_close(layer(x), expected)


def test_networks_see_farther_with_a_global_convolution_or_dilations_and_begin_alike():
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    plain, globally, dilated = (small_resnet(seed=3) for _ in range(3))
    add_global_convolution(globally, 23)
    torch.testing.assert_close(plain.eval()(x), globally.eval()(x))
    dilate(dilated, 2)
    assert dilated(x).shape == (2, 1)
    assert min(receptive_field(globally)) > min(receptive_field(dilated)) > min(receptive_field(plain))


def test_pretraining_learns_to_fill_in(tmp_path):
    from htf.datasets import far_parity

    data = far_parity((8, 8), distance=2, train=64, validation=0, test=0)
    help_ = remedies.REMEDIES["masked_patches"].help("pathfinder", 2)
    before, after = (remedies.network_with(help_, "small_resnet", data, 0) for _ in range(2))
    remedies.pretrain(after, help_, data, 4, 0, None, "cpu")
    assert not torch.equal(before.conv1.weight, after.conv1.weight)
    assert torch.equal(before.fc.weight, after.fc.weight)
    with pytest.raises(ValueError, match=r"side of masked patches is 3; images of 8 × 8 pixels"):
        remedies.pretrain(after, replace(help_, masked=3), data, 4, 0, None, "cpu")


def test_jobs_of_growing_keep_their_names():
    options = growing._options(["--task", "pathfinder", "--seeds", "0"])
    names = [job.name.removeprefix("pathfinder_") for job in growing.make_jobs(options)]
    assert names == ["none_seed0_f5fe9682", "weight_decay_seed0_e83853e6", "gradient_field_seed0_bff4b189"]
