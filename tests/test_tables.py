import hashlib
import math

import pytest

from htf._files import write_text
from htf._tables import integer_in, number_in, read_table, write_table


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


def test_the_checksum_beside_a_table(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, ("name", "a"), [{"name": "x", "a": 1}])
    beside = tmp_path / "table.csv.sha256"
    head, line = beside.read_text().splitlines()
    assert head == "# htf table, format 1"
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  table.csv"
    path.write_text(path.read_text().replace("1", "7"))
    with pytest.raises(ValueError, match=r"table\.csv is damaged: .*; delete table\.csv\.sha256 if it was edited"):
        read_table(path, ("a",))
    write_table(path, ("name", "a"), [{"name": "x", "a": 2}])
    assert read_table(path, ("a",)) == [{"name": "x", "a": 2.0}]
    for text, message in (("# htf table, format 2", "has the format '2'"), ("", "is damaged"), ("# htf", "is damaged")):
        beside.write_text(text)
        with pytest.raises(ValueError, match=rf"table\.csv\.sha256 {message}"):
            read_table(path, ("a",))
    # Edited on purpose.
    beside.unlink()
    path.write_text("a\n3\n")
    assert read_table(path, ("a",)) == [{"a": 3.0}]


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_kill_between_table_and_checksum_harms_neither(tmp_path, monkeypatch, killed_after):
    path, calls = tmp_path / "table.csv", []
    write_table(path, ("a",), [{"a": 1}])

    def killed(*arguments):
        if len(calls) == killed_after:
            raise KeyboardInterrupt
        calls.append(write_text(*arguments))

    monkeypatch.setattr("htf._tables.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ("a",), [{"a": 2}])
    assert read_table(path, ("a",)) == [{"a": float(killed_after)}]


@pytest.mark.parametrize("text", ["1_0", "٣", "１", "0x1", "1e", "--1", "1,5", "1 0", "\t1"])
def test_numbers_that_only_python_reads_are_refused(text, tmp_path):
    (tmp_path / "table.csv").write_text(f'a\n"{text}"\n')
    with pytest.raises(ValueError, match=r"line 2: a is '.*'; expected a number"):
        read_table(tmp_path / "table.csv", ("a",))
    assert number_in(text) is None
    assert integer_in(text) is None


def test_numbers_as_they_are_written(tmp_path):
    for text, number in (
        ("1", 1),
        (" -2.5", -2.5),
        ("+.5e-3", 5e-4),
        ("1.", 1),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
    ):
        assert number_in(text) == number
    assert math.isnan(number_in("nan"))
    assert [integer_in(text) for text in ("3", "-4", "3.000e+00", "1.5", "inf", "nan", "")] == [3, -4, 3, *[None] * 4]
    assert integer_in("9" * 5000) is None


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "table.csv"
    for content, message in (
        (b"a\n\xff\xfe\n", "is not a text file"),
        (b'a\n"1\n', "is not a text file"),
        (b"a\n" + b"1" * 200_000, "is not a text file"),
        (b"", "has no rows"),
        (b"a,a\n1,2\n", "2 times the column a"),
        (b"a\n1,2\n", "line 2: it has 2 fields; the header has 1"),
        (b"b,a\n1\n", "line 2: a is None"),
        (b"a,b\n1\n", "line 2: it has 1 fields; the header has 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_table(path, ("a",))
        assert str(path) in str(error.value)
