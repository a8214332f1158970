"""Count what a reader has to read, and compare: ``python tests/house.py``.

Counted are, of each package, its modules, statements, tokens, lines of source that is not Python
and circles of imports; the commands and options of `headstock`; the words of the documents; the
lines of the tests; and the lines of each module. How complex a function may be, ruff knows. `make
check` runs this; what is above its limit in `[tool.headstock.limits]` is named, and the exit code
is 1.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.sparse.csgraph import connected_components

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


@dataclass
class Count:
    """What was counted: by package, in all, and at last by module.

    `source` are the lines of what is neither Python nor a document, `words` those of README.md and
    docs as ``wc -w`` counts them, `tests` the lines of Python in tests.
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


def circles(imports: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other by what each imports, each sorted."""
    names = sorted(imports)
    edges = np.array([[other in imports[module] for other in names] for module in names])
    n, label = connected_components(edges, connection="strong")
    groups = [[name for name, own in zip(names, label, strict=True) if own == k] for k in range(n)]
    return sorted(group for group in groups if len(group) > 1)


def faces(group: click.Group) -> tuple[int, int]:
    """Return how many commands there are below a group, and how many options these have.

    Hidden ones count. `--help` does not, nor do the options of the groups themselves.
    """
    from tests.typed import commands

    leaves = [one for _, one in commands(group) if not isinstance(one, click.Group)]
    options = (isinstance(param, click.Option) for one in leaves for param in one.params)
    return len(leaves), sum(options)


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
    """Return a line for everything that is above its limit."""
    said = [
        f"{what}: {found.sum_of(what):,}, the limit is {limits[what]:,}. {HOW}"
        for what in SUMS
        if found.sum_of(what) > limits[what]
    ]
    return said + [
        f"{path}: {lines:,} lines, the limit is {limits['lines']:,}. {HOW}"
        for path, lines in found.lines.items()
        if lines > limits["lines"]
    ]


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
