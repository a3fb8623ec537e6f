import pytest

from htf._tables import read_table, write_table


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, ("name", "a", "b"), [{"name": 'x,"y"', "a": 1e-17, "b": None}, {"name": "z", "a": 3}])
    assert read_table(path, ("a", "b"), ("name",), may_be_missing=("b",)) == [
        {"name": 'x,"y"', "a": 1e-17, "b": None},
        {"name": "z", "a": 3.0, "b": None},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,a\n", "has no rows"),
        ("name,b\nx,1\n", "has no column a; expected name, a"),
        ("a\n1\n", "has no column name"),
        ("name,a\nx,1\ny,\n", "line 3: a is ''; expected a number"),
        ("name,a\nx\n", "line 2: a is None; expected a number"),
        ("name,a\nx,much\n", "line 2: a is 'much'"),
    ],
)
def test_tables_that_are_none(text, message, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "table.csv", ("a",), ("name",))
