"""Benchmarks of models: steps beside a peer, equal times, and decisions between pairs of classes."""

import torch

from benchmarks.classifiers import equal_time
from benchmarks.densities import speed
from benchmarks.fits import image_parts
from benchmarks.missing_data import __main__ as missing_data
from benchmarks.missing_data.masks import non_zero
from benchmarks.missing_data.pairs import COUNTS, few_of_each, of_pairs
from htf._files import read_json

DIGITS = ["--source", "digits", "--threads", "1"]


def test_steps_of_a_density_and_samples_are_timed(tmp_path):
    small = ["--side", "4", "--width", "2", "--batches", "8", "--turns", "1", "--steps", "1", "--samples", "2"]
    speed.main([*DIGITS, *small, "--json", str(tmp_path / "speed.json")])
    report = read_json(tmp_path / "speed.json")
    (found,) = report["steps"]
    assert found["batch"] == 8
    assert found["plan_ms"] > 0
    ours = found["sides"]["htf"]
    # Leaves of 256 levels, four pairs of pairs, and the root.
    assert ours["parameters"] == 16 * 256 * 2 + 4 * 4 + 2
    assert ours["ratio"] == 1
    assert report["samples"]["htf"] > 0


def test_a_tree_and_a_matrix_product_state_of_equal_time(tmp_path):
    small = ["--train", "100", "--validation", "20", "--test", "20", "--seconds", "0.01", "--width", "2"]
    options = [*DIGITS, *small, "--seeds", "0:1", "--rates", "0.001", "0.01"]
    equal_time.main([*options, "--json", str(tmp_path / "equal.json")])
    rows = [row for row in read_json(tmp_path / "equal.json")["rows"] if row["model"] == "tree"]
    chosen = [row for row in rows if row.get("chosen")]
    # Two rates at the first seed, the better one at the second.
    assert [row["seed"] for row in rows] == [0, 0, 1]
    assert len({row["lr"] for row in chosen}) == 1
    assert max(row["validation"] for row in rows[:2]) == chosen[0]["validation"]


def test_pixels_that_are_not_zero_are_left_out():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 3, (50, 6, 5), generator=generator).to(torch.uint8)
    for count in (0, 4, 100):
        missing = non_zero(images, count, generator)
        assert not bool((missing & (images == 0)).any())
        expected = (images > 0).flatten(1).sum(1).clamp(max=count)
        assert torch.equal(missing.flatten(1).sum(1), expected)


def test_decisions_between_pairs():
    class Scores:
        """Scores of three classes, right but for one sample."""

        def scores(self, images, missing):
            assert missing.shape == images.shape
            return torch.tensor([[3.0, 1, 2], [2, 3, 1], [1, 2, 3], [2, 3, 1]])

    images, labels = torch.zeros(4, 2, 2), torch.tensor([0, 1, 2, 2])
    # 0 and 1: 2 of 2; 0 and 2: 2 of 3; 1 and 2: 2 of 3.
    found = of_pairs(Scores(), images, labels, torch.zeros(4, 2, 2, dtype=torch.bool))
    assert abs(found - (1 + 2 / 3 + 2 / 3) / 3) < 1e-12
    few, of = few_of_each(torch.arange(8), torch.tensor([1, 1, 0, 1, 0, 0, 1, 0]), 2)
    assert (few.tolist(), of.tolist()) == ([0, 1, 2, 4], [1, 1, 0, 0])


def test_a_dry_run_of_pairs(tmp_path):
    options = ["--source", "digits", "--dry-run", "--pairs", "--models", "generative", "cnn", "--no-progress"]
    missing_data.main([*options, "--seeds", "0", "--out", str(tmp_path)])
    report = read_json(tmp_path / "dry_run" / "missing_data_pairs.json")
    for row in report["rows"]:
        assert set(row["accuracies"]["test"]) == set(map(str, COUNTS))
        assert 0.3 < row["accuracies"]["test"]["0"] <= 1
    parts = image_parts("digits", 120, 40, 40, None)
    assert len(few_of_each(*parts["train"])[0]) == 120
