"""Count what a reader has to read, and compare: ``python tests/house.py``.

Counted are, of each package, its modules, statements, tokens, lines of source that is not Python
and circles of imports; the commands and options of `headstock`; the words of the documents; the
lines of the tests; and the lines of each module and the complexity of each function. `make check`
runs this; what is above its limit in `[tool.headstock.limits]` is named, and the exit code is 1.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
PACKAGES = ("headstock", "featstore", "fitters", "bench", "data_manifests")

#: What to do about a number above its limit.
HOW = (
    "Shorten it. Limits only fall: a raise is paid by deletions in the same commit, or is the "
    "budget of a feature, and then docs/architecture.md says what it buys."
)

#: What has one limit for the whole project.
SUMS = (
    "modules", "statements", "tokens", "source", "circles", "commands", "options", "words", "tests",
)  # fmt: skip

#: Files in a package that are no source in another language: Python, documents, caches.
_NO_SOURCE = (".py", ".pyc", ".md")

_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Count:
    """What was counted.

    Attributes
    ----------
    modules, statements, tokens : dict of str to int
        For each package; see `statements` and `tokens`.
    source : dict of str to int
        For each package, the lines of what is neither Python nor a document: pages, styles,
        scripts, schemas, definitions.
    circles : dict of str to int
        For each package; see `circles`.
    commands, options : int
        Of `headstock`; see `faces`.
    words : int
        Of README.md and docs, as ``wc -w`` counts them.
    tests : int
        Lines of the Python files of the tests.
    lines : dict of str to int
        For each module, by its path.
    complexity : dict of str to int
        For each function, by its full name.
    """

    modules: dict[str, int] = field(default_factory=dict)
    statements: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    source: dict[str, int] = field(default_factory=dict)
    circles: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    options: int = 0
    words: int = 0
    tests: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    complexity: dict[str, int] = field(default_factory=dict)

    def sum_of(self, what: str) -> int:
        """Return one of `SUMS`, over all packages."""
        number: int | dict[str, int] = getattr(self, what)
        return sum(number.values()) if isinstance(number, dict) else number


def statements(tree: ast.AST) -> int:
    """Return how many statements there are, nested ones too, without imports and bare strings.

    Bare strings are docstrings and texts below attributes.
    """
    return sum(
        not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node)
        for node in _statements_in(tree)
    )


def _statements_in(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield every statement, nested ones too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements_in(child)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def tokens(text: str, tree: ast.AST) -> int:
    """Return how many names, numbers, strings and operators there are, keywords too.

    Lines of imports and bare strings do not count. A string with fields is one token, as the
    tokeniser had it before Python 3.12.
    """
    left_out: set[int] = set()
    for node in _statements_in(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found = depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        depth -= kind in ("FSTRING_END", "TSTRING_END")
        counts = kind in ("NAME", "NUMBER", "STRING", "OP", "FSTRING_START", "TSTRING_START")
        found += counts and not depth and token.start[0] not in left_out
        depth += kind in ("FSTRING_START", "TSTRING_START")
    return found


def imported(tree: ast.Module, modules: AbstractSet[str]) -> set[str]:
    """Return which of these modules a module imports, in its functions too.

    What is imported for type checkers alone does not count.
    """
    checked: set[ast.stmt] = set()
    found: set[str] = set()
    for node in _statements_in(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            checked.update(*([part, *_statements_in(part)] for part in node.body))
        if node in checked:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{name.name}" for name in node.names}
            found |= (full & modules) or {node.module}
    return found & modules


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other by imports, each sorted.

    Parameters
    ----------
    imports : mapping of str to iterable of str
        What each module imports.
    """
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen: set[str] = set()
        waiting = [*imports[module]]
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += imports[other]
        reached[module] = seen
    groups = {
        tuple(sorted(other for other in seen if module in reached[other]))
        for module, seen in reached.items()
        if module in seen
    }
    return [list(group) for group in sorted(groups)]


def faces(group: click.Group) -> tuple[int, int]:
    """Return how many commands there are below a group, and how many options these have.

    Hidden ones count. `--help` does not, nor do the options of the groups themselves.
    """
    commands = options = 0
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            below = faces(command)
            commands, options = commands + below[0], options + below[1]
        else:
            commands += 1
            options += sum(isinstance(param, click.Option) for param in command.params)
    return commands, options


