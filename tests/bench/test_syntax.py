"""The meaning of a source, against what Python compiles of it."""

from __future__ import annotations

import ast
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bench.syntax
from bench.syntax import imported_by, meaning_of

ROOT = Path(bench.syntax.__file__).parents[1]
PATHS = sorted(
    path
    for package in ("bench", "featstore", "fitters")
    for path in (ROOT / package).rglob("*.py")
    if path.stat().st_size > 500
)


def compiled(tree: ast.Module) -> Any:
    """Return what Python runs of a tree, without the names of local variables and positions."""
    return _comparable(compile(ast.unparse(tree), "module", "exec", optimize=2))


def _comparable(code: CodeType) -> Any:
    constants = tuple(
        _comparable(constant) if isinstance(constant, CodeType) else repr(constant)
        for constant in code.co_consts
    )
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return code.co_code, constants, code.co_names, code.co_name, parameters


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _local_names(function: ast.FunctionDef) -> list[str]:
    """Return the names that a function assigns and that are no parameter anywhere within it."""
    parameters = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    assigned = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return sorted(assigned - parameters)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_renamed_local_keeps_the_meaning(data):
    """Where what Python compiles differs in the names of variables alone."""
    source = data.draw(st.sampled_from(PATHS)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions = [function for function in _functions(tree) if _local_names(function)]
    assume(functions)
    before = compiled(tree)
    function = data.draw(st.sampled_from(functions))
    name = data.draw(st.sampled_from(_local_names(function)))
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == name:
            node.id = f"{name}_renamed"
    assume(compiled(tree) == before)
    assert meaning_of(ast.unparse(tree)) == meaning_of(source)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_constant_or_operator_changes_the_meaning(data):
    """Where Python compiles something else, outside of what is raised and of help texts."""
    source = data.draw(st.sampled_from(PATHS)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    wording: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg == "help"):
            wording.update(ast.walk(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            wording.update(ast.walk(node))
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(annotation, ast.AST):
                wording.update(ast.walk(annotation))
    places = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.BinOp | ast.Attribute | ast.Call)
        and node not in wording
    ]
    assume(places)
    before = compiled(tree)
    node = data.draw(st.sampled_from(places))
    if isinstance(node, ast.Constant):
        assume(isinstance(node.value, int | float | str))
        node.value = node.value + ("x" if isinstance(node.value, str) else 1)
    elif isinstance(node, ast.BinOp):
        node.op = ast.Mod() if isinstance(node.op, ast.Pow) else ast.Pow()
    elif isinstance(node, ast.Attribute):
        node.attr += "_other"
    else:
        assume(len(node.args) > 1)
        node.args.reverse()
    assume(compiled(tree) != before)
    assert meaning_of(ast.unparse(tree)) != meaning_of(source)


@pytest.mark.parametrize("path", PATHS[::7], ids=lambda path: path.stem)
def test_layout_docstrings_and_annotations_have_no_meaning(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body.insert(0, ast.Expr(ast.Constant("Another docstring.")))
            node.returns = ast.Name("Any", ast.Load())
            for argument in node.args.args:
                argument.annotation = ast.Name("Any", ast.Load())
    assert meaning_of(ast.unparse(ast.fix_missing_locations(tree))) == meaning_of(source)


SAME = [
    ("def f(a):\n b = a\n return b", "def f(a: int) -> int:\n 'Why.'\n c: int = a\n return c"),
    ("x = [i for i in range(3)]", "x = [j for j in range(3)]"),
    ("f = lambda a, b=1: a + b", "f = lambda x, y=1: x + y"),
    ("def f():\n import numpy as np\n return np", "def f():\n import numpy as n\n return n"),
    ("def f(x):\n raise ValueError(f'no {x}') from None", "def f(x):\n raise ValueError('No.')"),
    ("def f(x):\n assert x, 'no'", "def f(x):\n assert x"),
    ("def f():\n try: g()\n except E as e: h(e)", "def f():\n try: g()\n except E as k: h(k)"),
    (
        "def f():\n n = 0\n def g():\n  nonlocal n\n  n += 1\n return g",
        "def f():\n m = 0\n def h():\n  nonlocal m\n  m += 1\n return h",
    ),
    (
        "def f(x):\n match x:\n  case [a, *b]: return a, b",
        "def f(x):\n match x:\n  case [c, *d]: return c, d",
    ),
    ("def f(s):\n if (n := len(s)) > 2: return n", "def f(s):\n if (k := len(s)) > 2: return k"),
]
DIFFERENT = [
    ("def f(a): return a", "def f(b): return b"),  # callers may name it
    ("def f(a, *, b): return a", "def f(a, b): return a"),
    ("def f(x):\n return [x for x in x]", "def f(x):\n return [y for y in y]"),
    ("def f(x):\n y = x\n return y", "def f(x):\n y = x\n return x"),
    ("def f(a, b):\n c = a\n d = b\n return c - d", "def f(a, b):\n c = a\n d = b\n return d - c"),
    ("def f():\n n = 1\n return n", "def f():\n global n\n n = 1\n return n"),
    ("def f(x):\n raise ValueError(x)", "def f(x):\n raise TypeError(x)"),
    ("class C:\n a: int\n b: int", "class C:\n b: int\n a: int"),
    ("class C:\n a: int = 1", "class C:\n a: ClassVar[int] = 1"),
    ("class C:\n a = 1", "class C:\n b = 1"),
    ("def f(n=1): return n", "def f(n=2): return n"),
    ("x = 1", "x = 1.0"),
    ("x = 1", "x = True"),
    ("x = 'a'", "x = b'a'"),
    ("import a.b", "import a.c"),
    ("from a import b", "from a import c as b"),
    (
        "def f(x):\n class K:\n  x = 1\n  def g(self): return x\n return K",
        "def f(x):\n class K:\n  y = 1\n  def g(self): return x\n return K",
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_by_hand(one, other):
    assert meaning_of(one) == meaning_of(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_by_hand(one, other):
    assert meaning_of(one) != meaning_of(other)


def test_what_a_source_imports():
    source = """
from typing import TYPE_CHECKING
from . import near
from ..above import name
if TYPE_CHECKING:
    import never
else:
    import checked
def function():
    import deep.module
"""
    modules = imported_by(source, "a.b")
    assert modules >= {"a.b", "a.b.near", "a.above", "a.above.name", "deep.module", "checked"}
    assert "never" not in imported_by("if TYPE_CHECKING:\n import never\n", "a")
