"""Laws of the source's structure, by the script that counts it."""

import json

from benchmarks import code_counts


def test_no_cycles_and_no_questions_which_network_it_is(tmp_path):
    code_counts.main(["--json", str(tmp_path / "counts.json")])
    found = json.loads((tmp_path / "counts.json").read_text())["now"]
    for name in (
        "modules in cycles of imports",
        "folders in cycles of imports",
        "private modules imported across folders",
    ):
        assert found[name] == 0, name
    # Arguments of expectation maximization and of likelihoods, which take an HTNetwork alone.
    assert found["isinstance of networks outside of their folder"] == 2
    reasons = {"commands without torch", "figures on demand", "methods of HTTensor"}
    assert set(found["imports within functions"]) == reasons


def test_a_cycle_is_counted():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert code_counts._in_cycles(edges) == 3
