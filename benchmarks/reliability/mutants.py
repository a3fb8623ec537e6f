"""How many small faults the tests notice: a seeded sample of mutants of the library's source, one tested at a time.

    python -m benchmarks.reliability.mutants baseline                  # once: which test runs which line, and how long
    python -m benchmarks.reliability.mutants run --mutants 300 --minutes 90 --workers 2
    python -m benchmarks.reliability.mutants report --json docs/results/mutants.json

A mutant differs from the source in one place: a comparison or its boundary, an arithmetic or boolean operator, a
constant, a condition that is negated, a statement that is left out, or a returned value that is None.  It is killed if
a test fails that passes without it, or if tests take many times as long.  Tried are the tests that run the mutated
line, as coverage.py has recorded: first the fastest of each test function, within --budget seconds, and for what
survives all others that run it, within --long-budget seconds.  Lines that no test runs in its own process are tried
with the tests of the folder of the same name.

Each worker has a copy of htf, tests and benchmarks; the sources themselves are never touched.  A run goes on where it
was stopped: outcomes are kept in --work, and those of a file that has changed since are forgotten.  Needs the extra
'test'.  Not counted: docstrings, annotations, texts of messages, imports.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "htf/engine/*.py",
    "htf/linalg/*.py",
    "htf/tensors/*.py",
    "htf/training/*.py",
    "htf/training/objectives/*.py",
    "htf/_files.py",
    "htf/_folders.py",
    "htf/_tables.py",
    "htf/datasets/_archives.py",
    "htf/datasets/_cifar.py",
    "htf/datasets/_entry_files.py",
    "htf/datasets/idx.py",
    "htf/probes/result.py",
)
# Not for the baseline: they run everything, and slowly.
LEFT_OUT = ("tests/benchmarks", "tests/test_readme.py", "tests/test_docstrings.py", "tests/test_plotting.py")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0")
KILLED, TIMEOUT, SURVIVED = "killed", "timeout", "survived"
# A mutant may need as many times the time of its tests, and so many seconds for Python to start and tests to be found.
SLOWER, STARTING = 5.0, 90.0


def main(arguments: list[str] | None = None) -> int:
    """Record the baseline, try mutants, or report."""
    options = _options(arguments)
    # Tests run in a folder of their own.
    options.work = options.work.resolve()
    if options.action == "baseline":
        record_baseline(options.work, options.workers, options.tests)
    elif options.action == "run":
        run(options)
    else:
        report(options)
    return 0


# -- mutants -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change of a source file.

    Attributes
    ----------
    file : str
        From the root of the repository.
    line : int
    kind : str
    before, after : str
        What stands there, and what takes its place.
    start, end : int
        Of `before` in the source, in characters.
    first, last : int
        Lines of the statement, or of its head if it has a body.
    """

    file: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {_short(self.before)} -> {_short(self.after)} @{self.start}"

    def applied(self, source: str) -> str:
        """The source with the change."""
        return source[: self.start] + self.after + source[self.end :]


