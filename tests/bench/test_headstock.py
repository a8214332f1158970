"""The command `headstock`: a place for every command, and what lies in the current folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click
import pytest

from bench.cli.demo import Job, Step
from bench.cli.look import find_work
from bench.results import write_session
from featstore.command_line import run_command
from featstore.testing import toy_manifest, toy_store
from headstock.__main__ import cli


def _state(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run_command(cli, "headstock", ["--json"]) == 0
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
    assert run_command(cli, "headstock", fit.split()[1:]) == 0
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

    assert run_command(cli, "headstock", []) == 0
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
