"""Values of options: lists, one value, none, and the command line that is recorded of them."""

import re
import shutil

import click
import polars as pl

from bench.cli.main import recorded_command
from bench.cli.run import task_command as score_a_task
from featstore.command_line import run_command
from headstock.__main__ import cli
from headstock.__main__ import cli as headstock


def _recorded(command, name, words):
    """Return the command line that is recorded of a command with these words."""
    with command.make_context(name, [*words], parent=click.Context(cli, info_name="headstock")):
        return recorded_command()


def test_whatever_may_be_a_path_is_recorded_as_the_name_of_its_option(tmp_path):
    """Keys of sets have slashes, and are what a reader needs."""
    for folder in (str(tmp_path), "~/x", "../x", "C:\\x", "file:///x", "x"):
        words = ["zero_shot", "--images", "a/image/timm:r18@1", "--names", f"{folder}/../../y"]
        words += ["--store", folder, "-o", folder, "--weights", folder, "--device", "cuda:0"]
        words += ["-s", "prompts=max", "--seeds", "0-2", "-s", "locale=/x"]
        assert _recorded(score_a_task, "eval task", words) == (
            "headstock eval task zero_shot --store STORE --out OUT --images a/image/timm:r18@1 "
            "--names NAMES"
            " --seeds 0,1,2 -s prompts=max -s WORDS --weights WEIGHTS --device cuda:0"
        )


def _files(root):
    """Return what lies below a folder, by name; Parquet unpacked."""
    return {
        str(path.relative_to(root)): pl.read_parquet(path).write_json()
        if path.suffix == ".parquet"
        else path.read_bytes().decode("utf-8", "replace")
        for path in root.rglob("*")
        if path.is_file()
    }


def test_what_is_shared_names_no_folder_of_this_machine(smoke_store, tmp_path, capsys, monkeypatch):
    """Results, their report, a submission, its board and a certificate."""
    home, out = tmp_path / "of-somebody", tmp_path / "out"
    store, results = str(home / "private-store"), str(home / "kept-results")
    shutil.copytree(smoke_store, store)
    # A plugin stays loaded in a process.
    monkeypatch.setattr("featstore.plugins.use_plugins", lambda _: None)
    box = home / "box.toml"
    box.write_text(
        'format = 1\nname = "b"\ntitle = "t"\nstore = {}\n'
        '[suite]\nname = "smoke"\nmethods = ["ridge"]\nlimit = 30\n[expected]\n'
        'columns = ["metric", "percent"]\nrows = [["no-metric", 1]]\n'
    )
    lines = [
        ["eval", "run", "smoke", "--store", store, "-o", results, "--method", "ridge"],
        ["eval", "task", "zero_shot", "--store", store, "-o", results, "--method", "ridge",
         "--eval", "held-out", "--source", "none,head,random", "--n-pairs", "0,8",
         "-s", "mix=1", "-s", "penalty=1", "--seeds", "0,1",
         "--plugin", str(home / "own.py")],
        ["report", results, "--suite", "smoke", "--store", store, "-o", str(out / "r.html")],
        ["eval", "submit", f"{results}:ridge/head/0:suite=smoke", "--name", "n",
         "-o", str(out / "board" / "n.json")],
        ["eval", "leaderboard", str(out / "board"), "-o", str(out / "board.html")],
        ["reproduce", str(box), "--store", store, "-o", str(out / "again")],
    ]  # fmt: skip
    for words in lines:
        code = run_command(headstock, "headstock", words)
        assert code == 4 * (words[0] == "reproduce"), capsys.readouterr().err
    found = _files(out) | _files(home / "kept-results")
    assert {"r.html", "board/n.json", "board.html", "again/certificate.json"} <= set(found)
    private = re.compile("of-somebody|private-store|kept-results|" + re.escape(str(tmp_path)))
    assert not [name for name, text in found.items() if private.search(text)]
    page = found["r.html"]
    assert "headstock report OUT --suite smoke --store STORE -o report.html" in page
    assert "headstock eval task zero_shot --store STORE --out OUT" in page
    assert "--plugin PLUGINS" in page
    assert "command" not in found["board/n.json"]
