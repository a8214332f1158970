"""What a module's source means to a run: its syntax without wording, and the modules it imports.

`meaning_of` writes a syntax tree such that two sources have one text if they differ in comments,
layout, docstrings, annotations, messages of errors, or the names of local variables alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import resolve_name
from typing import Any

#: Fields of nodes that decide no result. Positions are attributes, not fields.
_WORDING = {
    "annotation",
    "kind",
    "msg",
    "returns",
    "simple",
    "type_comment",
    "type_ignores",
    "type_params",
}

#: In a dataclass these annotations decide what a field is.
_FIELD_MARKS = ("ClassVar", "InitVar", "KW_ONLY")

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def meaning_of(source: str) -> str:
    r"""Return the syntax of a source without its wording.

    Left out are comments, docstrings and other bare constants, annotations, what is imported for
    type checkers alone, messages of raised errors and assertions, and help texts. Variables of a
    function, a lambda and a comprehension are numbered in the order in which they are bound, the
    parameters of a lambda with them. Parameters of a function keep their names: callers write them.

    Examples
    --------
    >>> plain = meaning_of("def area(r):\n    square = r * r\n    return 3.14 * square\n")
    >>> other = meaning_of("def area(r):  # of a disc\n    r2 = r * r\n    return 3.14 * r2\n")
    >>> plain == other
    True
    >>> plain == meaning_of("def area(r):\n    square = r * r\n    return 3.15 * square\n")
    False
    """
    writer = _Writer()
    writer.write(ast.parse(source), ())
    return "\n".join(writer.words)  # which no word has within


@dataclass(frozen=True)
class _Scope:
    """A function, lambda, comprehension or class, and what its names are written as.

    Attributes
    ----------
    written : dict of str to str
        Name → what is written for it. Names of a class are written as they are.
    is_class : bool
        Functions within a class do not see its names.
    """

    written: dict[str, str]
    is_class: bool = False


def _scope_of(
    nodes: Iterable[ast.AST],
    parameters: Iterable[tuple[str, str]],
    depth: int,
    *,
    is_lambda: bool = False,
) -> _Scope:
    """Return the scope of a function, a lambda or a comprehension at a depth of scopes."""
    bindings = _Bindings(nodes)
    parameter_names = [name for _, name in parameters]
    written: dict[str, str] = {}
    if not is_lambda:
        written.update((name, name) for name in parameter_names)
        parameter_names = []
    for name in (*parameter_names, *bindings.names):
        if name not in written and name not in bindings.declared:
            written[name] = f"${depth}.{len(written)}"
    return _Scope(written)


#: From the module inwards. The module itself has none: its names are written as they are.
_Scopes = tuple[_Scope, ...]


@dataclass
class _Writer:
    """Write nodes as words, one after another."""

    words: list[str] = field(default_factory=list)

    def write(self, node: ast.AST, scopes: _Scopes) -> None:
        if isinstance(node, _FUNCTIONS):
            self._write_function(node, scopes)
        elif isinstance(node, ast.ClassDef):
            self._write_class(node, scopes)
        elif isinstance(node, _COMPREHENSIONS):
            self._write_comprehension(node, scopes)
        elif isinstance(node, ast.AnnAssign):
            self._write_annotated(node, scopes)
        elif isinstance(node, ast.Raise):
            self._write_raise(node, scopes)
        else:
            self._write_fields(node, scopes)

    def _write_fields(self, node: ast.AST, scopes: _Scopes) -> None:
        """Write a node's type and fields; lists of statements without those that do nothing."""
        self.words.append(type(node).__name__)
        self.words.append("(")
        for name, value in ast.iter_fields(node):
            if name not in _WORDING:
                self._write_field(name, value, scopes)
        self.words.append(")")

    def _write_field(self, name: str, value: object, scopes: _Scopes) -> None:
        # Python 3.12 and 3.13 added fields that are empty where nothing is written.
        if value is None or value == []:
            return
        self.words.append(f"{name}=")
        if isinstance(value, ast.AST):
            self.write(value, scopes)
        elif isinstance(value, list) and name != "kwd_attrs":
            self._write_list(value, scopes)
        elif name in ("id", "name", "rest", "asname") and isinstance(value, str):
            self.words.append(_written(value, scopes))
        else:
            self.words.append(repr(value))

    def _write_list(self, values: Iterable[object], scopes: _Scopes) -> None:
        self.words.append("[")
        for value in values:
            if isinstance(value, ast.alias):
                self._write_import(value, scopes)
            elif isinstance(value, ast.AST) and not _is_wording(value):
                self.write(value, scopes)
            elif isinstance(value, str):  # of global and nonlocal, and of patterns for attributes
                self.words.append(_written(value, scopes))
        self.words.append("]")

    def _write_import(self, alias: ast.alias, scopes: _Scopes) -> None:
        """Write what is imported, and the name that it gets here."""
        self.words.append(repr(alias.name))
        self.words.append(_written(_bound_by(alias), scopes))

    def _write_function(self, node: Any, scopes: _Scopes) -> None:
        """Write decorators and defaults outside, the body with its own names."""
        arguments = node.args
        is_lambda = isinstance(node, ast.Lambda)
        self.words.append(type(node).__name__)
        if not is_lambda:
            self.words.append(_written(node.name, scopes))
            self._write_list(node.decorator_list, scopes)
        self._write_list(arguments.defaults, scopes)
        for default in arguments.kw_defaults:
            self.words.append("no" if default is None else "default")
            if default is not None:
                self.write(default, scopes)
        parameters = list(_parameters(arguments))
        body = [node.body] if is_lambda else node.body
        inner = (*scopes, _scope_of(body, parameters, len(scopes), is_lambda=is_lambda))
        for kind, name in parameters:
            self.words.append(f"{kind}{_written(name, inner)}")
        self._write_list(body, inner)

    def _write_class(self, node: ast.ClassDef, scopes: _Scopes) -> None:
        """Write a class; what is bound in it are attributes, which keep their names."""
        self.words.append("ClassDef")
        self.words.append(_written(node.name, scopes))
        self._write_list([*node.decorator_list, *node.bases, *node.keywords], scopes)
        attributes = {name: name for name in _Bindings(node.body).names}
        self._write_list(node.body, (*scopes, _Scope(attributes, is_class=True)))

    def _write_comprehension(self, node: Any, scopes: _Scopes) -> None:
        """Write a comprehension; its own variables are those after ``for``."""
        targets = [generator.target for generator in node.generators]
        inner = (*scopes, _scope_of(targets, [], len(scopes)))
        self.words.append(type(node).__name__)
        for position, generator in enumerate(node.generators):
            # The first iterable is evaluated outside.
            self.write(generator.iter, inner if position else scopes)
            self.write(generator.target, inner)
            self._write_list(generator.ifs, inner)
            self.words.append(f"is_async={generator.is_async}")
        for name in ("key", "value", "elt"):
            if hasattr(node, name):
                self.write(getattr(node, name), inner)

    def _write_annotated(self, node: ast.AnnAssign, scopes: _Scopes) -> None:
        """Write an annotated assignment as one without; a bare one declares a field of a class."""
        if scopes and scopes[-1].is_class:
            annotation = ast.unparse(node.annotation)
            self.words.append("field")
            self.words.extend(mark for mark in _FIELD_MARKS if mark in annotation)
            self.write(node.target, scopes)
        if node.value is not None:
            self._write_fields(ast.Assign(targets=[node.target], value=node.value), scopes)

    def _write_raise(self, node: ast.Raise, scopes: _Scopes) -> None:
        """Write which class is raised: what it says, and what it was caused by, is wording."""
        error = node.exc
        while isinstance(error, ast.Call):
            error = error.func
        self.words.append("Raise")
        if error is not None:
            self.write(error, scopes)


