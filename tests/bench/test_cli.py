import csv
import io
import json
import re
import shutil
import subprocess
import sys

import pytest

from bench import read_results
from featstore.command_line import run_command
from headstock.__main__ import cli


@pytest.fixture
def bench(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = run_command(cli, "headstock", [str(argument) for argument in arguments])
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


def one_line(err, *parts):
    """The error is one line; what takes more than a second has said before how far it is."""
    *progress, line = err.splitlines()
    assert line.startswith("headstock: error: ")
    assert all(" so far" in one for one in progress)
    for part in parts:
        assert part in line


def test_run_then_again_reuses_everything(bench, limited):
    root, done = limited
    assert "0 reused, " in done.stdout
    assert "0 finished" in done.stderr
    stamps = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    code, out, _ = bench("eval", "run", "smoke", "-o", root, "--limit", 30, "--json")
    facts = json.loads(out)
    assert (code, facts["new"], facts["seconds"] < 60) == (0, 0, True)
    assert facts["reused"] > 0
    assert stamps == {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert facts["command"] == "headstock eval run smoke --out OUT --limit 30"
    session = json.loads(next((root / "sessions").glob("*.json")).read_text())
    assert session["versions"]["polars"]
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
        r"^smoke +181 +3 +\d+ \w+ +0, 8, all  conse, kernel-ridge, ", out, re.MULTILINE
    )
    (series,) = json.loads(bench("ls", smoke_results, "--json")[1])
    assert series["n_runs"] == 181
    rows = read_results(smoke_results)
    code, out, _ = bench("eval", "table", smoke_results, "--part", "rows", "--format", "csv")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == rows.height
    told = json.loads(bench("eval", "table", smoke_results, "--part", "rows", "--json")[1])
    assert len(told["rows"]) == rows.height


CHOSEN = [[], ["--where", "task=retrieval"], ["--metrics", "median_rank"]]


@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_table_fits_a_screen(bench, smoke_results, chosen):
    code, out, _ = bench("eval", "table", smoke_results, *chosen)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    headings = next(line for line in lines if line.startswith("method")).split("  ")
    ks = ["K = 0", "K = 8", "K = all (44)"]
    assert [one.strip() for one in headings if one][-3:] == ks
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
    (["eval", "run", "smok", "-o", "x"], ["Did you mean 'smoke'?"]),
    (["eval", "run", "demo", "-o", "x"], ["'--store'", "there is no store"]),
    ([*TASK, "--method", "ridge", "-s", "mix=one"], ["mix of ridge", "got 'one'"]),
    ([*TASK, "--prompts", ""], ["'--prompts': expected VARIANT[,…][:TEMPLATE[,…]]; got ''"]),
]


@pytest.mark.parametrize(("arguments", "parts"), BAD_USAGE, ids=[" ".join(a) for a, _ in BAD_USAGE])
def test_wrong_usage_is_one_line_and_exit_2(bench, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    one_line(err, *parts, "--help")
    assert not list(tmp_path.iterdir())


def test_scoring_loads_no_torch(limited):
    assert limited[1].stdout.endswith("0 False\n")
