"""Count the packages and compare with `[tool.headstock.limits]`: ``python tests/house.py``.

Counted are modules, statements, the lines of each module and the cyclomatic complexity of each
function. `make check` runs this; what is above its limit is named, and the exit code is 1.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("headstock", "featstore", "fitters", "bench", "data_manifests")

#: What to do about a number above its limit.
HOW = (
    "Shorten it, or raise the limit in pyproject.toml and give the reason in docs/architecture.md."
)

_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Count:
    """What was counted.

    Attributes
    ----------
    modules, statements : dict of str to int
        For each package.
    lines : dict of str to int
        For each module, by its path.
    complexity : dict of str to int
        For each function, by its full name.
    """

    modules: dict[str, int] = field(default_factory=dict)
    statements: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    complexity: dict[str, int] = field(default_factory=dict)


def statements(tree: ast.AST) -> int:
    """Return how many statements there are, nested ones too, without imports and bare strings.

    Bare strings are docstrings and texts below attributes.
    """
    return sum(
        isinstance(node, ast.stmt)
        and not isinstance(node, ast.Import | ast.ImportFrom)
        and not _is_text(node)
        for node in ast.walk(tree)
    )


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


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


def count(root: Path) -> Count:
    """Count the packages below a folder."""
    found = Count()
    for package in PACKAGES:
        paths = sorted((root / package).rglob("*.py"))
        found.modules[package] = len(paths)
        found.statements[package] = 0
        for path in paths:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found.statements[package] += statements(tree)
            found.lines[path.relative_to(root).as_posix()] = len(text.splitlines())
            for function, value in complexities(tree, name):
                # Of two of one name, as overloads are, the higher counts.
                found.complexity[function] = max(value, found.complexity.get(function, 0))
    return found


def complaints(found: Count, limits: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that is above its limit, and for exceptions without a use.

    Parameters
    ----------
    found : Count
        What was counted.
    limits : mapping
        `modules` and `statements` of all packages, `lines` of a module, `complexity` of a function,
        and `complex`: the full names of functions that may have more, with how much.
    """
    said = [
        f"{what}: {sum(numbers.values()):,}, the limit is {limits[what]:,}. {HOW}"
        for what, numbers in (("modules", found.modules), ("statements", found.statements))
        if sum(numbers.values()) > limits[what]
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


def main(root: Path = ROOT) -> int:
    """Print the counts, and what is above its limit; return the exit code."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    limits = project["tool"]["headstock"]["limits"]
    found = count(root)
    for package in PACKAGES:
        print(f"{package:16}{found.modules[package]:6,}{found.statements[package]:10,}")
    modules, total = sum(found.modules.values()), sum(found.statements.values())
    print(f"{'modules':16}{modules:6,}   at most {limits['modules']:,}")
    print(f"{'statements':16}{total:6,}   at most {limits['statements']:,}")
    said = complaints(found, limits)
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