_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a source file, each of which still parses."""
    found = _Finder(file, source).found
    return [mutant for mutant in found if _parses(mutant.applied(source))]


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a file."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source, self.found = file, source, list[Mutant]()
        lines = source.splitlines(keepends=True)
        self._encoded = [line.encode() for line in lines]
        self._offsets = [0]
        for line in lines:
            self._offsets.append(self._offsets[-1] + len(line))
        self._statement: ast.stmt | None = None
        self.visit(ast.parse(source))

    # Where things stand: ast counts columns in bytes.
    def _at(self, line: int, column: int) -> int:
        return self._offsets[line - 1] + len(self._encoded[line - 1][:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _add(self, kind: str, node: ast.expr | ast.stmt, after: str, span: tuple[int, int] | None = None) -> None:
        start, end = span or self._span(node)
        statement = self._statement
        assert statement is not None
        body = getattr(statement, "body", None)
        last = body[0].lineno - 1 if body else statement.end_lineno
        assert last is not None
        before = self.source[start:end]
        self.found.append(
            Mutant(
                self.file, node.lineno, kind, before, after, start, end, statement.lineno, max(last, statement.lineno)
            )
        )

    def _between(self, left: ast.expr, right: ast.expr, operator: str) -> tuple[int, int] | None:
        """Where an operator stands between two operands; None if that is not plain."""
        start, end = self._span(left)[1], self._span(right)[0]
        gap = self.source[start:end]
        if gap.count(operator) != 1 or "#" in gap:
            return None
        place = start + gap.index(operator)
        return place, place + len(operator)

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        outer, self._statement = self._statement, node
        super().visit(node)
        self._statement = outer

    def _skip(self, node: ast.AST) -> None:
        """Nothing in here is mutated."""

    visit_Import = visit_ImportFrom = visit_JoinedStr = visit_TypeAlias = visit_Assert = _skip  # noqa: N815

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Defaults and the body; no annotations, no decorators."""
        for default in (*node.args.defaults, *(each for each in node.args.kw_defaults if each is not None)):
            self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Left out; its message stays."""
        self._add("statement left out", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):  # docstrings
            return
        if not isinstance(node.value, ast.Yield | ast.YieldFrom | ast.Await):
            self._add("statement left out", node, "pass")
        if not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith("warnings.")):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add("statement left out", node, "pass")
        if ast.unparse(node.targets[0]) != "__all__":
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add("statement left out", node, "pass")
        self._arithmetic(node, node.target, node.value, node.op, "=")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._add("returns None", node, "return None")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("loop", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add("loop", node, "continue")

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        # Comparisons and what is negated already have mutants of their own.
        plain = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not plain and not isinstance(test, ast.Compare | ast.Constant | ast.NamedExpr):
            self._add("condition negated", test, f"(not ({ast.get_source_segment(self.source, test)}))")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        inner = f"({ast.get_source_segment(self.source, node.operand)})"
        if isinstance(node.op, ast.Not):
            self._add("not left out", node, inner)
        elif isinstance(node.op, ast.USub):
            self._add("sign", node, inner)
            if isinstance(node.operand, ast.Constant):
                return
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        plain, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            if (span := self._between(left, right, plain)) is not None:
                self._add("boolean operator", left, other, span)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            plain, others = _COMPARISONS[type(operator)]
            for other in others:
                if (span := self._between(left, right, plain)) is not None:
                    self._add("comparison", left, other, span)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr):
            return
        self._arithmetic(node, node.left, node.right, node.op)
        self.generic_visit(node)

    def _arithmetic(
        self, node: ast.expr | ast.stmt, left: ast.expr, right: ast.expr, op: ast.operator, tail: str = ""
    ) -> None:
        if type(op) not in _ARITHMETIC:
            return
        plain, other = _ARITHMETIC[type(op)]
        if (span := self._between(left, right, plain + tail)) is not None:
            self._add("arithmetic operator", node, other + tail, span)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, str(not value))
        elif isinstance(value, int):
            self._add("constant", node, str(value + 1))
        elif isinstance(value, float):
            self._add("constant", node, repr(2 * value if value and value != float("inf") else 1.0))

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ("stacklevel", "mininterval", "unit", "desc"):
            self.generic_visit(node)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def sampled(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of them, at most one of a kind in a line, in random order: more of them hold those of fewer."""
    order = sorted(mutants, key=lambda mutant: (mutant.file, mutant.start, mutant.kind, mutant.after))
    random.Random(seed).shuffle(order)
    chosen: dict[tuple[str, int, str], Mutant] = {}
    for mutant in order:
        chosen.setdefault((mutant.file, mutant.line, mutant.kind), mutant)
    return list(chosen.values())[:count]


# -- which tests run a line --------------------------------------------------------------------------------------------


def record_baseline(work: Path, workers: int, tests: list[str]) -> None:
    """Run the tests once under coverage.py, with the name of each test beside the lines that it runs.

    Raises
    ------
    SystemExit
        If a test fails.
    """
    work.mkdir(parents=True, exist_ok=True)
    copy = _copy(work / "baseline")
    (copy / "coveragerc").write_text("[run]\nsource = htf\ndata_file = .coverage\n")
    command = [sys.executable, *PYTEST, "-n", str(workers), "-p", "times_of_tests", *tests]
    command += ["--cov=htf", "--cov-context=test", "--cov-config=coveragerc", "--cov-report="]
    command += [f"--ignore={each}" for each in LEFT_OUT]
    (copy / "times_of_tests.py").write_text(_TIMES)
    process = subprocess.run(command, cwd=copy, env={**_environment(copy), "HTF_TIMES": str(work / "times.json")})
    if process.returncode != 0:
        raise SystemExit(f"the tests do not pass without a mutant: exit status {process.returncode}")
    shutil.copy(copy / ".coverage", work / "coverage.sqlite")
    shutil.rmtree(copy)


