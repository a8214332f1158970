"""The counter of `make check`, on code that was counted by hand; dev.lock, and the hooks."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests import house

ROOT = Path(__file__).parents[1]

#: Statements: a class, an annotated field, a method, its return: 4. A `try`, what is tried, a
#: handler's assignment: 3. A `match` and an assignment: 2. Tokens, line by line: see the test.
BY_HAND = '''"""A docstring."""

import os


class Box:
    """A docstring."""

    width: int
    """A text below an attribute."""

    def area(self) -> int:
        """A docstring."""
        import sys

        return self.width * 2 if self.width else f"{sys.maxsize}"


try:
    os.sep
except OSError:
    total = 0
match total:
    case 0:
        total = 1
'''


def test_statements_and_tokens_are_those_counted_by_hand() -> None:
    tree = ast.parse(BY_HAND)
    assert house.statements(tree) == 4 + 3 + 2
    assert house.tokens(BY_HAND, tree) == (3 + 3 + 8 + 12) + (2 + 3 + 3 + 3) + (3 + 3 + 3)


#: What draws from a seed, and draws from the system's chance where it gets none.
SEEDED = ("default_rng", "RandomState", "Random", "SeedSequence", "PCG64")

#: Of torch, what draws from a generator that all share where it gets none.
SHARED = ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "bernoulli")


def _by_chance(tree: ast.AST) -> list[str]:
    """Return the calls that draw otherwise each time, by what stands there."""
    nodes, found = [*ast.walk(tree)], []
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    for node in nodes:
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


def test_pre_commit_runs_the_steps_of_make_check() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^define lint\n(.+?)^endef", makefile, re.MULTILINE | re.DOTALL)
    assert lint is not None
    assert "check: $(DEV)\n\t$(lint)\n\t$(BIN)/mypy\n" in makefile
    steps = {"mypy", *re.findall(r"^\$\(BIN\)/(.+)$", lint[1], re.MULTILINE)}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert {*re.findall(r"^ +entry: \.venv/bin/(.+)$", hooks, re.MULTILINE)} == steps
    assert len(steps) == 6


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _known(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted(extra: str) -> list[Requirement]:
    """Return what an extra lists, with what the extras that it names list."""
    found = []
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found += [inner for name in requirement.extras for inner in _wanted(name)]
        else:
            found.append(requirement)
    return found


def test_the_lock_holds_a_version_within_each_range_and_nothing_of_one_machine() -> None:
    lines = (ROOT / "dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.!]*", pin)] == []
    versions = dict(pin.split("==") for pin in pins)
    for requirement in (*map(Requirement, PROJECT["dependencies"]), *_wanted("dev")):
        version = versions[_known(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}; run `make lock`"
