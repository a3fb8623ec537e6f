"""Sentences on what a probe found, from the numbers of its table."""

import pytest

from htf.probes import FitRecord, RankFit
from htf.probes._words import first_fitted


def record(form, rank, twin, train, test, seed=0):
    return FitRecord(form, rank, 6, twin, seed, 10, train, test, [train], [test], [], False)


def result(*records):
    return RankFit({"dataset": "digits"}, list(records), {6: 0.08})


def test_each_format_has_a_sentence():
    found = result(
        record("cp", 1, "original", 0.005, 0.01, seed=0),
        record("cp", 1, "original", 0.007, 0.02, seed=1),
        record("cp", 2, "original", 0.003, 0.01),
        record("cp", 1, "random_labels", 0.05, 0.09),
        record("cp", 2, "random_labels", 0.015, 0.12),
        record("ht", 4, "original", 0.03, 0.03),
        record("ht", 4, "random_images", 0.06, 0.1),
        record("ht", 8, "random_images", 0.04, 0.1),
    )
    assert found.in_words().splitlines() == [
        "CP: original images are fitted from rank 1 on, train error 0.0060 (test 0.0150); random labels need rank 2, "
        "train error 0.0150 (test 0.1200, worse than a constant) (means of 2 seeds).",
        "HT: original images are not fitted up to rank 4, the least train error is 0.0300, at rank 4; random images "
        "are not fitted up to rank 8, the least train error is 0.0400, at rank 8.",
        "Fitted: a train error of at most 25% of the variance of the targets, 0.0200, there and at all higher ranks.",
    ]
    assert "random images need rank 8, train error 0.0400" in found.in_words(0.5)


def test_a_rank_between_that_is_not_fitted_counts():
    assert first_fitted([0.1, 0.3, 0.1, 0.1], 0.2) == 2
    assert first_fitted([0.1, 0.1, 0.3], 0.2) is None
    assert first_fitted([0.2], 0.2) == 0


def test_nothing_to_say():
    with pytest.raises(ValueError, match="no records"):
        result().in_words()
    with pytest.raises(ValueError, match=r"fitted is 2; expected from 0 to 1"):
        result(record("cp", 1, "original", 0.1, 0.1)).in_words(2)
