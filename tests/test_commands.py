"""The command line against its specification, tests/commands.toml, with what is said to depart."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from featstore import command_line
from headstock.__main__ import COMMANDS
from tests.house import PACKAGES
from tests.typed import commands

SPEC = tomllib.loads(Path(__file__).with_name("commands.toml").read_text("utf-8"))
WANTED = {one["name"]: one for one in SPEC["command"]}
DEPARTS = {one["command"]: one for one in SPEC["departs"]["command"]}
EVERYWHERE = set(SPEC["global"])
HERE = {" ".join(path[1:]): one for path, one in commands() if not isinstance(one, click.Group)}


def test_the_commands_are_those_of_the_specification() -> None:
    unbuilt, beside = (set(SPEC["departs"][name]) for name in ("unbuilt", "beside"))
    assert set(HERE) == (set(WANTED) - unbuilt) | beside == set(COMMANDS)
    assert unbuilt <= set(WANTED)
    assert not beside & set(WANTED)
    assert len(HERE) <= SPEC["most_commands"]


@pytest.mark.parametrize("name", sorted(set(HERE) & set(WANTED)))
def test_a_command_has_the_options_of_the_specification(name: str) -> None:
    options = [one for one in HERE[name].params if isinstance(one, click.Option)]
    departs = DEPARTS.get(name, {})
    lacks, has = (set(departs.get(which, ())) for which in ("lacks", "has"))
    wanted = set(WANTED[name]["options"])
    # What is said to depart does: no entry outlives what it is about.
    assert lacks <= wanted
    assert not has & wanted
    own = (wanted - lacks) | has
    spelled = {flag: one for one in options for flag in one.opts}
    assert own <= set(spelled)
    assert {id(one) for one in options} == {
        id(spelled[flag]) for flag in own | (EVERYWHERE & set(spelled))
    }


@pytest.mark.parametrize("name", sorted(set(HERE) & set(WANTED)))
def test_arguments_values_and_defaults_are_those_of_the_specification(name: str) -> None:
    """What stands for a value in the help, and the default that it states, in brackets."""
    context, wanted, departs = click.Context(HERE[name]), WANTED[name], DEPARTS.get(name, {})
    arguments = departs.get("arguments", wanted.get("arguments", "")).split()
    assert " ".join(HERE[name].collect_usage_pieces(context)).split() == ["[OPTIONS]", *arguments]
    for one in HERE[name].params:
        flag = max(one.opts, key=len)
        if not isinstance(one, click.Option) or flag not in SPEC["option"]:
            continue
        stated = {what: wanted.get(what, {}).get(flag, SPEC["option"][flag].get(what))
                  for what in ("metavar", "default", "words")}  # fmt: skip
        text = (one.get_help_record(context) or "  ")[1]
        shown = re.findall(r"\[(?:[^][]*; )?default: ([^]]*)\]", text)
        assert [stated["default"]] == (shown or [None]), flag
        assert stated["metavar"] == (None if one.is_flag else one.make_metavar(context)), flag
        if stated["words"] and isinstance(one.type, click.Choice):
            assert list(one.type.choices) == departs.get("words", {}).get(flag, stated["words"])
        # Bounds are in sentences.
        assert not re.search(r"<=x|x>=", str(one.get_help_record(context))), flag


def test_pages_are_those_of_the_specification() -> None:
    wanted = {one["path"] for one in SPEC["page"]}
    elsewhere = {one["path"]: one["now"] for one in SPEC["departs"]["page"]}
    assert set(elsewhere) <= wanted
    beside = {now for now in elsewhere.values() if now.startswith("docs/")}
    here = {str(page) for page in Path("docs").rglob("*.md")}
    assert here == wanted - set(elsewhere) | beside | set(SPEC["departs"]["pages"])


def test_exit_codes_are_those_of_the_specification() -> None:
    """Those of the program, and those of the document."""
    own = {v for k, v in vars(command_line).items() if k.startswith("EXIT_")}
    document = Path("docs/ref/notation.md").read_text("utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", document, re.MULTILINE)}
    assert {0, 130} | own == told == {int(code) for code in SPEC["exit"]}
    assert set().union(*(WANTED[name]["exit"] for name in HERE)) <= told


def test_variables_are_those_of_the_specification() -> None:
    read = {name for package in PACKAGES
            for path in Path(package).rglob("*.py")
            for name in re.findall(r"\bHEADSTOCK_[A-Z_]+\b", path.read_text("utf-8"))}  # fmt: skip
    document = Path("docs/ref/notation.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(HEADSTOCK_[A-Z_]+)`", document, re.MULTILINE))
    assert read == told == set(SPEC["environment"])
