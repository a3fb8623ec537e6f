"""Every public name is on a page of the API, and every page of the API names what is there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
ROOMS = [
    *("htf", "htf.arrangement", "htf.cli", "htf.datasets", "htf.decomposition", "htf.dynamics", "htf.engine"),
    *("htf.jobs", "htf.models", "htf.nn", "htf.nn.init", "htf.plotting", "htf.probes", "htf.ranks", "htf.regularizers"),
    *("htf.surgery", "htf.tensors", "htf.training", "htf.training.objectives"),
]
UNLISTED = {"Initializer", "METHODS", "__version__"}  # a type alias, names, a string


def listed():
    """(room, name) of every entry of the API's tables and data."""
    for page in sorted((DOCS / "api").glob("*.rst")):
        room, inside = "", False
        for line in page.read_text().splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                room = found[1]
            elif found := re.match(r"\.\. data:: (\S+)", line):
                inside, name = False, found[1]
            elif found := re.match(r"   :module: (\S+)", line):
                yield found[1], name
            elif line.startswith(".. autosummary::"):
                inside = True
            elif inside and (found := re.match(r"   ([A-Za-z]\w*)$", line)):
                yield room, found[1]
            elif line and not line.startswith(" "):
                inside = False


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_on_a_page_of_the_api(room):
    module = importlib.import_module(room)
    documented = {id(getattr(importlib.import_module(place), name)) for place, name in listed()}
    for name in module.__all__:
        value = getattr(module, name)
        if name not in UNLISTED and not inspect.ismodule(value):
            assert id(value) in documented, f"{room}.{name} is on no page of docs/api"


def test_pages_of_the_api_name_public_names():
    entries = list(listed())
    assert len(entries) == len(set(entries)) > 200
    for room, name in entries:
        assert name in importlib.import_module(room).__all__, f"{room}.{name}"


def test_tutorials_are_in_the_index():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        if page.name != "index.md":
            assert re.search(rf"^{page.stem}$", index, re.M), page.name
