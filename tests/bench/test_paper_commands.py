"""The commands that the paper suite prints for what a store lacks, and its list of experiments."""

import itertools
import shlex

import click

from bench.suites.paper import COSINE_HEADS, INAT
from featstore import open_store
from featstore.command_line import run_command
from featstore.datasets import find_builder
from featstore.options import settings_from
from headstock.__main__ import cli


def printed(store, capsys):
    """Return the commands of a dry run, as they are printed."""
    arguments = [
        "eval", "run", "paper", "--store", str(store), "-o", "results", "--dry-run",
    ]  # fmt: skip
    assert run_command(cli, "headstock", arguments) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("headstock ")]


def test_every_command_for_an_empty_store_is_one_that_the_program_takes(tmp_path, capsys):
    """With options that exist, and one extraction of a dataset's images for all encoders."""
    commands = printed(tmp_path / "store", capsys)
    made, images, program = set(), [], cli.make_context("headstock", [])
    for words in commands:
        command, names = cli.get_command(program, words[1]), words[2:]
        while isinstance(command, click.Group):
            command = command.get_command(program, names.pop(0))
        given = command.make_context(words[1], [*names], program).params
        if given.get("words"):
            settings_from(given["words"], command.settings(given))
        if words[1] == "data":
            find_builder(given["dataset"])
        if words[1] == "extract":
            given = [*itertools.pairwise(names)]
            (kind,) = (value for option, value in given if option == "--kind")
            made |= {(words[2], kind, value) for option, value in given if option == "--encoder"}
            images += [words[2]] if kind == "image" else []
    assert len(images) == len(set(images))
    own = {
        "manifests/imagenet1k-val": COSINE_HEADS,
        "manifests/pets": INAT,
        "manifests/food101": INAT,
    }
    for folder, encoders in own.items():
        assert made >= {(folder, "image", one) for one in encoders}
    assert made >= {("manifests/inat21", "head_weight", one) for one in INAT}


def test_a_dry_run_succeeds_on_any_store_and_a_run_says_what_to_do(tmp_path, capsys):
    for store in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert len(printed(store, capsys)) > 30
    assert not (tmp_path / "none").exists()
    assert not list((tmp_path / "empty").iterdir())
    made = str(tmp_path / "made")
    assert run_command(cli, "headstock", ["store", "init", made]) == 0
    assert len(printed(made, capsys)) > 30
    results = str(tmp_path / "results")
    arguments = ["eval", "run", "paper", "--store", made, "-o", results]
    assert run_command(cli, "headstock", arguments) == 1
    said = capsys.readouterr()
    assert "nothing can be run yet. --dry-run lists all that is missing" in said.err
    assert run_command(cli, "headstock", [*arguments, "--dry-run"]) == 0
    assert "--dry-run" not in capsys.readouterr().out
    assert not open_store(made).sets()


# docs/ref/boxes.md and docs/reproduce.md
