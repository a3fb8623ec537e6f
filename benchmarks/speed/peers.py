"""Code of peers, imported from their checkouts, or written for a later version of Python."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import numpy

# Names that NumPy no longer has.
_OLD: dict[str, Any] = {"int": int, "round_": numpy.round}


@contextmanager
def importable(checkout: Path) -> Iterator[None]:
    """Import from a research checkout, with old NumPy names put back; its modules are forgotten afterwards.

    Two checkouts may have packages of one name.
    """
    if not checkout.is_dir():
        raise SystemExit(f"{checkout} is not a checkout")
    root = str(checkout.resolve())
    sys.path.insert(0, root)
    try:
        with mock.patch.multiple(numpy, create=True, **_OLD):
            yield
    finally:
        sys.path.remove(root)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(f"{root}/"):
                del sys.modules[name]


def version_of(package: str) -> str | None:
    """The installed version of a package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def imported_before_312(name: str) -> ModuleType:
    """Import a package whose sources are Python 3.12's for no more than ``type`` statements at the top of modules.

    Before 3.12 the word is left out of what is compiled, so that they become plain assignments; files stay as they are.
    An ImportError where the package is not installed.
    """
    if sys.version_info >= (3, 12) or name in sys.modules:
        return importlib.import_module(name)
    finder = _Finder(name)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self._name:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Not by way of the cache of compiled modules, which may be read by others.
        source = re.sub(rb"(?m)^type (?=\w+ =)", b"", self.get_data(self.path))
        code: CodeType = self.source_to_code(source, self.path)
        return code
