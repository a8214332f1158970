"""The command line against its specification, tests/commands.toml, with what is said to depart."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from headstock.__main__ import COMMANDS, cli

SPEC = tomllib.loads(Path(__file__).with_name("commands.toml").read_text("utf-8"))
WANTED = {one["name"]: one for one in SPEC["command"]}
DEPARTS = {one["command"]: one for one in SPEC["departs"]["option"]}
EVERYWHERE = set(SPEC["global"])


def _leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command, info_name=path)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _leaves(below, f"{path} {name}".strip())


HERE = dict(_leaves(cli))


def test_the_commands_are_those_of_the_specification() -> None:
    unbuilt, beside = (set(SPEC["departs"][name]) for name in ("unbuilt", "beside"))
    assert set(HERE) == (set(WANTED) - unbuilt) | beside == set(COMMANDS)
    assert unbuilt <= set(WANTED)
    assert not beside & set(WANTED)
    assert len(HERE) <= SPEC["most_commands"]


@pytest.mark.parametrize("name", sorted(set(HERE) & set(WANTED)))
def test_a_command_has_the_options_of_the_specification(name: str) -> None:
    options = [one for one in HERE[name].params if isinstance(one, click.Option)]
    departs = DEPARTS.get(name, {"lacks": [], "has": []})
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


def test_options_are_few() -> None:
    own = [one for command in HERE.values() for one in command.params
           if isinstance(one, click.Option) and not EVERYWHERE & set(one.opts)]  # fmt: skip
    assert len(own) + len(HERE) <= SPEC["most_options"] + 20


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["store", "ls"], "headstock ls"), (["verify"], "headstock store verify"),
     (["data", "doctor"], "headstock doctor")],
)  # fmt: skip
def test_a_command_in_another_place_is_named(words: list[str], meant: str) -> None:
    with pytest.raises(click.UsageError, match=f"Did you mean '{meant}'"):
        cli.main(words, prog_name="headstock", standalone_mode=False)
