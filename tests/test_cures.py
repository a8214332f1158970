"""What an error message tells one to type exists: commands, options, settings and keywords.

They are collected from the source, of every error that the packages make. Lines of a command are
typed as they stand; of the rest the tables below say where it is typed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from featstore.testing import toy_store
from headstock.__main__ import cli
from tests.house import PACKAGES, ROOT

#: Command -> the options that errors name beside no command.
OPTIONS = {
    "apply": "--near --scorer --set --text --unlabelled",
    "data build": "--root --subset",
    "data make": "--as",
    "eval leaderboard": "--from --metric",
    "eval run": "--dataset --dry-run",
    "eval table": "--where",
    "export": "--format --names --store",
    "extract": "--device --encoder --engine --limit --shard --weights",
    "bridge": "--out",
    "ls": "--available --plugin",
    "search": "--head",
    "show": "--quick",
    "store card": "--licence",
    "store init": "--shared",
    "store pull": "--cache-only",
    "store repair": "--copy",
    "store rm": "--yes",
    "store tag": "--delete --new-key --sign-key",
    "store verify": "--at-least --trusted-key",
}

#: What takes keyword arguments, settings of -s among them -> those that errors name.
KEYWORDS = {
    "bench.leaderboard:pack": "direction metric",
    "bench.options:Metric": "percent",
    "featstore:EmbeddingsView.__array__": "copy",
    "featstore:EncoderSpec": "layers pool space weights",
    "featstore:ExtractConfig": "batch_size device dtype jobs limit max_failures max_pixels "
    "precision thumbnails wait",
    "featstore:HeadConfig": "label_file label_set",
    "featstore:extract": "encoder kind manifest",
    "featstore:extract_many": "encoders",
    "featstore:open_store": "mode",
    "featstore.interop:import_rows": "array items",
    "fitters.cli.fit:Place": "engine",
    "fitters.settings:FitSettings": "captions criterion head head_names names",
    "fitters:Alignment.of": "facts",
    "fitters:Alignment.save": "replace",
    "fitters:Method": "version",
    "headstock:Results": "store suite",
    "headstock:Results.table": "metrics",
    "headstock:evaluate": "n_pairs prototypes",
}

#: Words of the same form that are the user's, of another program, or settings of one dataset.
OTHER = {
    "--repo-type", "birds", "field", "files", "images", "metadata", "task", "timeout", "tokens",
    "train", "views",
}  # fmt: skip

_LINE = re.compile(r"`headstock ([^`]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# Not what was got, which is put in: `got rows={}`.
_KEYWORD = re.compile(r"(?<![\w{.-])([a-z]+(?:_[a-z]+)*)=(?!=|\{\})")


def texts_in(node: ast.AST) -> Iterator[str]:
    """Yield the texts below a node; what is put into one is a pair of braces."""
    if isinstance(node, ast.JoinedStr):
        texts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield "".join(map(str, texts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        if not isinstance(node, ast.JoinedStr) or isinstance(child, ast.FormattedValue):
            yield from texts_in(child)


def messages(source: str) -> set[str]:
    """Return the texts of the errors that a module makes."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    makers = ("usage_error", "Error", "BadParameter")
    return {text for call in calls if ast.unparse(call.func).endswith(makers)
            for text in texts_in(call)}  # fmt: skip


ERRORS = {
    message
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
    for message in messages(file.read_text("utf-8"))
}
LINES = sorted({line for message in ERRORS for line in _LINE.findall(message)} - {"{}"})
ALONE = {_LINE.sub("", message) for message in ERRORS}


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words begin with, and the words behind it."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *words = words
        subcommand = command.get_command(click.Context(command), name)
        assert subcommand, f"There is no command {name}."
        command = subcommand
    return command, words


def type_line(line: str) -> None:
    """Look up the command of a line, and its options."""
    command, words = command_of(line.replace("{}", "x").replace("…", "x").split())
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= flags, line


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_an_error_names_is_a_command_with_its_options(line):
    type_line(line)


@pytest.mark.parametrize("line", ["store nothing", "store rm KEY --nothing FILE", "plan {}"])
def test_another_line_is_refused(line):
    with pytest.raises(AssertionError):
        type_line(line)


def test_options_that_errors_name_are_options():
    named = {option for message in ALONE for option in _OPTION.findall(message)}
    assert named - OTHER == set(" ".join(OPTIONS.values()).split())
    for command, options in OPTIONS.items():
        for option in options.split():
            type_line(f"{command} {option} x")


def test_keywords_that_errors_name_are_keywords():
    named = {keyword for message in ERRORS for keyword in _KEYWORD.findall(message)}
    assert named - OTHER == set(" ".join(KEYWORDS.values()).split())
    for place, keywords in KEYWORDS.items():
        module, _, path = place.partition(":")
        taker: Any = importlib.import_module(module)
        for name in path.split("."):
            taker = getattr(taker, name)
        is_dict = path.endswith("Settings")
        names = inspect.get_annotations(taker) if is_dict else inspect.signature(taker).parameters
        assert set(keywords.split()) <= names.keys(), place


def test_errors_are_read_with_what_is_put_in():
    source = "raise KeyError(f'got a={b} or {f(\"--c\")}: --d={e}')"
    assert messages(source) == {
        "got a={} or {}: --d={}", "--c",
    }  # fmt: skip
    assert not messages('print("--c")')


def test_cures_work(tmp_path, monkeypatch):
    """Those of a moment, typed in a folder with a store: each does what its error promises."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTOCK_CACHE", str(tmp_path / "cache"))
    store = toy_store(tmp_path / "store")
    [key, *_] = store.keys()
    for line in (
        "ls --available datasets", "cache --max-size 0", "store verify store",
        "store tag store one", "store tag store one --delete",
        f"store rm store {key} --yes", "store gc store",
    ):  # fmt: skip
        done = CliRunner().invoke(cli, line.split())
        assert done.exit_code == 0, (line, done.output)
