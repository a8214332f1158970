"""The counter of `make check`, on code that was counted by hand."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import featstore
from tests import house

ROOT = Path(__file__).parents[1]

#: Statements: a class, two annotated fields, a method, its return: 5. A function, an assignment,
#: a loop with an `if`, its `continue` and a sum: 6. An inner function with its return: 2. A `try`
#: with a return there and in each of two handlers: 4. A `match` with two returns: 3. In all 20.
BY_HAND = '''"""A docstring."""

from __future__ import annotations

import os


class Box:
    """A docstring."""

    width: int
    """A text below an attribute."""
    height: int = 1

    def area(self) -> int:
        """A docstring."""
        return self.width * self.height if self.width and self.height else 0


def walk(boxes):
    import sys

    total = 0
    for box in boxes:
        if not box or box.width < 0 or box.height < 0:
            continue
        total += box.area()

    def inner():
        return [b for b in boxes if b if b.width]

    try:
        return total / len(inner())
    except ZeroDivisionError:
        return 0
    except OSError:
        return sys.maxsize
    match total:
        case 0:
            return 1
        case _:
            return 2
'''

LIMITS = {"modules": 5, "statements": 20, "lines": 50, "complexity": 6, "complex": {}}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Every package with a module, of which one says something."""
    for package in house.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "bench" / "__init__.py").write_text(BY_HAND)
    return tmp_path


def test_statements_are_those_counted_by_hand() -> None:
    assert house.statements(ast.parse(BY_HAND)) == 20


def test_complexity_is_that_counted_by_hand() -> None:
    assert dict(house.complexities(ast.parse(BY_HAND), "m")) == {
        "m.Box.area": 3,  # the expression's if, and
        "m.walk": 8,  # for, if, or, or, except, except, case 0
        "m.walk.inner": 4,  # for, if, if
    }


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("pass", 1),
        ("for x in y: pass\n    else: pass", 3),
        ("while a and b: pass", 3),
        ("try: pass\n    except E: pass\n    else: pass\n    finally: pass", 3),
        ("assert a and b or c", 2),
        ("return lambda: a or b", 2),
        ("class C:\n        def g(self): return a or b", 1),
        ("match a:\n        case 1 | 2: pass\n        case b if b: pass", 2),
        ("with a: return {k: v for k in a for v in b}", 3),
    ],
)
def test_complexity_of_each_form(body: str, value: int) -> None:
    found = dict(house.complexities(ast.parse(f"def f():\n    {body}"), "m"))
    assert found["m.f"] == value


def test_a_tree_within_its_limits_has_nothing_to_say(tree: Path) -> None:
    found = house.count(tree)
    assert found.modules == dict.fromkeys(house.PACKAGES, 1)
    assert found.statements == {**dict.fromkeys(house.PACKAGES, 0), "bench": 20}
    assert found.lines["bench/__init__.py"] == BY_HAND.count("\n")
    assert house.complaints(found, LIMITS | {"complex": {"bench.walk": 8}}) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules": 4}, "modules: 5, the limit is 4."),
        ({"statements": 19}, "statements: 20, the limit is 19."),
        ({"lines": 40}, "bench/__init__.py: 42 lines, the limit is 40."),
        ({"complexity": 7, "complex": {}}, "bench.walk: complexity 8, the limit is 7."),
        ({"complex": {"bench.walk": 7}}, "bench.walk: complexity 8, the limit is 7."),
        ({"complex": {"bench.walk": 9}}, "bench.walk: complexity 8; lower its exception from 9"),
        ({"complexity": 8}, "bench.walk: complexity 8 needs no exception; remove it"),
        ({"complex": {"bench.walk": 8, "bench.gone": 9}}, "bench.gone: complexity 0 needs no"),
    ],
)
def test_what_is_above_its_limit_is_named(
    tree: Path, changed: dict[str, object], said: str
) -> None:
    limits = LIMITS | {"complex": {"bench.walk": 8}} | changed
    (line,) = house.complaints(house.count(tree), limits)
    assert line.startswith(said)


def test_main_prints_the_sums_and_fails_above_a_limit(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "[tool.headstock.limits]\nmodules = 5\nstatements = {}\nlines = 50\ncomplexity = 8\n"
    for limit, code in ((20, 0), (19, 1)):
        (tree / "pyproject.toml").write_text(table.format(limit) + "complex = {}\n")
        assert house.main(tree) == code
        out, err = capsys.readouterr()
        assert re.search(rf"^statements +20   at most {limit}$", out, re.MULTILINE)
        assert err.startswith("statements: 20") == bool(code)


def test_every_package_ships_its_types() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in house.PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in data["tool"]["setuptools"]["package-data"][package]


def test_the_version_is_the_installed_one() -> None:
    assert featstore.__version__ == version("headstock")
    assert "__version__" in dir(featstore)


def test_pre_commit_runs_the_steps_of_make_check() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    steps = re.findall(r"^\t\$\(BIN\)/(.+)$", recipe.group(1), re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ +entry: \.venv/bin/(.+)$", hooks, re.MULTILINE) == steps
    assert len(steps) == 6
