"""Time and memory at scale: the page has what the measurements give."""

from pathlib import Path

import pytest

from benchmarks import scale

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_page_has_the_tables_of_the_measurements(tmp_path):
    page = PAGE.read_text()
    assert scale.filled(page) == page
    copy = tmp_path / "scale.md"
    copy.write_text(page.replace("30.4 min", "3 min"))
    scale.main([str(copy)])
    assert copy.read_text() == page


def test_constants_give_back_what_was_measured():
    each = scale.cp_seconds()
    epoch = scale.read("gpu/probe.json")["epochs_ms"]["float32 eager"]
    assert each["gpu"] * 60_000 * 784 * 2_400 == pytest.approx(epoch / 1e3)
    assert each["limit"] < each["gpu"] < each["cpu"]
    assert f"c = {each['cpu'] * 1e12:.0f} ps on two cores and {each['gpu'] * 1e12:.2f} ps" in PAGE.read_text()
    assert f"{each['limit'] * 1e12:.3f} ps" in PAGE.read_text()
    constant, of_a_seed = scale.line(2.0, 11.0)
    assert (constant + of_a_seed, constant + 10 * of_a_seed) == pytest.approx((2.0, 11.0))
    for _, cpu, gpu in scale.dynamics():
        assert all(value > 0 for value in (*cpu, *gpu))
    measured = {row["what"]: row["ms"] for row in scale.read("gpu/tensors.json")["operations"]}
    (large,) = (ms for name, ms in measured.items() if name.startswith("rounding, order 128"))
    constant, of_a_mode = scale.tensor_ms("rounding")["cuda"]
    assert constant + 128 * of_a_mode == pytest.approx(large["cuda"])


def test_pages_that_are_not_that_one():
    with pytest.raises(ValueError, match="has a table 'nothing'"):
        scale.filled("<!-- table nothing --><!-- end -->")
    with pytest.raises(ValueError, match="lacks the table probe"):
        scale.filled("no tables")
