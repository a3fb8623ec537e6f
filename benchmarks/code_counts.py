"""Counts of the source: size, cycles of imports, imports within functions, private names across folders, examples.

    python -m benchmarks.code_counts
    python -m benchmarks.code_counts --json docs/results/code_counts.json --of HEAD~10

With --of, an earlier commit is counted beside the present sources.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"CPNetwork", "HTNetwork", "MatrixFactorization", "TreeNetwork"}


def counts(root: Path) -> dict[str, Any]:
    """All counts of a checkout."""
    files = {name: sorted((root / name).rglob("*.py")) for name in ("htf", "benchmarks", "tests")}
    trees = {path: ast.parse(path.read_text()) for path in files["htf"]}
    modules, folders = _cycles(root)
    return {
        **{f"lines of {name}": sum(len(p.read_text().splitlines()) for p in paths) for name, paths in files.items()},
        **{f"files of {name}": len(paths) for name, paths in files.items()},
        "modules in cycles of imports": modules,
        "folders in cycles of imports": folders,
        "imports within functions": _inner_imports(trees, root),
        "isinstance of networks outside of their folder": _asked(trees),
        "private modules imported across folders": _private(trees, root),
        "public callables without an example": len(_without(">>>", trees, root)),
        "public callables without See Also": len(_without("See Also\n--------", trees, root)),
    }


def _cycles(root: Path) -> tuple[int, int]:
    """Modules, and folders of htf, that import each other in a circle, apart from imports within functions."""
    edges: dict[str, set[str]] = defaultdict(set)
    for path in (root / "htf").rglob("*.py"):
        module = _module(path, root)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("htf"):
                edges[module] |= {
                    name if _exists(root, name := f"{node.module}.{alias.name}") else str(node.module)
                    for alias in node.names
                }
    by_folder: dict[str, set[str]] = defaultdict(set)
    for module, others in edges.items():
        by_folder[_room(module)] |= {_room(other) for other in others} - {_room(module)}
    return _in_cycles(edges), _in_cycles(by_folder)


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _exists(root: Path, module: str) -> bool:
    path = root / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _room(module: str) -> str:
    parts = module.split(".")
    # The package itself gathers what its folders offer.
    return parts[1] if len(parts) > 1 else ""


def _in_cycles(edges: dict[str, set[str]]) -> int:
    """Nodes of a graph from which a path leads back to them (Tarjan's components of more than one node)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = 0

    def visit(node: str) -> None:
        nonlocal found
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in edges.get(node, ()):
            if other == node:
                continue
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            found += len(component) if len(component) > 1 else 0

    sys.setrecursionlimit(10_000)
    for node in sorted(edges):
        if node not in order:
            visit(node)
    return found


def _reason(path: Path, drawn: bool) -> str:
    """The reason for an import within a function."""
    if drawn:
        return "figures on demand"
    # The absolute value of a tensor, which is no tensor yet, has methods in a file of its own.
    if path.name in ("ht_tensor.py", "modulus.py"):
        return "methods of HTTensor"
    return "commands without torch" if path.parent.name == "cli" else "others"


def _inner_imports(trees: dict[Path, ast.Module], root: Path) -> dict[str, int]:
    """Imports of htf within functions, by what they are for."""
    found: dict[str, int] = defaultdict(int)
    for path, tree in trees.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("htf"):
                    drawn = str(node.module).startswith("htf.plotting")
                    found[_reason(path, drawn)] += 1
    return dict(found)


def _asked(trees: dict[Path, ast.Module]) -> int:
    found = 0
    for path, tree in trees.items():
        if "networks" in path.parts:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                names = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
                found += bool(names & NETWORKS)
    return found


def _private(trees: dict[Path, ast.Module], root: Path) -> int:
    """Imports of modules, or of parts of them, whose name begins with an underscore, from another folder."""
    found = 0
    for path, tree in trees.items():
        folder = ".".join(path.relative_to(root).parent.parts)
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("htf"):
                continue
            parts = str(node.module).split(".")
            for k, part in enumerate(parts):
                if part.startswith("_"):
                    owner = ".".join(parts[:k])
                    found += owner != "htf" and not f"{folder}.".startswith(f"{owner}.")
    return found


def _without(text: str, trees: dict[Path, ast.Module], root: Path) -> list[str]:
    """Functions and classes that a folder offers in ``__all__``, or htf itself, whose docstring lacks a text."""
    docstrings: dict[str, dict[str, str]] = {}
    origins: dict[str, dict[str, str]] = {}
    offered: dict[str, list[str]] = {}
    for path, tree in trees.items():
        module = _module(path, root)
        # Of the overloads of a function the last has the docstring.
        docstrings[module] = {
            node.name: ast.get_docstring(node) or ""
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != module]
        origins[module] = {alias.asname or alias.name: str(n.module) for n in imports for alias in n.names}
        for node in tree.body:
            if isinstance(node, ast.Assign) and "__all__" in {ast.unparse(each) for each in node.targets}:
                names = node.value.elts if isinstance(node.value, ast.List) else []
                offered[module] = [str(each.value) for each in names if isinstance(each, ast.Constant)]

    def defined(module: str, name: str) -> tuple[str, str | None]:
        """The module in which a name is defined, and its docstring there; None for what is no function or class."""
        while name not in docstrings[module] and origins[module].get(name) in docstrings:
            module = origins[module][name]
        return module, docstrings[module].get(name)

    found = {f"{module}.{name}": defined(module, name) for module, names in offered.items() for name in names}
    missing = {
        (home, name.rpartition(".")[2]) for name, (home, doc) in found.items() if doc is not None and text not in doc
    }
    return sorted(f"{home}.{name}" for home, name in missing)


def _checkout(commit: str, folder: str) -> Path:
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return Path(folder)


def main(arguments: list[str] | None = None) -> None:
    """Count, print and write."""
    options = _options(arguments)
    found = {"now": counts(ROOT)}
    if options.of:
        with tempfile.TemporaryDirectory() as folder:
            found = {options.of: counts(_checkout(options.of, folder)), **found}
    for name in found["now"]:
        print(f"{name:55}", *(f"{each[name]!s:>40}" for each in found.values()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", help="an earlier commit to count too")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
