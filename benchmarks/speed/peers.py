"""Code of peers, imported from their checkouts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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
