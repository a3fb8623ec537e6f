"""The examples in docstrings do what they say, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import re
import warnings

import pytest

import htf

MODULES = sorted(m.name for m in pkgutil.walk_packages(htf.__path__, "htf.") if m.name != "htf.tltorch")


def examples(module):
    """The doctests of a module, each in a namespace of its own: a reader can paste them as they stand."""
    return [t for t in doctest.DocTestFinder().find(module, globs={"__name__": "__main__"}) if t.examples]


def run(found):
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    run(examples(importlib.import_module(name)))


def test_examples_for_tensorly_torch():
    pytest.importorskip("tltorch", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(examples(importlib.import_module("htf.tltorch")))


def public_callables():
    """Functions and classes that a package offers in ``__all__``, once each, by their full names."""
    packages = [name for name in MODULES if hasattr(importlib.import_module(name), "__all__")]
    found = {}
    for name in ("htf", *packages):
        module = importlib.import_module(name)
        for each in module.__all__:
            value = getattr(module, each)
            # Aliases of types, such as PatchSampler, have no docstring of their own.
            if inspect.isfunction(value) or inspect.isclass(value):
                found.setdefault(value, f"{name}.{each}")
    return {name: value for value, name in found.items()}


PUBLIC = public_callables()


def sections(docstring):
    """Titles of a numpydoc docstring, in order, with what follows each."""
    parts = re.split(r"^(\w[\w ]*)\n-{4,}\n", inspect.cleandoc(docstring), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_an_example_and_name_their_relatives(name):
    found = dict(sections(PUBLIC[name].__doc__ or ""))
    assert ">>>" in found.get("Examples", ""), name
    assert "htf." in found.get("See Also", ""), name


def relatives(docstring):
    """The names in the section "See Also"."""
    for line in dict(sections(docstring)).get("See Also", "").splitlines():
        if line and not line.startswith(" "):
            yield from (name.strip() for name in line.split(" : ")[0].split(","))


def every_docstring():
    for name in MODULES:
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder(exclude_empty=False).find(module):
            if "See Also\n" in test.docstring:
                yield test.name, test.docstring


def test_relatives_are_there():
    for where, docstring in every_docstring():
        for name in relatives(docstring):
            value = htf
            for part in name.removeprefix("htf.").split("."):
                value = getattr(value, part, None)
            assert name.startswith("htf."), (where, name)
            assert value is not None, (where, name)


def test_sections_are_in_the_order_of_numpydoc():
    order = ("See Also", "Notes", "References")
    for name, value in PUBLIC.items():
        titles = [title for title, _ in sections(value.__doc__) if title in order]
        assert titles == sorted(titles, key=order.index), name
        assert len(titles) == len(set(titles)), name


def test_relatives_are_found_and_sections_are_told():
    docstring = """One.

    See Also
    --------
    htf.tensors.ht_add, htf.save : relatives.

    Examples
    --------
    >>> 1
    1
    """
    assert [title for title, _ in sections(docstring)] == ["See Also", "Examples"]
    assert list(relatives(docstring)) == ["htf.tensors.ht_add", "htf.save"]
