"""Every number of every command: out of its range it is wrong usage, before a store is read.

The options are those that click has, so that a new one is tried too.
"""

import re

import click
import pytest

from bench.cli.main import run_settings
from bench.options import TASKS
from featstore.command_line import run_command
from headstock.__main__ import cli

EVAL = cli.commands["eval"]

#: What each command needs beside the option that is tried; no store is there.
NEEDED = {
    "run": "demo --store nowhere -o r",
    "task": "zero_shot --store nowhere -o r --images a --names b "
    "--method ridge,csa,kernel-ridge,procrustes,asif,conse,paper-mlp",
}

#: Values that mean something to some option, or to none.
VALUES = (
    "nan", "inf", "-inf", "-1", "0", "0.0", "1e300", "1e-400", "", " , ", "\N{SUPERSCRIPT TWO}",
    "0x10", "9" * 30, "1" + ",x" * 20_000, ",".join(map(str, range(1, 20_000))),
)  # fmt: skip

#: Those of them that are right for an option.
RIGHT = {
    "--n-pairs": {"0"}, "--seeds": {"0"},
}  # fmt: skip

NUMBERS = [
    pytest.param(command, option, id=f"{command} {option.opts[-1]}")
    for command in EVAL.lazy
    for option in EVAL.get_command(click.Context(EVAL), command).params
    if isinstance(option, click.Option)
    and (
        re.fullmatch(r"N|SEEDS|[\w-]+(\|[\w-]+)+", option.metavar or "")
        or isinstance(option.type, click.types.IntRange | click.types.FloatRange)
        or option.name == "shots"
    )
]


def test_all_commands_that_take_numbers_are_tried():
    assert {param.values[0] for param in NUMBERS} <= set(NEEDED)
    assert len(NUMBERS) > 10


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_a_value_out_of_range_is_wrong_usage(command, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flag = max(option.opts, key=len)
    lists = {"--seeds", *(["--n-pairs", "--limit"] if command != "run" else [])}
    for value in VALUES:
        code = run_command(
            cli, "headstock", ["eval", command, *NEEDED[command].split(), flag, value]
        )
        said = capsys.readouterr()
        shown = f"{flag} {value[:40]!r}: {said.err[:300]}"
        right = value in RIGHT.get(flag, ()) or (value.endswith(",19999") and flag in lists)
        # What is right goes on to the store, or to the alignment, which is not there.
        assert code == (1 if right else 2), shown
        assert ("nowhere" if right else flag) in said.err, shown
        assert said.out == "", shown
        assert said.err.startswith("headstock: error: "), shown
        assert said.err.count("\n") == 1, shown
        assert not list(tmp_path.iterdir()), shown


METHODS = NEEDED["task"].split()[-1].split(",")
OWNERS = [*TASKS, *METHODS, "a run"]


@pytest.mark.parametrize("owner", OWNERS)
def test_a_setting_out_of_range_is_wrong_usage(owner, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = owner if owner in TASKS else "zero_shot"
    for name, own in run_settings(METHODS, task)[owner].items():
        if own.type not in (int, float):
            continue
        values = ["nan", "inf", "-1", "1e300", "", "9" * 30, "9" * 5000, "1,2,x"]
        for value in values + ["0.5"] * (own.type is int):
            words = ["eval", "task", task, *NEEDED["task"].split()[1:], "-s", f"{name}={value}"]
            assert run_command(cli, "headstock", words) == 2, words
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert name in said
            assert len(said) < 400