# A plugin of pytest: seconds of each test that passes.
_TIMES = """
import json, os
from collections import defaultdict

seconds, failed = defaultdict(float), set()


def pytest_runtest_logreport(report):
    seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        failed.add(report.nodeid)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open(os.environ["HTF_TIMES"], "w") as file:
            json.dump({name: time for name, time in seconds.items() if name not in failed}, file)
"""


class Baseline:
    """Which tests run a line, and how long each takes."""

    def __init__(self, work: Path) -> None:
        import coverage

        if not (work / "coverage.sqlite").exists():
            raise SystemExit(f"{work} has no baseline; record one first: mutants.py baseline")
        self.seconds: dict[str, float] = json.loads((work / "times.json").read_text())
        data = coverage.CoverageData(str(work / "coverage.sqlite"))
        data.read()
        self._lines: dict[str, dict[int, set[str]]] = {}
        for path in data.measured_files():
            file = "htf" + path.rpartition("/htf")[2]
            self._lines[file] = {
                line: {context.partition("|")[0] for context in contexts} & self.seconds.keys()
                for line, contexts in data.contexts_by_lineno(path).items()
            }

    def tests(self, mutant: Mutant) -> tuple[list[str], bool]:
        """The tests to try, the fastest of each test function first; and whether they run the line."""
        lines = self._lines.get(mutant.file, {})
        found = set[str]().union(*(lines.get(k, ()) for k in range(mutant.first, mutant.last + 1)))
        if reached := bool(found):
            return self._in_order(found), reached
        # Run at import, or in other processes only.
        room = mutant.file.split("/")[1].removesuffix(".py").strip("_")
        near = {name for name in self.seconds if name.startswith((f"tests/{room}/", f"tests/test_{room}.py"))}
        return self._in_order(near or set[str]().union(*lines.values())), reached

    def _in_order(self, names: set[str]) -> list[str]:
        functions = defaultdict[str, list[str]](list)
        for name in sorted(names, key=lambda name: (self.seconds[name], name)):
            functions[name.partition("[")[0]].append(name)
        rounds = sorted(
            (number, self.seconds[name], name) for each in functions.values() for number, name in enumerate(each)
        )
        return [name for _, _, name in rounds]

    def within(self, names: list[str], budget: float) -> list[str]:
        """The first tests that take so many seconds together; at least one."""
        total, chosen = 0.0, list[str]()
        for name in names:
            if chosen and total + self.seconds[name] > budget:
                continue
            total += self.seconds[name]
            chosen.append(name)
        return chosen


# -- trying them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    source: str  # SHA-256 of the file without it
    fate: str
    by: str  # the first test that failed
    tests: int
    reached: bool
    seconds: float


def run(options: argparse.Namespace) -> None:
    """Try a sample of mutants, and keep each outcome as it comes."""
    baseline, work = Baseline(options.work), options.work
    sources = {file: (ROOT / file).read_text() for file in _files(options.sources)}
    chosen = sampled(
        [m for file, text in sources.items() for m in mutants_of(file, text)], options.mutants, options.seed
    )
    done = {outcome.mutant for outcome in outcomes(work)}
    left = [mutant for mutant in chosen if mutant not in done]
    print(f"{len(chosen)} mutants, {len(left)} to try", flush=True)
    deadline = time.monotonic() + 60 * options.minutes
    copies: Queue[Path] = Queue()
    for number in range(options.workers):
        copies.put(_copy(work / f"copy-{number}"))

    def attempt(mutant: Mutant) -> Outcome | None:
        if time.monotonic() > deadline:
            return None
        copy = copies.get()
        try:
            return _try(mutant, sources[mutant.file], copy, baseline, options.budget, options.long_budget)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(options.workers) as pool, (work / "outcomes.jsonl").open("a") as file:
        for number, outcome in enumerate(pool.map(attempt, left)):
            if outcome is None:
                continue
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()
            print(
                f"{number + 1}/{len(left)} {outcome.fate:8} {outcome.seconds:5.1f} s  {outcome.mutant.name}", flush=True
            )
    while not copies.empty():
        shutil.rmtree(copies.get())
    report(options)


def _try(mutant: Mutant, source: str, copy: Path, baseline: Baseline, budget: float, long_budget: float) -> Outcome:
    began, (names, reached) = time.monotonic(), baseline.tests(mutant)
    target = copy / mutant.file
    target.write_text(mutant.applied(source))
    try:
        first = baseline.within(names, budget)
        fate, by = _fate(first, copy, baseline)
        tried = len(first)
        if fate == SURVIVED and (rest := [name for name in names if name not in set(first)]):
            second = baseline.within(rest, long_budget)
            fate, by = _fate(second, copy, baseline)
            tried += len(second)
    finally:
        target.write_text(source)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return Outcome(mutant, digest, fate, by, tried, reached, round(time.monotonic() - began, 1))


