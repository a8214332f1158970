"""Every command that writes, with faults where it writes; see `matrix`.

A sample; ``make faults`` makes every attempt (most of an hour).
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from bench.cli.demo import DEMO, TRY
from featstore.command_line import EXIT_VERIFY
from tests.faults.commands import (
    READS,
    SHARED,
    STEPS_ONLY,
    WORKERS,
    WRITES,
    Command,
    every_command,
    path_of,
)
from tests.faults.conftest import compiler
from tests.faults.matrix import beds, run_command, run_workers, sample
from tests.tables import DATA

#: Attempts at each command.
ATTEMPTS = 2

#: Commands that write as others do: those others stand for them.
ALIKE = frozenset({
    "export parquet", "export h5", "export safetensors", "data make csv", "data build",
    "rm, of two", "fit --replace", "fit, moments", "eval task", "push, behind",
})  # fmt: skip

#: Commands that meet a second fault: a few that clear up after the first.
TWICE = frozenset({"gc", "rm", "repair", "tag", "push"})

#: Commands that meet power cuts: what appends, joins, removes and publishes.
CUT = frozenset({"import, joining", "compact", "rm --items", "data build stamps", "derive"})


@pytest.fixture(scope="module")
def bed():
    for package in ("timm", "h5py", "PIL"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: every command is typed, and so needs its extra")
    if compiler() is None:
        pytest.skip("the fault-injecting layer is C for Linux; there is no compiler here")
    with beds(1) as (found,):
        yield found


def named(commands: tuple[Command, ...]) -> list[object]:
    return [pytest.param(command, id=command.name) for command in commands]


def test_every_command_writes_and_is_in_the_matrix_or_only_reads():
    writes, reads = ({path_of(command.line) for command in some} for some in (WRITES, READS))
    assert writes | reads | STEPS_ONLY == every_command()


def test_the_steps_of_the_demo_are_commands_of_the_matrix():
    known = {path_of(command.line) for command in (*WRITES, *READS)} | STEPS_ONLY
    for step in (*DEMO.commands("out"), *TRY.commands("out")):
        assert path_of(step) in known


@pytest.mark.parametrize("command", named(READS))
def test_a_command_that_reads_writes_only_caches(bed, command):
    calls = bed.calls(command, codes=(0, EXIT_VERIFY))
    assert [call for call in calls if not f"{call.split()[1]}/".startswith("cache/")] == []


@pytest.mark.parametrize("command", named((*READS, *SHARED)))
def test_a_reader_needs_no_right_to_write(bed, command):
    """Also beside what a writer that was killed behind the log left."""
    owners, readers = bed.codes(command)
    assert readers == owners, bed.said()
    assert readers in (0, EXIT_VERIFY)
    assert "Traceback" not in bed.said()


@pytest.mark.slow
@pytest.mark.parametrize("command", named(tuple(one for one in WRITES if one.name not in ALIKE)))
def test_a_fault_anywhere_and_the_same_command_again(bed, command):
    """And of some commands a second one, while it is typed again, and power cuts."""
    twice, cut = 2 * (command.name in TWICE), 12 * (command.name in CUT)
    result = run_command(bed, command, sample(17, command.name, ATTEMPTS), twice=twice, cut=cut)
    assert result.failures == [], json.dumps(result.failures, indent=1)
    assert result.made.total() - twice - cut >= min(ATTEMPTS, result.calls)
    assert (result.made["twice"], result.made["cut"]) == (twice, cut)


@pytest.mark.slow
def test_a_killed_worker_process_and_the_same_command_again(bed):
    result = run_workers(bed, next(iter(WORKERS)), 2)
    assert result.failures == [], json.dumps(result.failures, indent=1)
    assert result.made["worker"] >= 1


def test_the_document_counts_attempts_at_these_commands_and_no_others():
    document = json.loads((DATA / "reliability.json").read_text("utf-8"))
    assert [row["name"] for row in document["commands"]] == [command.name for command in WRITES]
    for row in document["commands"]:
        assert 0 < sum(row["attempts"].values()) <= row["planned"]
        assert sum(row["attempts"].values()) - sum(row["held"].values()) == len(row["failures"])
