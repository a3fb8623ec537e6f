"""The campaigns of kills and of mutants, in dry runs."""

import json

from benchmarks.reliability import kills, mutants


def test_a_killed_fit_comes_to_the_same(tmp_path, capsys):
    path = tmp_path / "kills.json"
    arguments = ["--kinds", "fit", "--kills", "1", "--variants", "1", "--length", "0.1", "--json", str(path)]
    assert kills.main(arguments) == 0
    report = json.loads(path.read_text())
    assert report["fit"]["kills"] == report["fit"]["runs"] == report["fit"]["identical"] == 1
    assert report["fit"]["victims"] == {"the process": 1}
    assert report["versions"]["htf"]
    assert '"identical": 1' in capsys.readouterr().out


SOURCE = '''"""Tables."""


def clipped(value: int, most: int | None = 3) -> int:
    """The value, at most 9 < 10."""
    if value > most and not value == 7:
        return most
    return -value
'''
TESTS = """from htf._tables import clipped


def test_small():
    assert clipped(2) == -2


def test_large():
    assert clipped(5) == 3
"""
CHANGES = [
    (4, "constant", "3", "4"),
    (6, "boolean operator", "and", "or"),
    (6, "comparison", "==", "!="),
    (6, "comparison", ">", "<="),
    (6, "comparison", ">", ">="),
    (6, "condition negated", "value > most and not value == 7", "(not (value > most and not value == 7))"),
    (6, "constant", "7", "8"),
    (6, "not left out", "not value == 7", "(value == 7)"),
    (7, "returns None", "return most", "return None"),
    (8, "returns None", "return -value", "return None"),
    (8, "sign", "-value", "(value)"),
]


def test_mutants_differ_in_one_place_and_leave_texts_alone():
    found = mutants.mutants_of("htf/_tables.py", SOURCE)
    assert sorted((each.line, each.kind, each.before, each.after) for each in found) == CHANGES
    sources = {each.applied(SOURCE) for each in found}
    assert len(sources) == len(found)
    assert SOURCE not in sources
    few, more = (mutants.sampled(found, count, seed=1) for count in (3, 20))
    assert more[:3] == few
    # Of the two mutants of one comparison, and of two comparisons in one line, one is drawn.
    assert sorted((each.line, each.kind) for each in more) == sorted({(line, kind) for line, kind, *_ in CHANGES})


def test_tests_kill_what_they_see_and_a_run_goes_on(tmp_path, monkeypatch, capsys):
    files = {
        "htf/__init__.py": "",
        "htf/_tables.py": SOURCE,
        "benchmarks/none.py": "",
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n",
        "tests/test_tables.py": TESTS,
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(mutants, "ROOT", tmp_path / "project")
    options = ["--work", str(tmp_path / "work"), "--workers", "1"]
    mutants.main(["baseline", *options])
    options += ["--sources", "htf/_tables.py", "--seed", "1", "--json", str(tmp_path / "mutants.json")]
    mutants.main(["run", *options, "--mutants", "1"])
    assert "1 mutants, 1 to try" in capsys.readouterr().out
    mutants.main(["run", *options, "--mutants", "2"])
    assert "2 mutants, 1 to try" in capsys.readouterr().out
    content = json.loads((tmp_path / "mutants.json").read_text())
    fates = {outcome.mutant: outcome.fate for outcome in mutants.outcomes(tmp_path / "work")}
    namespace = {}
    for mutant, fate in fates.items():
        exec(mutant.applied(SOURCE), namespace)
        try:
            right = (namespace["clipped"](2), namespace["clipped"](5)) == (-2, 3)
        except TypeError:
            right = False
        assert (fate == "survived") == right, mutant
    assert content["mutants"] == 2
    assert content["killed"] == sum(fate == "killed" for fate in fates.values())
    assert len(content["survivors"]) == 2 - content["killed"]