def _written(name: str, scopes: _Scopes) -> str:
    """Return what is written for a name; a name of the module, or of Python, as it is."""
    for depth, scope in enumerate(reversed(scopes)):
        # A class's own statements see its names, the functions within it do not.
        if name in scope.written and not (scope.is_class and depth):
            return scope.written[name]
    return name


def _is_wording(node: ast.AST) -> bool:
    """Return whether a statement or a keyword decides no result."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.keyword):
        return node.arg == "help"
    if isinstance(node, ast.ImportFrom):
        return node.module in ("__future__", "typing", "collections.abc")
    if isinstance(node, ast.Pass):
        return True
    return isinstance(node, ast.If) and _is_for_type_checkers(node)


def _is_for_type_checkers(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test) and not node.orelse


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, str]]:
    """Yield the kind of every parameter, as Python marks it, and its name."""
    for argument in arguments.posonlyargs:
        yield "/", argument.arg
    for argument in arguments.args:
        yield "", argument.arg
    for argument in arguments.kwonlyargs:
        yield "=", argument.arg
    if arguments.vararg:
        yield "*", arguments.vararg.arg
    if arguments.kwarg:
        yield "**", arguments.kwarg.arg


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


class _Bindings:
    """The names that statements bind in their own scope.

    Attributes
    ----------
    names : dict of str to None
        In the order of their binding.
    declared : set of str
        What ``global`` and ``nonlocal`` say is bound elsewhere.
    """

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self.names: dict[str, None] = {}
        self.declared: set[str] = set()
        for node in nodes:
            self._collect(node)

    def _collect(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._bind(node.name)
        elif isinstance(node, _COMPREHENSIONS):
            # What ``:=`` binds within a comprehension, it binds outside.
            for inner in ast.walk(node):
                if isinstance(inner, ast.NamedExpr):
                    self._bind(inner.target.id)
        elif isinstance(node, ast.AnnAssign):
            self._collect_annotated(node)
        elif not isinstance(node, ast.Lambda) and not _is_wording(node):
            self._collect_names_of(node)
            for child in ast.iter_child_nodes(node):
                self._collect(child)

    def _collect_annotated(self, node: ast.AnnAssign) -> None:
        self._collect(node.target)
        if node.value is not None:
            self._collect(node.value)

    def _collect_names_of(self, node: ast.AST) -> None:
        """Collect what a node binds by itself."""
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._bind(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            self._bind(node.name)
        elif isinstance(node, ast.MatchMapping):
            self._bind(node.rest)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            self.declared.update(node.names)
        elif isinstance(node, ast.alias):
            self._bind(_bound_by(node))

    def _bind(self, name: str | None) -> None:
        if name is not None:
            self.names.setdefault(name)


def imported_by(source: str, package: str) -> set[str]:
    r"""Return the modules that a source may import, in its functions, too.

    Of ``from a import b`` these are ``a`` and ``a.b``, whether there is such a module or not. What
    is imported for type checkers alone is left out.

    Parameters
    ----------
    source : str
    package : str
        What relative imports start from.

    Examples
    --------
    >>> sorted(imported_by("from .b import c\ndef f():\n    import d.e", "a"))
    ['a.b', 'a.b.c', 'd.e']
    """
    modules: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and _is_for_type_checkers(node):
            continue
        nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            modules.add(base)
            modules.update(f"{base}.{alias.name}" for alias in node.names)
    return modules