def _fate(names: list[str], copy: Path, baseline: Baseline) -> tuple[str, str]:
    if not names:
        return SURVIVED, ""
    limit = STARTING + SLOWER * sum(baseline.seconds[name] for name in names)
    (copy / "tests.txt").write_text("\n".join(names) + "\n")
    # Memory is bounded, as a loop that does not end may fill it.
    command = ["sh", "-c", 'ulimit -v 12000000; exec "$@"', "sh", sys.executable, *PYTEST, "-x", "@tests.txt"]
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command, cwd=copy, env=_environment(copy), stdout=told, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return TIMEOUT, ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what the tests have started
            process.wait()
        told.seek(0)
        text = told.read()
    if status == 0:
        return SURVIVED, ""
    lines = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not lines and "no tests ran" in text:
        raise RuntimeError(f"pytest does not find the tests of the baseline; record it anew:\n{text[-2000:]}")
    return KILLED, (lines[0] if lines else text.strip()[-200:])[:200]


def outcomes(work: Path) -> Iterator[Outcome]:
    """What was kept, as far as the sources are still the same."""
    path = work / "outcomes.jsonl"
    if not path.exists():
        return
    digests: dict[str, str] = {}
    for line in path.read_text().splitlines():
        content = json.loads(line)
        outcome = Outcome(**{**content, "mutant": Mutant(**content["mutant"])})
        file = outcome.mutant.file
        if file not in digests:
            source = (ROOT / file).read_text() if (ROOT / file).exists() else ""
            digests[file] = hashlib.sha256(source.encode()).hexdigest()
        if digests[file] == outcome.source:
            yield outcome


def report(options: argparse.Namespace) -> None:
    """Print, and write as JSON, the share killed and every survivor."""
    found = list(outcomes(options.work))
    found.sort(key=lambda outcome: (outcome.mutant.file, outcome.mutant.line, outcome.mutant.start))
    if not found:
        raise SystemExit(f"{options.work} has no outcomes of these sources")
    killed = [outcome for outcome in found if outcome.fate != SURVIVED]
    survivors = [outcome for outcome in found if outcome.fate == SURVIVED]
    content: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "mutants": len(found),
        "killed": len(killed),
        "of which by time": sum(outcome.fate == TIMEOUT for outcome in found),
        "share killed": round(len(killed) / len(found), 4),
        "by part": _shares(found, lambda mutant: "/".join(mutant.file.split("/")[:2])),
        "by kind": _shares(found, lambda mutant: mutant.kind),
        "survivors": [
            {
                "at": f"{outcome.mutant.file}:{outcome.mutant.line}",
                "kind": outcome.mutant.kind,
                "before": outcome.mutant.before,
                "after": outcome.mutant.after,
                "tests": outcome.tests,
                "reached": outcome.reached,
            }
            for outcome in survivors
        ],
    }
    for outcome in survivors:
        print(f"survived  {outcome.mutant.name}{'' if outcome.reached else '  (no test runs it in its own process)'}")
    print(f"{len(killed)} of {len(found)} mutants killed, {content['share killed']:.1%}: {content['by part']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def _shares(found: list[Outcome], key: Any) -> dict[str, str]:
    total, killed = Counter[str](), Counter[str]()
    for outcome in found:
        total[key(outcome.mutant)] += 1
        killed[key(outcome.mutant)] += outcome.fate != SURVIVED
    return {name: f"{killed[name]} of {count}" for name, count in sorted(total.items())}


# -- copies ------------------------------------------------------------------------------------------------------------


def _files(patterns: list[str]) -> list[str]:
    return sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})


def _copy(folder: Path) -> Path:
    """What tests need, without git's files."""
    if folder.exists():
        shutil.rmtree(folder)
    for name in ("htf", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder.resolve()


def _environment(copy: Path) -> dict[str, str]:
    # No bytecode: a mutant of the same size within a second would not be seen.
    return {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["baseline", "run", "report"])
    parser.add_argument("--work", type=Path, default=Path("runs/mutants"), help="folder of baseline and outcomes")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="of the baseline")
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), help="patterns of files to mutate")
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=120.0, help="at most; the same command goes on")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of tests for a mutant, at first")
    parser.add_argument("--long-budget", type=float, default=60.0, help="seconds of tests for one that survives these")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