def complexities(tree: ast.AST, name: str) -> Iterator[tuple[str, int]]:
    """Yield each function's full name and cyclomatic complexity, as radon counts it.

    One, and one more for each `if`, loop, `else` of a loop or of a `try`, `except`, `case`,
    comprehension, condition in a comprehension, `assert`, and each `and` and `or`. A function
    within a function is counted by itself.

    Parameters
    ----------
    tree : ast.AST
        A module, a class or a function.
    name : str
        Its full name.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _FUNCTION):
            full = f"{name}.{node.name}"
            yield full, 1 + sum(map(_decisions, node.body))
            yield from complexities(node, full)
        elif isinstance(node, ast.ClassDef):
            yield from complexities(node, f"{name}.{node.name}")
        else:
            yield from complexities(node, name)


def _decisions(node: ast.AST) -> int:
    """Return the decisions in a node, without those in functions and classes that it defines."""
    if isinstance(node, _FUNCTION | ast.ClassDef):
        return 0
    if isinstance(node, ast.Assert):
        # What an assertion says is one condition, however it is put together.
        return 1
    return _own_decisions(node) + sum(map(_decisions, ast.iter_child_nodes(node)))


def _own_decisions(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.IfExp():
            return 1
        case ast.For() | ast.AsyncFor() | ast.While():
            return 1 + bool(node.orelse)
        case ast.Try() | ast.TryStar():
            return len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.Match():
            return sum(not _takes_all(case.pattern) for case in node.cases)
        case _:
            return 0


def _takes_all(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def count(root: Path, program: click.Group | None = None) -> Count:
    """Count the project in a folder, and the commands of `program`."""
    found = Count()
    trees: dict[str, ast.Module] = {}
    for package in PACKAGES:
        paths = sorted((root / package).rglob("*.py"))
        found.modules[package] = len(paths)
        found.statements[package] = found.tokens[package] = found.circles[package] = 0
        for path in paths:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            trees[name] = tree
            found.statements[package] += statements(tree)
            found.tokens[package] += tokens(text, tree)
            found.lines[path.relative_to(root).as_posix()] = len(text.splitlines())
            for function, value in complexities(tree, name):
                # Of two of one name, as overloads are, the higher counts.
                found.complexity[function] = max(value, found.complexity.get(function, 0))
        found.source[package] = sum(
            _lines_of(path)
            for path in (root / package).rglob("*")
            if path.is_file() and path.suffix not in _NO_SOURCE
        )
    for circle in circles({name: imported(tree, trees.keys()) for name, tree in trees.items()}):
        found.circles[circle[0].partition(".")[0]] += 1
    if program is not None:
        found.commands, found.options = faces(program)
    documents = [root / "README.md", *(root / "docs").rglob("*.md")]
    found.words = sum(len(path.read_text(encoding="utf-8").split()) for path in documents)
    found.tests = sum(map(_lines_of, (root / "tests").rglob("*.py")))
    return found


def _lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def complaints(found: Count, limits: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that is above its limit, and for exceptions without a use.

    Parameters
    ----------
    found : Count
        What was counted.
    limits : mapping
        Each of `SUMS`, `lines` of a module, `complexity` of a function, and `complex`: the full
        names of functions that may have more, with how much.
    """
    said = [
        f"{what}: {found.sum_of(what):,}, the limit is {limits[what]:,}. {HOW}"
        for what in SUMS
        if found.sum_of(what) > limits[what]
    ]
    said += [
        f"{path}: {lines:,} lines, the limit is {limits['lines']:,}. {HOW}"
        for path, lines in found.lines.items()
        if lines > limits["lines"]
    ]
    exceptions = limits["complex"]
    for name, value in found.complexity.items():
        limit = exceptions.get(name, limits["complexity"])
        if value > limit:
            said.append(f"{name}: complexity {value}, the limit is {limit}. {HOW}")
    for name, limit in exceptions.items():
        value = found.complexity.get(name, 0)
        if value <= limits["complexity"]:
            said.append(f"{name}: complexity {value} needs no exception; remove it from `complex`.")
        elif value < limit:
            said.append(f"{name}: complexity {value}; lower its exception from {limit} to that.")
    return said


def main(root: Path = ROOT, program: click.Group | None = None) -> int:
    """Print the counts, and what is above its limit; return the exit code."""
    if program is None:
        sys.path.insert(0, str(root))
        from headstock.__main__ import cli as program
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    limits = project["tool"]["headstock"]["limits"]
    found = count(root, program)
    columns = SUMS[: SUMS.index("circles") + 1]
    print(f"{'':16}" + "".join(f"{what:>12}" for what in columns))
    for package in PACKAGES:
        numbers = (getattr(found, what)[package] for what in columns)
        print(f"{package:16}" + "".join(f"{number:12,}" for number in numbers))
    for what in SUMS:
        print(f"{what:16}{found.sum_of(what):12,}   at most {limits[what]:,}")
    said = complaints(found, limits)
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
