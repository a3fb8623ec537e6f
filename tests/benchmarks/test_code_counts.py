"""Laws of the source's structure, by the script that counts it."""

import ast
import json

from benchmarks import code_counts


def test_no_cycles_and_no_questions_which_network_it_is(tmp_path):
    code_counts.main(["--json", str(tmp_path / "counts.json")])
    found = json.loads((tmp_path / "counts.json").read_text())["now"]
    for name in (
        "modules in cycles of imports",
        "folders in cycles of imports",
        "private modules imported across folders",
        "public callables without an example",
        "public callables without See Also",
    ):
        assert found[name] == 0, name
    # Arguments of expectation maximization, of likelihoods and of Gauss-Newton steps, which take one kind of network.
    assert found["isinstance of networks outside of their folder"] == 3
    reasons = {"commands without torch", "figures on demand", "methods of HTTensor"}
    assert set(found["imports within functions"]) == reasons


def test_a_cycle_is_counted():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert code_counts._in_cycles(edges) == 3


def test_what_a_folder_offers_is_looked_up_where_it_is_defined(tmp_path):
    sources = {
        "htf/__init__.py": "",
        "htf/room/__init__.py": 'from htf.room.one import f\nfrom htf.room.two import g\n__all__ = ["f", "g"]\n',
        "htf/room/one.py": "@overload\ndef f(): ...\ndef f():\n    '''>>> f()'''\n",
        "htf/room/two.py": "from htf.room.one import f\ndef g():\n    '''Like f.'''\ndef h(): ...\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    trees = {path: ast.parse(path.read_text()) for path in tmp_path.rglob("*.py")}
    assert code_counts._without(">>>", trees, tmp_path) == ["htf.room.two.g"]
