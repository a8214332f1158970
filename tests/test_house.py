"""The counter of `make check`, on code that was counted by hand."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

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

#: Tokens of each line of `BY_HAND` that has some.
TOKENS = (
    3, 3, 5, 8, 18,  # class, width, height, def area, return
    6, 3, 5, 16, 1, 7,  # def walk, total, for, if, continue, total
    5, 14, 2, 9, 3, 2, 3, 4, 3, 3, 2, 3, 2,  # def inner and on
)  # fmt: skip

LIMITS = {
    "modules": 5, "statements": 20, "tokens": sum(TOKENS), "source": 3, "circles": 1,
    "commands": 3, "options": 4, "words": 7, "tests": 2,
    "lines": 50, "complexity": 6, "complex": {},
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Every package with a module, of which one says something; documents and tests."""
    for package in house.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "bench" / "__init__.py").write_text(BY_HAND)
    (tmp_path / "bench" / "page.html").write_text("<p>\nno Python\n</p>\n")
    (tmp_path / "bench" / "README.md").write_text("A document of a package, and no source.\n")
    (tmp_path / "README.md").write_text("# Four words, one sign\n")
    (tmp_path / "docs" / "more").mkdir(parents=True)
    (tmp_path / "docs" / "more" / "page.md").write_text("two words\n")
    (tmp_path / "docs" / "data.json").write_text('{"no": "words"}')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("import it\n# A remark is a line.\n")
    return tmp_path


@pytest.fixture
def program() -> click.Group:
    """Three commands, one of them hidden, with four options, one of them hidden."""
    option = click.Option(["--one"])
    inner = click.Group(
        "inner",
        {
            "a": click.Command("a", params=[option, click.Option(["--two"], hidden=True)]),
            "b": click.Command("b", params=[click.Argument(["path"])], hidden=True),
        },
        params=[click.Option(["--of-a-group"])],
    )
    last = click.Command("last", params=[option, click.Option(["--three"])])
    return click.Group("program", {"inner": inner, "last": last})


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


def test_tokens_are_those_counted_by_hand() -> None:
    assert house.tokens(BY_HAND, ast.parse(BY_HAND)) == sum(TOKENS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x = 'one' 'two'  # a remark", 4),
        ("x = f'{y + 1} of {z}'", 3),
        ("x = (\n    1,\n)", 6),
        ("from a import (\n    b,\n)\nb()", 3),
        ('"""A text\nof two lines."""', 0),
        ('x: int\n"""A text below an attribute."""', 3),
    ],
)
def test_tokens_of_each_form(text: str, value: int) -> None:
    assert house.tokens(text, ast.parse(text)) == value


def test_imports_in_functions_count_and_those_for_type_checkers_do_not() -> None:
    text = """
import a.b
from a import c, name
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a import only_typed
    import typed
else:
    import d
def f():
    try:
        from e import g
    except ImportError:
        import h
"""
    known = {"a", "a.b", "a.c", "a.only_typed", "d", "e", "h", "typed", "unused"}
    assert house.imported(ast.parse(text), known) == {"a.b", "a.c", "d", "e", "h"}
    assert house.imported(ast.parse("from a import name"), known) == {"a"}


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, n - 1)] * 2))))
def test_circles_are_the_strongly_connected_groups(edges: list[tuple[int, int]]) -> None:
    """Against SciPy's."""
    n = 1 + max((max(edge) for edge in edges), default=0)
    imports = {f"m{i:02d}": [f"m{b:02d}" for a, b in edges if a == i] for i in range(n)}
    matrix = np.zeros((n, n))
    for a, b in edges:
        matrix[a, b] = 1
    _, labels = connected_components(csr_array(matrix), connection="strong")
    groups = [[f"m{i:02d}" for i in range(n) if labels[i] == label] for label in np.unique(labels)]
    alone = {f"m{a:02d}" for a, b in edges if a == b}
    expected = [group for group in groups if len(group) > 1 or group[0] in alone]
    assert house.circles(imports) == sorted(expected)


def test_commands_and_options_count_hidden_ones(program: click.Group) -> None:
    assert house.faces(program) == (3, 4)


