"""Commands of benchmarks in documents: their modules are there, and take the options."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]
DOCUMENTS += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
COMMAND = re.compile(r"python -m (benchmarks[\w.]*\w)((?:\\\n|[^`\n\"])*)")


def commands():
    """Where it stands, module and options, each command once."""
    found = {}
    for path in DOCUMENTS:
        for module, options in COMMAND.findall(path.read_text()):
            # Variables of make are options of the user's.
            words = shlex.split(re.sub(r"\$\(\w+\)", "", options.replace("\\\n", " ")), comments=True)
            found.setdefault((module, *words), path.relative_to(ROOT).as_posix())
    return [(path, module, words) for (module, *words), path in found.items()]


@pytest.mark.parametrize(("path", "module", "words"), commands())
def test_commands_of_documents_are_taken(path, module, words):
    spec = find_spec(module)
    assert spec is not None, path
    name = f"{module}.__main__" if spec.submodule_search_locations is not None else module
    # Without options it is a mention.
    if words:
        assert import_module(name)._options(words), path


def test_files_of_benchmarks_in_documents_are_there():
    for path in DOCUMENTS:
        for name in re.findall(r"\bbenchmarks/[\w/.]+\.py\b", path.read_text()):
            assert (ROOT / name).is_file(), (path, name)


def test_every_module_with_a_command_is_told_in_a_document():
    told = {module for _, module, words in commands()}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if '__name__ == "__main__"' in path.read_text():
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            assert module in told, module
