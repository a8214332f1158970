"""The command line: results, the state of a folder, and what is recorded of a command."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click
import polars as pl
import pytest

from bench import read_results
from bench.cli.demo import Job, Step
from bench.cli.look import find_work
from bench.cli.main import recorded_command
from bench.cli.run import task_command as score_a_task
from bench.results import write_session
from featstore.testing import toy_manifest, toy_store
from headstock.__main__ import cli
from tests.typed import headstock


@pytest.fixture
def bench(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = headstock(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A small run of the smoke suite, made once by a process: its folder and what it said."""
    root = tmp_path_factory.mktemp("limited") / "r"
    code = (
        "import sys; from headstock.__main__ import main; sys.argv = ['headstock', 'eval', 'run', "
        "'smoke', '--limit', '30', '-o', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(root)]
    return root, subprocess.run(command, capture_output=True, text=True, check=True)


def test_run_then_again_reuses_everything(bench, limited):
    root, done = limited
    assert "0 reused, " in done.stdout
    assert "0 finished" in done.stderr
    assert done.stdout.endswith("\n0 False\n")  # scoring loads no torch
    stamps = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    code, out, _ = bench("eval", "run", "smoke", "-o", root, "--limit", 30, "--json")
    facts = json.loads(out)
    assert (code, facts["new"], facts["seconds"] < 60) == (0, 0, True)
    assert facts["reused"] > 0
    assert stamps == {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert facts["command"] == "headstock eval run smoke --out OUT --limit 30"
    assert json.loads(next((root / "sessions").glob("*.json")).read_text())["versions"]["polars"]
    assert set(read_results(root)["limit"]) == {30}


def test_dry_run_says_what_it_would_do_and_writes_nothing(bench, tmp_path):
    code, out, _ = bench("eval", "run", "smoke", "-o", tmp_path / "r", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out) == {"runs": 181, "reused": 0, "new": 181, "fits": 121}
    _, out, _ = bench("eval", "run", "smoke", "-o", tmp_path / "r", "--dry-run")
    assert out == "smoke: 181 runs, 0 finished, 181 new in 121 fits.\n"
    assert not (tmp_path / "r").exists()


def test_ls_and_rows(bench, smoke_results):
    code, out, _ = bench("ls", smoke_results)
    assert code == 0
    assert re.search(
        r"^smoke +181 +3 +[\d.]+ \w+ +0, 8, all  conse, kernel-ridge, ", out, re.MULTILINE
    )
    (series,) = json.loads(bench("ls", smoke_results, "--json")[1])
    assert series["n_runs"] == 181
    rows = read_results(smoke_results)
    told = json.loads(bench("eval", "table", smoke_results, "--part", "rows", "--json")[1])
    assert len(told["rows"]) == rows.height
    *shown, said = bench("eval", "table", smoke_results, "--part", "rows")[1].splitlines()
    assert said == f"and {rows.height - 200:,} more rows: --json and --format csv print all."
    assert sum(line.startswith(tuple(rows["run_id"])) for line in shown) == 200
    cell = bench("show", f"{smoke_results}:ridge/head/8")[1]
    assert "" != cell == bench("ls", smoke_results, "ridge/head/8")[1]


CHOSEN = [[], ["--where", "task=retrieval"], ["--metrics", "median_rank"]]


@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_table_fits_a_screen(bench, smoke_results, chosen):
    code, out, _ = bench("eval", "table", smoke_results, *chosen)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    headings = next(line for line in lines if line.startswith("method")).split("  ")
    assert [one.strip() for one in headings if one][-3:] == ["K = 0", "K = 8", "K = all (44)"]
    assert any(line.startswith("ConSE") for line in lines)
    assert lines[-1].endswith("ll tasks and metrics: --all.")


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_table_formats(bench, smoke_results, form):
    code, out, _ = bench("eval", "table", smoke_results, "--format", form, "--part", "results")
    assert code == 0
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        known = {"chance", "conse", "kernel-ridge", "procrustes", "ridge"}
        assert {row["method"] for row in rows} == known
    elif form == "latex":
        assert out.count(r"\\" + "\n") > 10
        assert r"\begin{tabular}" in out
    else:
        assert out.count("\n|") > 10


def test_where_leaves_the_rows_of_a_value(bench, smoke_results):
    asked = ("eval", "table", smoke_results, "--json", "--part", "comparisons", "--where")
    out = bench(*asked, "task=zero_shot", "--where", "eval=all-names")[1]
    found = {(row["task"], row["eval"]) for row in json.loads(out)["comparisons"]}
    assert found == {("zero_shot", "all-names")}


def test_report_takes_the_store_beside_the_results(bench, smoke_results, smoke_store, tmp_path):
    shutil.copytree(smoke_results, tmp_path / "r")
    shutil.copytree(smoke_store, tmp_path / "store")
    code, out, err = bench("report", tmp_path / "r")
    assert code == 0, err
    assert f"--store {tmp_path / 'store'}" in out + err
    assert (tmp_path / "r.html").is_file()


TASK = ["eval", "task", "zero_shot", "--store", "x", "-o", "y"]
BAD_USAGE = [
    (["eval", "run", "smok", "-o", "x"], ["Did you mean 'smoke'?", "--help"]),
    (["eval", "table", "R", "--part", "row"], ["Did you mean 'rows'?"]),
    (["eval", "table", "R", "--metrics", "top1"], ["Did you mean 'top-1'?"]),
    (["eval", "table", "R", "--where", "eval=heldout"], ["Did you mean 'held-out'?"]),
    (["reproduce", "dmeo"], ["Did you mean 'demo'?"]),
    (["export", "R", "-o", "a.npy"], ["-o a --format npy"]),
    (["ls", "a", "b", "c"], ["(c). See"]),
    (["eval", "run", "demo", "-o", "x"], ["'--store'", "there is no store"]),
    ([*TASK, "--method", "ridge", "-s", "mix=one"], ["mix of ridge", "got 'one'"]),
    ([*TASK, "--prompts", ""], ["'--prompts': expected VARIANT[,…][:TEMPLATE[,…]]; got ''"]),
]


@pytest.mark.parametrize(("arguments", "parts"), BAD_USAGE, ids=[" ".join(a) for a, _ in BAD_USAGE])
def test_wrong_usage_is_one_line_and_exit_2(
    bench, smoke_results, tmp_path, monkeypatch, arguments, parts
):
    monkeypatch.chdir(tmp_path)
    code, out, err = bench(*(smoke_results if word == "R" else word for word in arguments))
    assert (code, out) == (2, "")
    *progress, line = err.splitlines()
    assert all(" so far" in one for one in progress)
    assert line.startswith("headstock: error: ")
    assert all(part in line for part in parts)
    assert not list(tmp_path.iterdir())


def _state(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert headstock("--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_state_of_a_folder_is_what_was_made_there(tmp_path, monkeypatch, capsys):
    assert not any(find_work(tmp_path).values())
    assert _state(tmp_path, monkeypatch, capsys)["next"] == "headstock try"

    toy_manifest(tmp_path / "data" / "toy")
    state = _state(tmp_path, monkeypatch, capsys)
    assert [one["path"] for one in state["manifests"]] == ["data/toy"]
    assert state["next"].startswith("headstock extract data/toy ")

    keys = toy_store(tmp_path / "store", images=40, image_dim=12)
    (store,) = _state(tmp_path, monkeypatch, capsys)["stores"]
    assert store["sets"] == sorted(keys.values())
    fit = _state(tmp_path, monkeypatch, capsys)["next"]
    assert headstock(*fit.split()[1:]) == 0
    capsys.readouterr()
    state = _state(tmp_path, monkeypatch, capsys)
    assert [one["path"] for one in state["alignments"]] == ["aligners/ridge"]
    # The store has no class names of its images: no suite can be run.
    assert state["next"] == "headstock show aligners/ridge"

    for part in ("runs", "ranks"):
        (tmp_path / "results" / part).mkdir(parents=True)
    write_session(tmp_path / "results", "1", {"suite": "demo", "started": "2026-01-01T00:00:00Z"})
    state = _state(tmp_path, monkeypatch, capsys)
    (results,) = state["results"]
    at = (tmp_path / "results" / "runs").stat().st_mtime
    assert results["path"] == "results"
    assert results["suites"] == ["demo"]
    assert datetime.fromisoformat(results["changed"]).timestamp() == pytest.approx(at, abs=1e-3)
    assert state["next"] == "headstock report results --store store"

    assert headstock() == 0
    lines = capsys.readouterr().out.splitlines()
    line = lines[lines.index("STORES") + 1]
    assert re.fullmatch(rf"  store +\d{{4}}-\d\d-\d\d \d\d:\d\d  {len(keys)} sets", line)
    assert line.index(f"{len(keys)} sets") == lines[0].index("CONTENT")
    assert lines[-2] == "Next:  headstock report results --store store"

    (tmp_path / "notes.html").write_text("something else")
    (tmp_path / "report.html").write_text('<meta name="generator" content="Headstock report">')
    state = _state(tmp_path, monkeypatch, capsys)
    assert [one["path"] for one in state["reports"]] == ["report.html"]
    assert state["next"] == "headstock ls --available sources"


def test_a_job_ends_at_the_first_step_that_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a job sets it
    steps = (
        Step("Say what would be run", "headstock reproduce demo --dry-run --out OUT"),
        Step("Look at a store that is not there", "headstock ls OUT/store"),
        Step("Never begin this one", "headstock ls OUT"),
    )
    job = Job("toy", "a moment", "Report:  OUT/report.html", steps, is_quiet=True)
    with click.Context(cli):
        assert job.run("a b") == 1
    said = capfd.readouterr()
    head, *titles = re.findall(r"(?m)^(?:headstock toy|\[\d/3\]).*", said.out)
    assert head == "headstock toy: 3 steps, a moment."
    assert titles == [f"[{n}/3] {step.title}" for n, step in enumerate(steps[:2], 1)]
    assert "Report:" not in said.out
    assert "data build" not in said.out
    assert "headstock toy: `headstock ls 'a b/store'` failed with exit code 1." in said.err
    with click.Context(cli):
        assert replace(job, steps=steps[:1]).run("a b") == 0
    said = capfd.readouterr()
    assert said.out.endswith("\nReport:  'a b'/report.html\n")
    assert "data build" in said.out  # the last step is shown


def test_whatever_may_be_a_path_is_recorded_as_the_name_of_its_option(tmp_path):
    """Keys of sets have slashes, and are what a reader needs."""
    for folder in (str(tmp_path), "~/x", "../x", "C:\\x", "file:///x", "x"):
        words = ["zero_shot", "--images", "a/image/timm:r18@1", "--names", f"{folder}/../../y"]
        words += ["--store", folder, "-o", folder, "--weights", folder, "--device", "cuda:0"]
        words += ["-s", "prompts=max", "--seeds", "0-2", "-s", "locale=/x"]
        at = click.Context(cli, info_name="headstock")
        with score_a_task.make_context("eval task", words, parent=at):
            recorded = recorded_command()
        assert recorded == (
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
        assert headstock(*words) == 4 * (words[0] == "reproduce"), capsys.readouterr().err
    found = _files(out) | _files(home / "kept-results")
    assert {"r.html", "board/n.json", "board.html", "again/certificate.json"} <= set(found)
    private = re.compile("of-somebody|private-store|kept-results|" + re.escape(str(tmp_path)))
    assert not [name for name, text in found.items() if private.search(text)]
    page = found["r.html"]
    assert "headstock report OUT --suite smoke --store STORE -o report.html" in page
    assert "headstock eval task zero_shot --store STORE --out OUT" in page
    assert "--plugin PLUGINS" in page
    assert "command" not in found["board/n.json"]