def test_a_tree_within_its_limits_has_nothing_to_say(tree: Path, program: click.Group) -> None:
    (tree / "fitters" / "one.py").write_text("def f():\n    from fitters.two import g\n")
    (tree / "fitters" / "two.py").write_text("from fitters import one\n")
    found = house.count(tree, program)
    nothing = dict.fromkeys(house.PACKAGES, 0)
    assert found.modules == dict.fromkeys(house.PACKAGES, 1) | {"fitters": 3}
    assert found.statements == nothing | {"bench": 20, "fitters": 1}
    assert found.tokens == nothing | {"bench": sum(TOKENS), "fitters": 5}
    assert found.source == nothing | {"bench": 3}
    assert found.circles == nothing | {"fitters": 1}
    assert (found.commands, found.options, found.words, found.tests) == (3, 4, 7, 2)
    assert found.lines["bench/__init__.py"] == BY_HAND.count("\n")
    limits = LIMITS | {"modules": 7, "statements": 21, "tokens": sum(TOKENS) + 5}
    assert house.complaints(found, limits | {"complex": {"bench.walk": 8}}) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules": 4}, "modules: 5, the limit is 4."),
        ({"statements": 19}, "statements: 20, the limit is 19."),
        ({"tokens": 99}, f"tokens: {sum(TOKENS)}, the limit is 99."),
        ({"source": 2}, "source: 3, the limit is 2."),
        ({"commands": 2}, "commands: 3, the limit is 2."),
        ({"options": 3}, "options: 4, the limit is 3."),
        ({"words": 6}, "words: 7, the limit is 6."),
        ({"tests": 1}, "tests: 2, the limit is 1."),
        ({"lines": 40}, "bench/__init__.py: 42 lines, the limit is 40."),
        ({"complexity": 7, "complex": {}}, "bench.walk: complexity 8, the limit is 7."),
        ({"complex": {"bench.walk": 7}}, "bench.walk: complexity 8, the limit is 7."),
        ({"complex": {"bench.walk": 9}}, "bench.walk: complexity 8; lower its exception from 9"),
        ({"complexity": 8}, "bench.walk: complexity 8 needs no exception; remove it"),
        ({"complex": {"bench.walk": 8, "bench.gone": 9}}, "bench.gone: complexity 0 needs no"),
    ],
)
def test_what_is_above_its_limit_is_named(
    tree: Path, program: click.Group, changed: dict[str, object], said: str
) -> None:
    limits = LIMITS | {"complex": {"bench.walk": 8}} | changed
    (line,) = house.complaints(house.count(tree, program), limits)
    assert line.startswith(said)


def test_main_prints_the_sums_and_fails_above_a_limit(
    tree: Path, program: click.Group, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit, code in ((20, 0), (19, 1)):
        limits = LIMITS | {"statements": limit, "complexity": 8}
        lines = (f"{name} = {value}\n" for name, value in limits.items())
        (tree / "pyproject.toml").write_text("[tool.headstock.limits]\n" + "".join(lines))
        assert house.main(tree, program) == code
        out, err = capsys.readouterr()
        assert re.search(r"^bench +1 +20 +\d+ +3 +0$", out, re.MULTILINE)
        assert re.search(rf"^statements +20   at most {limit}$", out, re.MULTILINE)
        assert err.startswith("statements: 20") == bool(code)


#: What draws from a seed, and draws from the system's chance where it gets none.
SEEDED = ("default_rng", "RandomState", "Random", "SeedSequence", "PCG64")

#: Of torch, what draws from a generator that all share where it gets none.
SHARED = ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "bernoulli")


def _by_chance(tree: ast.AST) -> list[str]:
    """Return the calls that draw otherwise each time, by what stands there."""
    modules = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        of, _, last = name.rpartition(".")
        seed = next((ast.unparse(value) for value in node.args), None)
        keywords = {keyword.arg for keyword in node.keywords}
        if (
            (last in SEEDED and seed in (None, "None") and "seed" not in keywords)
            or (of == "torch" and last in SHARED and "generator" not in keywords)
            or (of == "random" and "random" in modules and last not in ("Random", "seed"))
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("default_rng()", 1),
        ("np.random.default_rng(None)", 1),
        ("np.random.RandomState()", 1),
        ("import random; random.shuffle(x)", 1),
        ("torch.randn(3, 4)", 1),
        ("default_rng(0), np.random.RandomState(3), np.random.default_rng(seed=1)", 0),
        ("def f(random): random.shuffle(x)", 0),  # as hypothesis gives it
        ("import random; random.Random(1).shuffle(x)", 0),
        ("torch.randn(3, generator=g), rng.standard_normal(3)", 0),
    ],
)
def test_draws_without_a_seed_are_found(text: str, n: int) -> None:
    assert len(_by_chance(ast.parse(text))) == n


def test_no_test_draws_without_a_seed() -> None:
    """A test that can fail by chance is wrong."""
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if not {"perf", "gpu"} & set(path.parts)  # they measure, and compare no draws
        for call in _by_chance(ast.parse(path.read_text(encoding="utf-8")))
    }
    # Draws of others in between, which must play no part.
    assert found == {"tests/fitters/trained/test_training.py: torch.rand(5)"}


def test_every_package_ships_its_types() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in house.PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in data["tool"]["setuptools"]["package-data"][package]


def test_the_version_is_the_installed_one() -> None:
    assert featstore.__version__ == version("headstock")
    assert "__version__" in dir(featstore)


def test_pre_commit_runs_the_steps_of_make_check() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^define lint\n(.+?)^endef", makefile, re.MULTILINE | re.DOTALL)
    assert lint is not None
    assert "check: $(DEV)\n\t$(lint)\n\t$(BIN)/mypy\n" in makefile
    steps = {"mypy", *re.findall(r"^\$\(BIN\)/(.+)$", lint[1], re.MULTILINE)}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert {*re.findall(r"^ +entry: \.venv/bin/(.+)$", hooks, re.MULTILINE)} == steps
    assert len(steps) == 6
